"""Least squares on what a layer sees: which channels to keep, and the weights that then come nearest to its output.

Sources: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017,
https://arxiv.org/abs/1707.06168 (weights that reconstruct the output of the next layer from the channels that are
left); Luo et al., "ThiNet", ICCV 2017, https://arxiv.org/abs/1707.06342 (which channels: by the error of the next
layer's output, greedily, on sampled positions); Hassibi and Stork, "Second order derivatives for network pruning:
Optimal Brain Surgeon", NIPS 1992 (what the removal of a weight costs, and how the others make up for it).

Deliberate differences:
    - A convolution is linear, so the surgeon's formula is exact. With coefficients B and the covariance S of the
      inputs, the removal of the group g of inputs costs ``trace(B_g (S^-1)_gg^-1 B_g^T)`` after the others have been
      fitted again. Channels are removed one by one, always the one that costs least: no LASSO, no search for a penalty.
    - Inputs and outputs are centred: the mean of what is removed goes into a shift, which a batch norm takes up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

_SITES = 4096
"""Least number of positions that are sampled."""
_SITES_A_WEIGHT = 3
"""Positions for each input of a sum."""
_RIDGE = 1e-4
"""Of the mean variance of the inputs; added to each."""


@dataclass(frozen=True)
class Sites:
    """Sampled output positions of a layer: image, row and column, (P,) each."""

    image: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pixels (P, C) of a map (N, C, H, W), float64."""
        return x[self.image, :, self.row, self.column].double()

    def windows(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """Return what a kernel of k x k with padding ``k // 2`` and stride 1 sees, (P, C * k * k), float64."""
        if k == 1:
            return self.values(x)
        last = nn.functional.pad(x, (k // 2,) * 4).permute(0, 2, 3, 1)
        offset = torch.arange(k, device=x.device)
        rows, columns = self.row[:, None, None] + offset[:, None], self.column[:, None, None] + offset
        return last[self.image[:, None, None], rows, columns].permute(0, 3, 1, 2).flatten(1).double()


def sites(x: torch.Tensor, weights: int) -> Sites:
    """Return positions of a map (N, C, H, W) for sums of so many weights; the same for the same sizes."""
    n, _, h, w = x.shape
    drawn = torch.randperm(n * h * w, generator=torch.Generator().manual_seed(0))
    place = drawn[: max(_SITES, _SITES_A_WEIGHT * weights)].to(x.device)
    return Sites(place // (h * w), place // w % h, place % w)


def sites_where(x: torch.Tensor, weights: int, matter: torch.Tensor) -> tuple[Sites, torch.Tensor]:
    """Return positions of a map (N, C, H, W), half of them where it matters; the same for the same map.

    Args:
        x: The map.
        weights: How many weights are fitted to them.
        matter: (N, H, W) how much a position matters, 0 or more.

    Returns:
        The positions; and (P,) how much more often than by an even draw each is drawn, float64. What is counted
        divided by this counts as in an even draw.
    """
    n, _, h, w = x.shape
    count, every = max(_SITES, _SITES_A_WEIGHT * weights), n * h * w
    share = matter.flatten().double().cpu()
    often = 0.5 + 0.5 * every * share / share.sum().clamp_min(1e-12)
    if count >= every:  # each of them once
        place, often = torch.arange(every), torch.ones(every, dtype=torch.float64)
    else:
        place = torch.multinomial(often, count, replacement=True, generator=torch.Generator().manual_seed(0))
    at = place.to(x.device)
    return Sites(at // (h * w), at // w % h, at % w), often[place].to(x.device)


def _centred(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = x.mean(0)
    return x - mean, mean


def _covariance(x: torch.Tensor) -> torch.Tensor:
    """Return the covariance of centred values (P, V), with a ridge."""
    gram = x.T @ x / len(x)
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean() + 1e-12)
    return gram


@dataclass(frozen=True)
class Fit:
    """Weights that come nearest to an output: ``y ~ x @ weight.T + shift``.

    Attributes:
        weight: (o, V).
        shift: (o,).
        share: (o,) variance of what the weights make, over that of the output.
        error: Mean squared error over the variance of the output, over all of it.
    """

    weight: torch.Tensor
    shift: torch.Tensor
    share: torch.Tensor
    error: float


def fitted_to(x: torch.Tensor, y: torch.Tensor, near: torch.Tensor | None = None) -> Fit:
    """Fit weights by least squares.

    Args:
        x: (P, V) inputs.
        y: (P, o) outputs.
        near: (o, V) weights from which the result does not depart without need; zero if None.
    """
    x, x_mean = _centred(x)
    y, y_mean = _centred(y)
    start = torch.zeros(y.shape[1], x.shape[1]).to(x) if near is None else near.to(x)
    change = torch.linalg.solve(_covariance(x), x.T @ (y - x @ start.T) / len(x))
    weight = start + change.T
    made = x @ weight.T
    spread = y.square().mean(0)
    error = float((made - y).square().mean() / spread.mean().clamp_min(1e-12))
    return Fit(weight, y_mean - weight @ x_mean, made.square().mean(0) / spread.clamp_min(1e-12), error)


def kept(x: torch.Tensor, weight: torch.Tensor, classes: Sequence[tuple[torch.Tensor, int]]) -> list[torch.Tensor]:
    """Return which groups of inputs to keep so that the sums of all inputs can be made of them best.

    Args:
        x: (P, V) inputs.
        weight: (o, V) weights of the sums.
        classes: For each class of groups the inputs of its groups, (G, T), and how many groups are kept.

    Returns:
        For each class the kept groups, in ascending order.
    """
    inverse = torch.linalg.inv(_covariance(_centred(x)[0]))
    b = weight.to(x).clone()
    alive = [list(range(len(groups))) for groups, _ in classes]
    while True:
        best: tuple[float, int, int] | None = None
        for c, (groups, count) in enumerate(classes):
            if len(alive[c]) <= count:
                continue
            inputs = groups[alive[c]]  # (G, T)
            inner = inverse[inputs[:, :, None], inputs[:, None, :]]
            own = b[:, inputs].permute(1, 2, 0)  # (G, T, o)
            costs = (own * torch.linalg.solve(inner, own)).sum((1, 2))
            least = int(costs.argmin())
            if best is None or float(costs[least]) < best[0]:
                best = (float(costs[least]), c, least)
        if best is None:
            return [torch.tensor(groups, device=x.device) for groups in alive]
        _, c, place = best
        gone = classes[c][0][alive[c].pop(place)]
        right = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])  # (T, V)
        b -= b[:, gone] @ right
        inverse -= inverse[:, gone] @ right


def kept_channels(x: torch.Tensor, weight: torch.Tensor, count: int) -> torch.Tensor:
    """Return the channels of a convolution's input to keep, ascending.

    Args:
        x: (P, C * k * k) its windows, as `Sites.windows` gives them.
        weight: (o, C, k, k).
        count: How many.
    """
    channels = weight.shape[1]
    if count >= channels:
        return torch.arange(channels, device=x.device)
    groups = torch.arange(x.shape[1], device=x.device).view(channels, -1)
    (found,) = kept(x, weight.flatten(1), [(groups, count)])
    return found
