"""DualConv and HetConv: a grouped kernel, and a 1x1 kernel for the channels that it does not see.

Papers: Zhong et al., "DualConv: Dual Convolutional Kernels for Lightweight Deep Neural Networks", TNNLS 2022,
https://arxiv.org/abs/2202.07481; Singh et al., "HetConv: Heterogeneous Kernel-Based Convolutions for Deep CNNs", CVPR
2019, https://arxiv.org/abs/1903.04120.
Origin: written from the formulas; DualConv's state keys are those of ChipsGuardian/DualConv (AGPL-3.0).

Deliberate differences:
    - Batch norm and activation follow, so that they stand in for Ultralytics' ``Conv``; its ``fuse()`` folds the norm.
    - Any odd kernel. The groups are the largest common divisor of both numbers of channels up to what is asked for, so
      that every width works.
    - HetConv's output channels see neighbouring input channels by k x k, where the paper has every P-th; this is the
      same up to the order of channels, and a grouped convolution. Its 1x1 is one dense convolution with zeros where the
      grouped kernel already looks: it spends 1 / P of a 1x1 more than the paper counts, and no loop.
"""

from __future__ import annotations

import torch
from torch import nn

from nas.ops.activation import activation
from nas.ops.registry import Arg, FromSlot, register
from nas.ops.reparam import Fusible, folded
from nas.ops.slots import check_kernel, check_least, divisor, odd_kernel
from nas.ops.warm_start import fitted, set_norm, trained, within


def _start(new: nn.Module, old: nn.Module) -> None:
    """Keep the kernels that the groups hold; let the 1x1 predict from the centre what the others would give."""
    assert isinstance(new, DualConv)
    c1, c2, k, groups = new.gc.in_channels, new.gc.out_channels, new.gc.kernel_size[0], new.gc.groups
    layer = trained(old, c1, c2, k, new.gc.stride[0])
    weight = layer.weight
    centre = torch.zeros(1, k, k)
    centre[0, k // 2, k // 2] = 1
    own = _block_diagonal(c1, c2, groups).to(weight.device)
    point = fitted(weight, centre).masked_fill(own.unsqueeze(2), 0)
    new.gc.weight.copy_(within(weight, groups))
    new.pwc.weight.copy_(point.unsqueeze(3))
    near = torch.where(own[:, :, None, None], weight, point.unsqueeze(3) * centre.to(weight))
    set_norm(new.bn, *layer.moments(near), layer.gain, layer.bias)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(
        FromSlot("k", "kernel"),
        FromSlot("s", "stride"),
        Arg(
            "g", 4, "groups of the large kernel, or the largest number below that divides the channels", low=1, high=64
        ),
    ),
    paper="DualConv, TNNLS 2022, arXiv:2202.07481",
    summary="grouped 3x3 convolution plus a 1x1 convolution of all channels",
    requires="an odd kernel of 3 or more",
    fits=odd_kernel,
    start=_start,
    starts="the replaced kernel within the groups and the nearest 1x1 elsewhere: "
    "off by about a quarter of the output's variance on a trained YOLOv8n",
)
class DualConv(Fusible):
    """Grouped convolution plus 1x1 convolution, batch norm, activation.

    Input (N, c1, H, W), output (N, c2, ceil(H / s), ceil(W / s)): ``y = act(bn(gc(x) + pwc(x)))``.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size of the grouped convolution, odd.
        s: Stride.
        g: Groups: the largest common divisor of c1 and c2 that is not above it.
        act: Activation, as `nas.ops.activation.activation` takes it.

    Raises:
        ValueError: An even kernel, or a stride or g below 1.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 4, act: bool | nn.Module = True) -> None:
        super().__init__()
        check_kernel(type(self).__name__, k, s)
        check_least(type(self).__name__, g=g)
        self.gc = nn.Conv2d(c1, c2, k, s, k // 2, groups=divisor(g, c1, c2), bias=False)
        self.pwc = nn.Conv2d(c1, c2, 1, s, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        y: torch.Tensor = self.act(self.bn(self.gc(x) + self.pwc(x)))
        return y

    def forward_fuse(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x` once the norm is folded."""
        y: torch.Tensor = self.act(self.gc(x) + self.pwc(x))
        return y

    def fuse_convs(self) -> None:
        """Fold the norm into the two convolutions. They stay two: one dense kernel would cost more."""
        if not hasattr(self, "bn"):
            return
        gain, bias = folded(self.bn)
        with torch.no_grad():
            for conv in (self.gc, self.pwc):
                conv.weight.mul_(gain.view(-1, 1, 1, 1))
        self.gc.bias = nn.Parameter(bias.detach(), requires_grad=False)
        del self.bn


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(
        FromSlot("k", "kernel"),
        FromSlot("s", "stride"),
        Arg(
            "p",
            4,
            "one input channel in p is seen by the large kernel, or in the largest divisor below",
            low=2,
            high=64,
        ),
    ),
    paper="HetConv, CVPR 2019, arXiv:1903.04120",
    summary="every filter is 3x3 on one part of the input channels and 1x1 on the others",
    requires="an odd kernel of 3 or more, numbers of channels with a common divisor (not the stem)",
    fits=odd_kernel,
    start=_start,
    starts="the replaced kernel where it stays 3x3 and the nearest 1x1 elsewhere: "
    "off by about a quarter of the output's variance on a trained YOLOv8n",
)
class HetConv(DualConv):
    """Heterogeneous convolution, batch norm, activation.

    Input (N, c1, H, W), output (N, c2, ceil(H / s), ceil(W / s)). Filter o is k x k on the input channels i with
    ``i // (c1 / p) = o // (c2 / p)``, and 1x1 on the others.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size, odd.
        s: Stride.
        p: One input channel in p is seen by k x k: the largest common divisor of c1 and c2 that is not above it.
        act: Activation, as `nas.ops.activation.activation` takes it.

    Raises:
        ValueError: An even kernel, a stride or p below 1, or numbers of channels without a common divisor.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, p: int = 4, act: bool | nn.Module = True) -> None:
        check_least("HetConv", p=p)
        super().__init__(c1, c2, k, s, p, act)
        if self.gc.groups == 1:
            raise ValueError(f"HetConv: {c1} to {c2} channels, p={p}: expected a common divisor from 2 to p")
        self.pwc = _OffDiagonal(c1, c2, s, self.gc.groups)


class _OffDiagonal(nn.Conv2d):
    """1x1 convolution between different groups of channels only."""

    own: torch.Tensor

    def __init__(self, c1: int, c2: int, s: int, groups: int) -> None:
        super().__init__(c1, c2, 1, s, bias=False)
        self.register_buffer("own", _block_diagonal(c1, c2, groups)[:, :, None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.weight.masked_fill(self.own, 0), None, self.stride)


def _block_diagonal(c1: int, c2: int, groups: int) -> torch.Tensor:
    """Return which output channel shares its group with which input channel, (c2, c1)."""
    return (torch.arange(c2) // (c2 // groups)).unsqueeze(1) == torch.arange(c1) // (c1 // groups)
