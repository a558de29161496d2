"""Warm starts: initial values of a module that takes the place of a trained layer.

A module's own initial values throw away what the replaced layer has learnt. Its *start* sets them so that it computes
what that layer computed, as nearly as its formula allows; its entry says how near (`nas.ops.registry.Entry.starts`).

What a start knows of its inputs is what the trained layer kept: a convolution's batch norm holds the mean and variance
of its sums. The rest is an assumption, `NEIGHBOUR`: channels vary independently, and the correlation of two pixels
falls with their distance. Least squares under it decides where a module cannot express the kernel that it replaces.

A start is a function ``start(new, old)`` that works in place, draws nothing from the global random state, and raises
`CannotStart` before it has changed anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nas.ops.registry import Input, entries

NEIGHBOUR = 0.5
"""Assumed correlation of neighbouring pixels of a feature map; at distance d (pixels) its d-th power."""


class CannotStart(ValueError):
    """The replaced layer is not of a kind that a start understands, or of other sizes."""


def apply_start(new: nn.Module, old: nn.Module, inputs: Input | None = None) -> bool:
    """Start `new` as near to the trained layer `old` as it can, in place.

    Args:
        new: The module that takes its place, on any device.
        old: The trained layer: Ultralytics' ``Conv``, ``C2f`` or ``SPPF``, or ``nn.Upsample``; ``nn.Identity`` for a
            module that is inserted and replaces nothing.
        inputs: The layer's input on training images, (N, C, H, W), or a list of maps, for starts that keep of a layer
            what matters on them (`nas.ops.shrink`); None where there are no images: they then make some up.

    Returns:
        Whether it did. False, and nothing is changed, if `new` is not registered or has no start, or if its start does
        not understand `old`.
    """
    entry = entries().get(type(new).__name__)
    if entry is None or entry.cls is not type(new) or not (entry.start or entry.inherit):
        return False
    try:
        with torch.no_grad():
            if entry.start is not None:
                entry.start(new, old)
            elif entry.inherit is not None:
                entry.inherit(new, old, inputs)
    except CannotStart:
        return False
    return True


@dataclass(frozen=True)
class Trained:
    """A trained convolution followed by batch norm: ``gain * (conv(x, weight) - mean) + bias``; float32.

    Attributes:
        weight: (c2, c1, k, k).
        mean: (c2,) mean of the convolution's output.
        var: (c2,) its variance.
        gain: (c2,) what the norm multiplies with: its weight over the standard deviation.
        bias: (c2,).
        inputs: (c1,) estimated means of the input's channels.
    """

    weight: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor
    gain: torch.Tensor
    bias: torch.Tensor
    inputs: torch.Tensor

    def moments(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the means and variances (c2,) that the sums of another kernel will have in this one's place.

        The means differ from the trained ones by what the difference of the kernels makes of the input's means, the
        variances by their ratio under the assumption of this file.

        Args:
            weight: (c2, c1, k, k).
        """
        change = (weight - self.weight).sum((2, 3)) @ self.inputs
        share = _power(weight) / _power(self.weight).clamp_min(torch.finfo(weight.dtype).tiny)
        return self.mean + change, self.var * share


def trained(old: nn.Module, c1: int, c2: int, k: int, s: int) -> Trained:
    """Read a trained ``Conv``.

    Args:
        old: Ultralytics' ``Conv``: ``conv`` without bias, then the batch norm ``bn``; any groups.
        c1: Its input channels.
        c2: Its output channels.
        k: Its kernel size; it pads by ``k // 2``.
        s: Its stride.

    Raises:
        CannotStart: It is something else, or of other sizes.
    """
    conv, bn = getattr(old, "conv", None), getattr(old, "bn", None)
    if not isinstance(conv, nn.Conv2d) or not isinstance(bn, nn.BatchNorm2d) or conv.bias is not None:
        raise CannotStart(f"{type(old).__name__}: expected a convolution without bias, then batch norm")
    if bn.running_mean is None or bn.running_var is None or not bn.affine:
        raise CannotStart(f"{type(old).__name__}: expected a batch norm with weights and running statistics")
    found = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    if found != (c1, c2, (k, k), (s, s), (k // 2, k // 2), (1, 1)):
        raise CannotStart(f"{type(old).__name__}: {conv}: expected {c1} to {c2} channels, kernel {k} and stride {s}")
    weight = conv.weight.detach().float()
    weight = dense(weight, conv.groups)
    mean, var = bn.running_mean.float(), bn.running_var.float()
    gain = bn.weight.detach().float() * (var + bn.eps).rsqrt()
    # The means of the sums are those of the input, times the kernel's sums: solved for the flattest input that fits.
    sums = weight.sum((2, 3))
    whole = sums.sum(1)
    level = whole @ mean / (whole @ whole).clamp_min(torch.finfo(mean.dtype).tiny)
    gram = sums @ sums.T
    gram.diagonal().add_(0.01 * gram.diagonal().mean() + 1e-12)
    inputs = level + sums.T @ torch.linalg.solve(gram, mean - whole * level)
    return Trained(weight, mean, var, gain, bn.bias.detach().float(), inputs)


def trained_like(old: nn.Module, new: nn.Module) -> Trained:
    """Read a trained ``Conv`` that is of the sizes of the ``Conv`` `new`.

    Raises:
        CannotStart: It is something else, or of other sizes.
    """
    conv = new.conv
    assert isinstance(conv, nn.Conv2d)
    return trained(old, conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0])


def copy_conv(new: nn.Module, layer: Trained) -> None:
    """Let the ``Conv`` `new` be a trained one of its sizes."""
    assert isinstance(new.conv, nn.Conv2d)
    assert isinstance(new.bn, nn.BatchNorm2d)
    new.conv.weight.copy_(layer.weight)
    set_norm(new.bn, layer.mean, layer.var, layer.gain, layer.bias)


def bottlenecks_of(old: nn.Module, adds: list[bool]) -> nn.ModuleList:
    """Return the bottlenecks of a trained ``C2f``.

    Args:
        old: The block.
        adds: Of every bottleneck that is expected, whether it adds its input.

    Raises:
        CannotStart: It is no such block.
    """
    found = getattr(old, "m", None)
    if not isinstance(found, nn.ModuleList) or len(found) != len(adds):
        raise CannotStart(f"{type(old).__name__}: expected a C2f of {len(adds)} bottlenecks")
    for bottleneck, add in zip(found, adds, strict=True):
        if getattr(bottleneck, "add", None) != add:
            raise CannotStart(f"{type(bottleneck).__name__}: expected a bottleneck with shortcut={add}")
    return found


def dense(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Return a kernel of groups as that of a plain convolution, with zeros between the groups.

    Args:
        weight: (c2, c1 / groups, k, k).
        groups: Groups of channels.

    Returns:
        (c2, c1, k, k).
    """
    if groups == 1:
        return weight
    c2, c1 = weight.shape[0], weight.shape[1] * groups
    rows = torch.arange(c2, device=weight.device) // (c2 // groups)
    columns = torch.arange(c1, device=weight.device) // (c1 // groups)
    return weight.repeat(1, groups, 1, 1) * (rows.unsqueeze(1) == columns)[:, :, None, None]


def within(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Return what groups of channels hold of a plain kernel: the nearest that a convolution of groups comes to it.

    Nearest under the assumption that channels vary independently; see this file.

    Args:
        weight: (c2, c1, k, k).
        groups: Groups of channels.

    Returns:
        (c2, c1 / groups, k, k).
    """
    c2, c1, *size = weight.shape
    blocks = weight.view(groups, c2 // groups, groups, c1 // groups, *size)
    return torch.cat([blocks[g, :, g] for g in range(groups)])


def set_norm(bn: nn.BatchNorm2d, mean: torch.Tensor, var: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor) -> None:
    """Let `bn` compute ``gain * (x - mean) + bias`` of values with these moments, each (c,).

    With the statistics of a batch, if it has these moments, it computes the same.
    """
    assert bn.running_mean is not None
    assert bn.running_var is not None
    bn.running_mean.copy_(mean)
    bn.running_var.copy_(var)
    bn.weight.copy_(gain * (var + bn.eps).sqrt())
    bn.bias.copy_(bias)


def covariance(k: int, like: torch.Tensor) -> torch.Tensor:
    """Return the assumed covariance of the pixels under a kernel, (k * k, k * k), rows first; they have variance 1.

    Args:
        k: Size of the kernel.
        like: A tensor of the dtype and device.
    """
    line = torch.arange(k, dtype=like.dtype, device=like.device)
    points = torch.cartesian_prod(line, line).view(-1, 2)
    return torch.pow(torch.tensor(NEIGHBOUR), torch.cdist(points, points)).to(like)


def fitted(weight: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Return the combination of what is seen of a window that comes nearest to a kernel on it.

    Least squares under the assumed covariance of pixels, for each pair of channels by itself.

    Args:
        weight: (c2, c1, k, k) the kernel.
        seen: (T, k, k) weights by which the window's pixels make up each value that is seen.

    Returns:
        (c2, c1, T).
    """
    values = seen.flatten(1).to(weight)
    shared = covariance(weight.shape[3], weight) @ values.T  # (k * k, T)
    found: torch.Tensor = torch.linalg.solve(values @ shared, (weight.flatten(2) @ shared).unsqueeze(3))
    return found.squeeze(3)


def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return how the sums of two kernels on one input correlate, channel by channel, under the assumed covariance.

    Args:
        first: (c2, c1, k, k).
        second: The same.

    Returns:
        (c2,) from -1 to 1.
    """
    cov = covariance(first.shape[3], first)
    both = (first.flatten(2) @ cov * second.flatten(2)).sum((1, 2))
    return both * (_power(first) * _power(second)).clamp_min(torch.finfo(both.dtype).tiny).rsqrt()


def _power(weight: torch.Tensor) -> torch.Tensor:
    """Return the variances (c2,) of the sums of a kernel (c2, c1, k, k), for independent inputs of variance 1."""
    taps = weight.flatten(2)
    return (taps @ covariance(weight.shape[3], taps) * taps).sum((1, 2))


def upsampled(old: nn.Module, scale: int) -> None:
    """Check that `old` is nearest upsampling.

    Raises:
        CannotStart: It is something else, or of another scale.
    """
    if not isinstance(old, nn.Upsample) or not old.mode.startswith("nearest") or old.size is not None:
        raise CannotStart(f"{type(old).__name__}: expected nn.Upsample(scale_factor={scale}, mode='nearest')")
    factor = old.scale_factor if isinstance(old.scale_factor, tuple) else (old.scale_factor,)
    if any(f != scale for f in factor):
        raise CannotStart(f"{type(old).__name__}: scale {old.scale_factor}: expected {scale}")
