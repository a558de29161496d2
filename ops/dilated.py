"""Convolutions with holes: a plain one, and MDCR, which mixes four of different dilation.

Paper of MDCR: Xu et al., "HCF-Net: Hierarchical Context Fusion Network for Infrared Small Object Detection", ICME 2024,
https://arxiv.org/abs/2403.10778. Dilated convolution: Yu and Koltun, ICLR 2016, https://arxiv.org/abs/1511.07122.
Origin: written from the formulas; zhengshuchen/HCFNet is Apache-2.0.

Deliberate differences of MDCR:
    - As many groups as the greatest common divisor of the quarters' channels allows, where the authors fix 128.
    - The dilations are the paper's 1, 6, 12 and 18, and the norms batch norms; the authors' ``rate`` and ``norm_type``
      are not arguments here.
    - All of its convolutions are Ultralytics' ``Conv`` (no bias, SiLU), which ``fuse()`` folds.
    - The norm that all groups of four share takes its statistics over all of them, as it is used for inference, where
      the authors' takes those of one group after another. It is one small convolution, not one per group.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from nas.ops.registry import Arg, FromSlot, register
from nas.ops.slots import check_kernel, check_least, odd_kernel, odd_kernel_in_place
from nas.ops.warm_start import fitted, set_norm, trained

_RATES = (1, 6, 12, 18)


def _start(new: nn.Module, old: nn.Module) -> None:
    """Choose the kernel that predicts the trained one's sums best from the pixels that it sees."""
    assert isinstance(new, DilatedConv)
    conv = new.conv
    k, d = conv.kernel_size[0], conv.dilation[0]
    layer = trained(old, conv.in_channels, conv.out_channels, k, conv.stride[0])
    margin = (d - 1) * (k // 2)
    window = nn.functional.pad(layer.weight, (margin,) * 4)
    seen = torch.zeros(k * k, *window.shape[2:])
    for tap in range(k * k):
        seen[tap, d * (tap // k), d * (tap % k)] = 1
    weight = fitted(window, seen)
    conv.weight.copy_(weight.view_as(conv.weight))
    near = (weight @ seen.to(weight).flatten(1)).view_as(window)
    wide = type(layer)(window, layer.mean, layer.var, layer.gain, layer.bias, layer.inputs)
    set_norm(new.bn, *wide.moments(near), layer.gain, layer.bias)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(
        FromSlot("k", "kernel"),
        FromSlot("s", "stride"),
        Arg("dilation", 2, "pixels from tap to tap", low=1, high=8),
    ),
    paper="Dilated convolution, ICLR 2016, arXiv:1511.07122",
    summary="convolution with holes: a larger window for the same arithmetic",
    requires="an odd kernel of 3 or more",
    fits=odd_kernel,
    start=_start,
    starts="the kernel that predicts the replaced one's sums best from pixels that are further apart: "
    "off by about a sixth of the output's variance on a trained YOLOv8n",
)
class DilatedConv(Conv):  # type: ignore[misc]  # Ultralytics is untyped
    """Ultralytics' ``Conv`` with dilation; (N, c1, H, W) to (N, c2, ceil(H / s), ceil(W / s)).

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size, odd.
        s: Stride.
        dilation: Pixels from tap to tap.
        act: Activation, as Ultralytics' ``Conv`` takes it.

    Raises:
        ValueError: An even kernel, or a stride or dilation below 1.
    """

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, dilation: int = 2, act: bool | nn.Module = True
    ) -> None:
        check_kernel("DilatedConv", k, s)
        check_least("DilatedConv", dilation=dilation)
        super().__init__(c1, c2, k, s, d=dilation, act=act)


@register(
    rule="conv",
    kinds={"conv"},
    params=(FromSlot("k", "kernel"), FromSlot("s", "stride")),
    paper="HCF-Net, ICME 2024, arXiv:2403.10778",
    summary="four quarters of the channels with dilations 1, 6, 12 and 18, mixed",
    requires="an odd kernel of 3 or more with stride 1, numbers of channels that 4 divides",
    fits=odd_kernel_in_place,
)
class MDCR(nn.Module):
    """Multi-dilated channel refiner; (N, c1, H, W) to (N, c2, H, W).

    A quarter of the channels goes through a grouped convolution of each dilation. Channel j of all four makes a group,
    which a 4 to 4 convolution mixes, the same for all j; a 1x1 convolution mixes all.

    Args:
        c1: Input channels, a multiple of 4.
        c2: Output channels, a multiple of 4.
        k: Kernel size, odd.
        s: Stride; only 1.
        act: Activation, as Ultralytics' ``Conv`` takes it.

    Raises:
        ValueError: Other channels, an even kernel, or a stride.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, act: bool | nn.Module = True) -> None:
        super().__init__()
        check_kernel("MDCR", k, s, strides=False)
        if c1 % 4 or c2 % 4:
            raise ValueError(f"MDCR: {c1} to {c2} channels: expected multiples of 4")
        groups = math.gcd(c1 // 4, c2 // 4)
        self.blocks = nn.ModuleList(Conv(c1 // 4, c2 // 4, k, g=groups, d=rate, act=act) for rate in _RATES)
        self.out_s = Conv(4, 4, 1, act=act)
        self.out = Conv(c2, c2, 1, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        parts = [block(part) for block, part in zip(self.blocks, x.chunk(4, 1), strict=True)]
        groups = torch.stack(parts, 2)  # (N, c2 / 4, 4, H, W)
        mixed = torch.unflatten(self.out_s(groups.flatten(0, 1)), 0, groups.shape[:2])
        y: torch.Tensor = self.out(mixed.flatten(1, 2))
        return y
