"""What activations make of sums that are normally distributed, as a batch norm's outputs nearly are.

Starts (`nas.ops.warm_start`) of modules that have more activations in a row than the layer that they replace need it.
"""

from __future__ import annotations

import torch
from torch import nn

_NODES = 161
"""Points by which expectations of a normal variable are summed."""
_TURNS = 12
"""Steps of a fit; it is through after half as many."""


def _normal(mean: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values (c, T) of normal variables, by their means and standard deviations (c,), and weights (T,)."""
    node = torch.linspace(-5, 5, _NODES, dtype=mean.dtype, device=mean.device)
    return mean.unsqueeze(1) + spread.unsqueeze(1) * node, torch.softmax(-node.square() / 2, 0)


def activated(
    bias: torch.Tensor, spread: torch.Tensor, act: nn.Module
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what an activation makes of normal variables.

    Args:
        bias: (c,) their means.
        spread: (c,) their standard deviations; the sign does not matter.
        act: The activation.

    Returns:
        The means (c,) and variances of its output, and the slope of its regression on the input.
    """
    z, weight = _normal(bias, spread)
    y = act(z)
    mean = y @ weight
    shift = y - mean.unsqueeze(1)
    tiny = torch.finfo(mean.dtype).tiny
    slope = ((z - bias.unsqueeze(1)) * shift) @ weight / spread.square().clamp_min(tiny)
    return mean, shift.square() @ weight, slope


def again(act: nn.Module, bias: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the line behind which an activation that is applied a second time changes least.

    Args:
        act: The activation.
        bias: (c,) means of the normal variables z that it is applied to first.
        spread: (c,) their standard deviations; the sign does not matter.

    Returns:
        The slopes a and offsets b, (c,) each, for which ``act(a * act(z) + b)`` comes nearest to ``act(z)``.
    """
    z, weight = _normal(bias, spread)
    y = act(z)
    return _line(act, y, y, weight, torch.ones_like(bias), torch.zeros_like(bias))


def predicted(
    act: nn.Module, bias: torch.Tensor, spread: torch.Tensor, share: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the line in one variable behind which an activation says most of that of another variable.

    Args:
        act: The activation.
        bias: (c,) means of the normal variables z that it is to be predicted of.
        spread: (c,) their standard deviations, with any sign.
        share: (c,) their correlations with the variables u, of mean 0 and variance 1, that predict them.

    Returns:
        The slopes a and offsets b, (c,) each, for which ``act(a * u + b)`` comes nearest to ``act(z)``.
    """
    u, weight = _normal(torch.zeros_like(bias), torch.ones_like(bias))
    known = bias.unsqueeze(1) + (share * spread).unsqueeze(1) * u
    unknown = (spread.abs() * (1 - share.square()).clamp_min(0).sqrt()).unsqueeze(1).expand_as(known)
    target = activated(known.flatten(), unknown.flatten(), act)[0].view_as(known)
    return _line(act, u, target, weight, share * spread, bias)


def _line(
    act: nn.Module, x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Improve a (c,) and b (c,) until ``act(a * x + b)`` is nearest to `target`, (c, T) as x, by Gauss and Newton."""
    step = 1e-3
    for _ in range(_TURNS):
        line = a.unsqueeze(1) * x + b.unsqueeze(1)
        rest = act(line) - target
        rise = (act(line + step) - act(line - step)) / (2 * step)
        by = torch.stack((rise * x, rise), 1)  # (c, 2, T)
        gram = (by * weight) @ by.mT
        gram.diagonal(dim1=1, dim2=2).add_(1e-4 * gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-9)
        change = torch.linalg.solve(gram, (by * weight) @ rest.unsqueeze(2)).squeeze(2).clamp(-1, 1)
        a, b = a - change[:, 0], b - change[:, 1]
    return a, b
