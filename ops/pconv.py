"""PConv and the FasterNet block: a convolution on a part of the channels, and 1x1 convolutions on all.

Paper: Chen et al., "Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks", CVPR 2023,
https://arxiv.org/abs/2303.03667.
Origin: written from the formulas; names of layers are those of JierunChen/FasterNet (MIT by its file headers).

Deliberate differences:
    - `PConv` brings the 1x1 convolution that the paper lets follow it, as Ultralytics' ``Conv``, so that it stands in
      for one and goes from c1 to c2 channels.
    - The first of a block's 1x1 convolutions is Ultralytics' ``Conv`` (SiLU, where the authors have ReLU or GELU);
      ``fuse()`` folds both. No drop path and no layer scale: the paper's small networks need neither.
    - The convolution sees ``c // n_div`` channels, but one at least.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.block import C2f
from ultralytics.nn.modules.conv import Conv

from nas.ops.registry import Arg, FromSlot, register
from nas.ops.slots import check_kernel, check_least, odd_kernel_in_place
from nas.ops.warm_start import covariance, fitted, set_norm, trained

_DIVISION = Arg("n_div", 4, "the convolution sees one channel in n_div", low=2, high=16)


class PartialConv(nn.Module):
    """Convolution of the first channels; the others pass. (N, c, H, W) to (N, c, H, W).

    Args:
        c: Channels.
        k: Kernel size, odd.
        n_div: It sees ``c // n_div`` channels, but one at least.

    Raises:
        ValueError: `n_div` below 1.
    """

    def __init__(self, c: int, k: int = 3, n_div: int = 4) -> None:
        super().__init__()
        check_least("PartialConv", n_div=n_div)
        self.seen = max(c // n_div, 1)
        self.partial_conv3 = nn.Conv2d(self.seen, self.seen, k, 1, k // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve the first channels of `x`."""
        return torch.cat((self.partial_conv3(x[:, : self.seen]), x[:, self.seen :]), 1)


def _start(new: nn.Module, old: nn.Module) -> None:
    """Factor the kernel on the channels that are seen, as well as their number allows; a 1x1 predicts the others."""
    assert isinstance(new, PConv)
    conv, partial = new.conv.conv, new.pconv.partial_conv3
    c1, c2, k, seen = conv.in_channels, conv.out_channels, partial.kernel_size[0], new.pconv.seen
    layer = trained(old, c1, c2, k, 1)
    centre = torch.zeros(1, k, k)
    centre[0, k // 2, k // 2] = 1
    point = fitted(layer.weight, centre).squeeze(2)
    # Singular vectors in whitened pixels, where the error of a kernel is a sum of squares.
    root = torch.linalg.cholesky(covariance(k, layer.weight))
    white = (layer.weight[:, :seen].flatten(2) @ root).flatten(1)
    left, scale, right = torch.linalg.svd(white, full_matrices=False)
    rank = min(seen, len(scale))
    left, right = left[:, :rank] * scale[:rank], right[:rank].reshape(-1, k * k)
    kernel = torch.linalg.solve_triangular(root.T, right.T, upper=True).T.reshape(rank, seen, k, k)

    partial.weight[:rank] = kernel
    conv.weight[:, :rank, 0, 0] = left
    conv.weight[:, rank:seen] = 0
    conv.weight[:, seen:, 0, 0] = point[:, seen:]
    near = point[:, :, None, None] * centre.to(point)
    near[:, :seen] = torch.einsum("or,rihw->oihw", left, kernel)
    set_norm(new.conv.bn, *layer.moments(near), layer.gain, layer.bias)


@register(
    rule="conv",
    kinds={"conv"},
    params=(FromSlot("k", "kernel"), FromSlot("s", "stride"), _DIVISION),
    paper="FasterNet, CVPR 2023, arXiv:2303.03667",
    summary="3x3 convolution of a part of the channels, then 1x1 of all",
    requires="an odd kernel of 3 or more with stride 1",
    fits=odd_kernel_in_place,
    start=_start,
    starts="the nearest product to the replaced kernel on the channels that are seen, the nearest 1x1 on the others",
)
class PConv(nn.Module):
    """Partial convolution, then Ultralytics' ``Conv`` of kernel 1; (N, c1, H, W) to (N, c2, H, W).

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size of the partial convolution, odd.
        s: Stride; only 1.
        n_div: The partial convolution sees ``c1 // n_div`` channels, but one at least.
        act: Activation, as Ultralytics' ``Conv`` takes it.

    Raises:
        ValueError: An even kernel, a stride, or `n_div` below 1.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, n_div: int = 4, act: bool | nn.Module = True) -> None:
        super().__init__()
        check_kernel("PConv", k, s, strides=False)
        self.pconv = PartialConv(c1, k, n_div)
        self.conv = Conv(c1, c2, 1, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        y: torch.Tensor = self.conv(self.pconv(x))
        return y


class FasterBlock(nn.Module):
    """FasterNet's block, ``x + mlp(PConv(x))``; (N, c, H, W) to (N, c, H, W).

    Args:
        c: Channels.
        n_div: As for `PartialConv`.
        ratio: Channels between the two 1x1 convolutions, over c.
    """

    def __init__(self, c: int, n_div: int = 4, ratio: float = 2.0) -> None:
        super().__init__()
        hidden = max(int(c * ratio), 1)
        self.spatial_mixing = PartialConv(c, 3, n_div)
        self.mlp = nn.Sequential(Conv(c, hidden, 1), nn.Conv2d(hidden, c, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform `x`."""
        y: torch.Tensor = x + self.mlp(self.spatial_mixing(x))
        return y


@register(
    rule="block",
    kinds={"block"},
    params=(_DIVISION, Arg("ratio", 2.0, "channels inside a FasterNet block, over those outside", low=0.5, high=4.0)),
    paper="FasterNet, CVPR 2023, arXiv:2303.03667",
    summary="C2f with FasterNet blocks",
)
class C2f_Faster(C2f):  # type: ignore[misc]  # Ultralytics is untyped
    """C2f with FasterNet blocks for bottlenecks, which always add their input; (N, c1, H, W) to (N, c2, H, W).

    Args:
        c1: Input channels.
        c2: Output channels.
        n: Blocks.
        n_div: As for `PartialConv`.
        ratio: As for `FasterBlock`.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, n_div: int = 4, ratio: float = 2.0) -> None:
        super().__init__(c1, c2, n)
        self.m = nn.ModuleList(FasterBlock(self.c, n_div, ratio) for _ in range(n))
