"""Starts of lighter heads: of each branch of the trained one, the channels that its predictions need most.

See `nas.ops.shrink`. The convolution that predicts is fitted to what a head is judged by: the cross-entropy of the
classes with the trained probabilities, over all positions; and of the distributions of the sides with the trained ones,
where the trained head sees objects. Both are convex, and begin from least squares on the logits.

A dense 3x3 convolution becomes a depthwise and a 1x1: the depthwise kernel of a channel is the direction in which the
trained kernels that take this channel agree most (the first singular vector), and the 1x1 convolution is fitted to the
trained sums. A depthwise and a 1x1 become a dense one that is fitted to the trained sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules.head import Detect

from nas.ops.reconstruct import fitted_to, kept_channels, sites, sites_where
from nas.ops.registry import Input
from nas.ops.shrink import on_copies, plain, refit, take_rows
from nas.ops.warm_start import CannotStart, set_norm

_STEPS, _NEAR = 50, 1e-4
"""Of the fit of a prediction: most steps, and the price of a squared departure from least squares."""
_LEVEL = 1.0
"""Mean of the sums of a depthwise convolution over their deviation: there SiLU is nearly a line."""


@on_copies
def inherit_light(new: Any, old: nn.Module, inputs: Input) -> None:
    """Keep the channels of the branches, each level for itself."""
    maps = _checked(new, old, inputs)
    where, bins = _confidence(old, maps), int(new.reg_max)
    for name in ("cv2", "cv3"):
        for mine, theirs, x, seen in zip(getattr(new, name), getattr(old, name), maps, where, strict=True):
            made, target = _inherit_branch(mine, theirs, x)
            _predict(mine[2], made, target, seen, bins if name == "cv2" else 0)


@on_copies
def inherit_shared(new: Any, old: nn.Module, inputs: Input) -> None:
    """Give its norms the statistics of their inputs, and fit the predictions; the tower keeps its initial values."""
    maps = _checked(new, old, inputs)
    seen = [_normed(stem.bn, stem.conv(x), stem.act) for stem, x in zip(new.stems, maps, strict=True)]
    for conv in new.tower:
        seen = [_normed(conv.norms[level], conv.conv(x), conv.act) for level, x in enumerate(seen)]
    where, bins = _confidence(old, maps), int(new.reg_max)
    for name in ("cv2", "cv3"):
        for mine, theirs, x, was, sure in zip(getattr(new, name), getattr(old, name), seen, maps, where, strict=True):
            _predict(mine[-1], x, theirs(was), sure, bins if name == "cv2" else 0)


def _confidence(old: Any, maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return for each level the largest class probability of the trained head, (N, H, W)."""
    return [branch(x).sigmoid().amax(1) for branch, x in zip(old.cv3, maps, strict=True)]


def _checked(new: Any, old: nn.Module, inputs: Input) -> list[torch.Tensor]:
    """Return the maps of a head.

    Raises:
        CannotStart: The trained head is another one.
    """
    if not isinstance(old, Detect) or type(old) is not Detect or getattr(old, "one2one_cv2", None) is not None:
        raise CannotStart(f"{type(old).__name__}: expected Detect with one set of branches")
    if not isinstance(inputs, list) or len(inputs) != len(old.cv2):
        raise CannotStart(f"{type(old).__name__}: expected a map for each level")
    if (new.nc, new.nl, new.reg_max) != (old.nc, old.nl, old.reg_max):
        raise CannotStart(f"{type(old).__name__}: expected {new.nc} classes and {new.nl} levels")
    for name in ("cv2", "cv3"):
        for mine, theirs, x in zip(getattr(new, name), getattr(old, name), inputs, strict=True):
            if len(theirs) != 3 or _Stage(theirs[0]).inputs != x.shape[1] or type(theirs[2]) is not nn.Conv2d:
                raise CannotStart(f"{type(old).__name__}: expected branches of three stages, for these maps")
            if hasattr(new, "features"):
                if [stem.conv.in_channels for stem in new.stems] != [m.shape[1] for m in inputs]:
                    raise CannotStart(f"{type(old).__name__}: expected levels of other channels")
                continue
            if _Stage(mine[0]).inputs != x.shape[1]:
                raise CannotStart(f"{type(old).__name__}: expected levels of other channels")
            if any(_Stage(mine[i]).outputs > _Stage(theirs[i]).outputs for i in range(2)):
                raise CannotStart(f"{type(old).__name__}: expected branches that are as wide")
    return inputs


class _Stage:
    """A convolution of a branch, dense or depthwise and 1x1.

    Attributes:
        before: The depthwise one; None if there is none.
        conv: The other one.
    """

    def __init__(self, stage: nn.Module) -> None:
        parts = list(stage) if isinstance(stage, nn.Sequential) else [stage]
        if len(parts) not in (1, 2):
            raise CannotStart(f"{type(stage).__name__}: expected a convolution, or a depthwise and a 1x1")
        self.before = plain(parts[0], 3) if len(parts) == 2 else None
        self.conv = plain(parts[-1], 1 if self.before else 3)

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return int(self.conv.conv.in_channels)

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return int(self.conv.conv.out_channels)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the last convolution takes."""
        y: torch.Tensor = self.before(x) if self.before else x
        return y


def _inherit_branch(new: Any, old: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the channels of a branch that the prediction needs most, from its end to its beginning; then fit it.

    Returns:
        What it predicts from, and what the trained branch predicts.
    """
    first, second, last = _Stage(old[0]), _Stage(old[1]), old[2]
    mine = _Stage(new[0]), _Stage(new[1])
    was = old[0](x)
    inner = second.seen(was)
    out = old[1](was)
    at = sites(out, last.in_channels)
    rows = kept_channels(at.values(out), last.weight, mine[1].outputs)
    at = sites(inner, second.conv.conv.weight[0].numel())
    seen = at.windows(inner, second.conv.conv.kernel_size[0])
    columns = kept_channels(seen, second.conv.conv.weight[rows], mine[0].outputs)
    every = torch.arange(x.shape[1], device=x.device)
    _inherit_stage(mine[0], first, x, x, columns, every)
    made = new[0](x)
    _inherit_stage(mine[1], second, made, was, rows, columns)
    return new[1](made), last(out)


def _inherit_stage(
    new: _Stage, old: _Stage, x: torch.Tensor, was: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> None:
    """Start a stage: its output channels are `rows` of the old one's, its input channels `columns`."""
    if new.before is None and old.before is not None:
        # No kernel of the trained stage stands where the new one's is: as every class branch of Ultralytics 8.3.0.
        refit(new.conv, old.conv, x, old.seen(was), rows)
    elif new.before is None:
        refit(new.conv, old.conv, x, was, rows, columns)
    elif old.before is not None:
        take_rows(new.before, old.before, columns)
        refit(new.conv, old.conv, new.seen(x), old.seen(was), rows, columns)
    else:
        kernels = old.conv.conv.weight[rows][:, columns].flatten(2).transpose(0, 1)  # (inputs, outputs, 9)
        line = torch.linalg.svd(kernels, full_matrices=False).Vh[:, 0]
        line = line * torch.where(line.sum(1, keepdim=True) < 0, -1.0, 1.0)
        depthwise = new.before.conv
        depthwise.weight.copy_(line.view_as(depthwise.weight))
        _normed(new.before.bn, depthwise(x), new.before.act, _LEVEL)
        refit(new.conv, old.conv, new.seen(x), was, rows)


def _normed(bn: nn.BatchNorm2d, sums: torch.Tensor, act: nn.Module, bias: float = 0.0) -> torch.Tensor:
    """Give a batch norm the statistics of its input, deviation 1 and a mean; return what comes behind it."""
    var, mean = torch.var_mean(sums, (0, 2, 3))
    set_norm(bn, mean, var, (var + bn.eps).rsqrt(), torch.full_like(mean, bias))
    y: torch.Tensor = act(bn(sums))
    return y


def _predict(new: nn.Conv2d, x: torch.Tensor, target: torch.Tensor, confidence: torch.Tensor, bins: int) -> None:
    """Fit the convolution that predicts.

    Args:
        new: The convolution.
        x: (N, c, H, W) what it predicts from.
        target: (N, o, H, W) the trained logits.
        confidence: (N, H, W) the largest class probability of the trained head.
        bins: Bins of the distribution of a side; 0 for classes.
    """
    assert new.bias is not None
    at, often = sites_where(x, new.in_channels, confidence)
    values, wanted = at.values(x), at.values(target)
    fit = fitted_to(values, wanted)
    weight, shift = fit.weight, fit.shift
    if bins != 1:  # one bin is a distance, no distribution
        counts = (at.values(confidence[:, None])[:, 0] if bins else 1.0) / often
        mean, scale = values.mean(0), values.std(0).clamp_min(1e-6)
        near, level = _least_entropy(
            (values - mean) / scale, weight * scale, shift + weight @ mean, wanted, counts / counts.sum(), bins
        )
        weight, shift = near / scale, level - (near / scale) @ mean
    new.weight.copy_(weight.view_as(new.weight))
    new.bias.copy_(shift)


def _least_entropy(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, logits: torch.Tensor, counts: torch.Tensor, bins: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights and biases with less cross-entropy than given ones, and not far from them, by L-BFGS.

    Args:
        x: (P, c) inputs, standardised.
        weight: (o, c).
        bias: (o,).
        logits: (P, o) the trained logits.
        counts: (P,) how much a position counts; their sum is 1.
        bins: As `_predict`.
    """
    near, level = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    truth = logits.view(len(x), -1, bins).softmax(2) if bins else logits.sigmoid()
    optimizer = torch.optim.LBFGS([near, level], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        made = x @ near.T + level
        if bins:
            each = -(truth * made.view_as(truth).log_softmax(2)).sum((1, 2))
        else:
            each = nn.functional.binary_cross_entropy_with_logits(made, truth, reduction="none").sum(1)
        return counts @ each + _NEAR * (near - weight).square().sum()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        found = loss()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    with torch.enable_grad():
        before = float(loss().detach())
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        after = float(loss().detach())
    return (near.detach(), level.detach()) if after < before else (weight, bias)
