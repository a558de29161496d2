"""Halving of the resolution: HWD, SPD-Conv, and Ultralytics' ADown and SCDown.

Papers: Xu et al., "Haar wavelet downsampling: A simple but effective downsampling module for semantic segmentation",
Pattern Recognition 143, 2023, 109819; Sunkara and Luo, "No More Strided Convolutions or Pooling" (SPD-Conv),
ECML-PKDD 2022, https://arxiv.org/abs/2208.03641; Wang et al., "YOLOv9" (ADown), 2024,
https://arxiv.org/abs/2402.13616; Wang et al., "YOLOv10" (SCDown), 2024, https://arxiv.org/abs/2405.14458.
Origin: HWD (apple1986/HWD, no licence) and SPD-Conv (LabSAINT/SPD-Conv, MIT) are written from the formulas; ADown and
SCDown are Ultralytics', imported (AGPL-3.0, as this project).

Deliberate differences:
    - HWD's Haar transform is four sums, without a wavelet package and without buffers. Ultralytics' ``Conv`` follows
      (no bias, SiLU), where the authors have a convolution with bias, batch norm and ReLU.
    - Odd sizes get one more row or column of zeros (HWD, SPD-Conv; the authors' SPD-Conv fails on them) or of copies
      (`ADownCeil`), so that every size becomes what a strided convolution makes of it. Where sizes are even, all is as
      published.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn
from ultralytics.nn.modules.block import ADown, SCDown
from ultralytics.nn.modules.conv import Conv

from nas.ops.export import exporting
from nas.ops.gaussian import activated
from nas.ops.registry import FromSlot, register
from nas.ops.slots import check_halving, halving
from nas.ops.warm_start import CannotStart, covariance, fitted, set_norm, trained

_PARAMS = (FromSlot("k", "kernel"), FromSlot("s", "stride"))


def _quarters(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the pixels of every 2x2 cell of (N, C, H, W): upper left, upper right, lower left, lower right.

    Each is (N, C, ceil(H / 2), ceil(W / 2)); beyond the image there are zeros.
    """
    h, w = x.shape[2:]
    if exporting() or h % 2 or w % 2:
        x = nn.functional.pad(x, (0, w % 2, 0, h % 2))
    if exporting() and not torch.onnx.is_in_onnx_export():
        # NCNN has no slices with steps; in ONNX Runtime they are faster than pools.
        right = x[..., 1:]
        parts = (x, right, x[..., 1:, :], right[..., 1:, :])
        a, b, c, d = (nn.functional.max_pool2d(part, 1, 2) for part in parts)
        return a, b, c, d
    return x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]


class _OnCells(nn.Module, ABC):
    """Ultralytics' ``Conv`` on the four pixels of every 2x2 cell; (N, c1, H, W) to (N, c2, ceil(H / 2), ceil(W / 2)).

    Attributes:
        kernel: Of the convolution on cells.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size of the layer that it stands for, odd: only its start looks at it.
        s: Stride; only 2.
        act: Activation, as Ultralytics' ``Conv`` takes it.

    Raises:
        ValueError: Another kernel or stride.
    """

    kernel: int

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 2, act: bool | nn.Module = True) -> None:
        super().__init__()
        check_halving(type(self).__name__, k, s)
        self.k = k
        self.conv = Conv(4 * c1, c2, self.kernel, act=act)

    @staticmethod
    @abstractmethod
    def arranged(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """Return the channels that a cell's pixels ``a b / c d``, (N, c1, H / 2, W / 2) each, become: four times c1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halve `x`, (N, c1, H, W)."""
        y: torch.Tensor = self.conv(self.arranged(*_quarters(x)))
        return y


_HAAR = ((1, 1, 1, 1), (1, 1, -1, -1), (1, -1, 1, -1), (1, -1, -1, 1))
"""Twice the transform of a cell's pixels, in the order of `_quarters`: mean, vertical, horizontal, diagonal."""


def _start_haar(new: nn.Module, old: nn.Module) -> None:
    """Choose the kernel on the four pixels of a cell that predicts the trained one's sums best."""
    assert isinstance(new, HWD)
    conv = new.conv.conv
    c1, c2, k = conv.in_channels // 4, conv.out_channels, new.k
    layer = trained(old, c1, c2, k, 2)
    seen = torch.zeros(4, k, k)
    for quarter in range(4):  # the window's centre is the cell's upper left pixel
        seen[quarter, k // 2 + quarter // 2, k // 2 + quarter % 2] = 1
    pixels = fitted(layer.weight, seen)
    # The transform is its own inverse.
    bands = pixels @ (torch.tensor(_HAAR).to(pixels) / 2)
    conv.weight.copy_(bands.transpose(1, 2).flatten(1)[:, :, None, None])
    near = (pixels @ seen.to(pixels).flatten(1)).view_as(layer.weight)
    set_norm(new.conv.bn, *layer.moments(near), layer.gain, layer.bias)


@register(
    rule="conv",
    kinds={"down"},
    params=_PARAMS,
    paper="HWD, Pattern Recognition 2023, 109819",
    summary="Haar wavelet transform of every 2x2 cell, then a 1x1 convolution of its four bands",
    requires="an odd kernel of 3 or more with stride 2",
    fits=halving,
    start=_start_haar,
    starts="the kernel that predicts the replaced one's sums best from 2x2 pixels of its window: "
    "off by about a fifth of the output's variance on a trained YOLOv8n",
)
class HWD(_OnCells):
    """Haar wavelet downsampling; (N, c1, H, W) to (N, c2, ceil(H / 2), ceil(W / 2)).

    With the pixels ``a b / c d`` of a 2x2 cell, the bands are ``(a + b + c + d) / 2``, ``(a + b - c - d) / 2``,
    ``(a - b + c - d) / 2`` and ``(a - b - c + d) / 2``: all channels of a band, then those of the next. A 1x1
    convolution follows. Arguments and errors are those of `_OnCells`.
    """

    kernel = 1

    @staticmethod
    def arranged(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """Return the four bands."""
        upper, lower, left, right = a + b, c + d, a - b, c - d
        return torch.cat((upper + lower, upper - lower, left + right, left - right), 1) / 2


def _start_spd(new: nn.Module, old: nn.Module) -> None:
    """Write the trained kernel as one on cells: a 3x3 of cells holds all kernels up to 5x5."""
    assert isinstance(new, SPDConv)
    conv = new.conv.conv
    c1, c2, k = conv.in_channels // 4, conv.out_channels, new.k
    if k > 5:
        raise CannotStart(f"kernel {k}: a window of 3x3 cells holds kernels up to 5")
    layer = trained(old, c1, c2, k, 2)
    conv.weight.zero_()
    cells = conv.weight.view(c2, 2, 2, c1, 3, 3)  # the pixel's column in its cell, its row, the channel, the cell
    for row in range(k):
        for column in range(k):
            (y, i), (x, j) = divmod(row - k // 2, 2), divmod(column - k // 2, 2)
            cells[:, j, i, :, y + 1, x + 1] = layer.weight[:, :, row, column]
    set_norm(new.conv.bn, layer.mean, layer.var, layer.gain, layer.bias)


@register(
    rule="conv",
    kinds={"down"},
    params=_PARAMS,
    paper="SPD-Conv, ECML-PKDD 2022, arXiv:2208.03641",
    summary="every 2x2 cell becomes one pixel of four times the channels, then a 3x3 convolution",
    requires="an odd kernel of 3 or more with stride 2",
    fits=halving,
    start=_start_spd,
    starts="the replaced layer exactly, up to a kernel of 5",
)
class SPDConv(_OnCells):
    """Space to depth, then a 3x3 convolution; (N, c1, H, W) to (N, c2, ceil(H / 2), ceil(W / 2)).

    Arguments and errors are those of `_OnCells`.
    """

    kernel = 3

    @staticmethod
    def arranged(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """Return the pixels themselves, columns of a cell first."""
        return torch.cat((a, c, b, d), 1)


@register(
    rule="conv",
    kinds={"down"},
    params=_PARAMS,
    paper="YOLOv9, 2024, arXiv:2402.13616",
    summary="Ultralytics' ADown: half of the channels by a strided 3x3 convolution, half by pooling and a 1x1",
    requires="an odd kernel of 3 or more with stride 2, even numbers of channels (not the stem)",
    fits=halving,
)
class ADownCeil(ADown):  # type: ignore[misc]  # Ultralytics is untyped
    """Ultralytics' ``ADown`` for every size; (N, c1, H, W) to (N, c2, ceil(H / 2), ceil(W / 2)).

    ``ADown`` rounds odd sizes down, where everything else in a model rounds them up, and fails on one row or column.

    Args:
        c1: Input channels, even.
        c2: Output channels, even.
        k: Kernel size of the layer that it stands for, odd; its own is 3.
        s: Stride; only 2.

    Raises:
        ValueError: Odd channels, another kernel or stride.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 2) -> None:
        check_halving("ADownCeil", k, s)
        if c1 % 2 or c2 % 2:
            raise ValueError(f"ADownCeil: {c1} to {c2} channels: expected even numbers")
        super().__init__(c1, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halve `x`, (N, c1, H, W)."""
        h, w = x.shape[2:]
        if exporting() or h % 2 or w % 2:
            x = nn.functional.pad(x, (0, w % 2, 0, h % 2), mode="replicate")
        y: torch.Tensor = super().forward(x)
        return y


_LINEAR = 0.25
"""Standard deviation of what SiLU gets that is to be nearly linear, around 0."""


def _start_scdown(new: nn.Module, old: nn.Module) -> None:
    """Write every trained kernel as one channel times one pattern of taps, through a SiLU that is nearly linear."""
    assert isinstance(new, SCDown)
    point, depthwise = new.cv1, new.cv2
    c1, c2, k = point.conv.in_channels, depthwise.conv.out_channels, depthwise.conv.kernel_size[0]
    layer = trained(old, c1, c2, k, depthwise.conv.stride[0])
    # Singular vectors in whitened pixels, where the error of a kernel is a sum of squares.
    root = torch.linalg.cholesky(covariance(k, layer.weight))
    left, scale, right = torch.linalg.svd(layer.weight.flatten(2) @ root, full_matrices=False)
    channel = left[..., 0] * scale[:, :1]  # (c2, c1)
    taps = torch.linalg.solve_triangular(root.T, right[:, 0].T, upper=True).T.reshape(c2, 1, k, k)
    alone = torch.zeros_like(layer.weight)
    alone[..., k // 2, k // 2] = channel

    point.conv.weight.copy_(channel[:, :, None, None])
    depthwise.conv.weight.copy_(taps)
    mean, var = layer.moments(alone)
    rise = _LINEAR * var.clamp_min(torch.finfo(var.dtype).tiny).rsqrt()
    zero = torch.zeros_like(rise)
    set_norm(point.bn, mean, var, rise, zero)
    level, _, slope = activated(zero, zero + _LINEAR, point.act)
    rise = rise * slope  # of the linear part of what the depthwise convolution gets
    # There is no activation at the end: the trained layer's has to be a line.
    after, _, steepness = activated(layer.bias, layer.gain * layer.var.sqrt(), point.act)
    var = layer.moments(channel[:, :, None, None] * taps)[1]
    gain = steepness * layer.gain / rise.clamp_min(torch.finfo(var.dtype).tiny)
    set_norm(depthwise.bn, level * taps.sum((1, 2, 3)), rise.square() * var, gain, after)


register(
    rule="conv",
    kinds={"down"},
    params=_PARAMS,
    paper="YOLOv10, 2024, arXiv:2405.14458",
    summary="Ultralytics' SCDown: a 1x1 convolution, then a strided depthwise one",
    requires="an odd kernel of 3 or more with stride 2",
    fits=halving,
    start=_start_scdown,
    starts="the nearest kernel that is one pattern of taps an output channel, and a line for the activation: "
    "off by about a third of the output's variance on a trained YOLOv8n",
)(SCDown)
