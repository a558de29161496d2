"""MSBlock: slices of the channels that go through ever more depthwise layers of one kernel size.

Paper: Chen et al., "YOLO-MS: Rethinking Multi-Scale Representation Learning for Real-time Object Detection", 2023,
https://arxiv.org/abs/2308.05480.
Origin: written from the formulas; FishAndWasabi/YOLO-MS is CC BY-NC 4.0 (none of it is here).

Deliberate differences:
    - Ultralytics' ``Conv``, which ``fuse()`` folds. No attention behind the block: that is a choice of its own.
    - The slices are as many channels as fit into the expanded width, so that every width works; where three divides it
      they are the authors'. There are always three, the first without layers: the authors' kernels 1, k, k; the layers'
      inner width is always twice the slice's, their default.
    - C2f_MSBlock: the form that circulates in YOLO models has three layers in a chain, and none of its arguments; here
      it is one layer, so that the block costs less than the C2f in whose place it comes. Both ignore C2f's shortcut.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.block import C2f
from ultralytics.nn.modules.conv import Conv

from nas.ops.registry import Arg, register

_SLICES = 3
_KERNEL = Arg(
    "k", 3, "kernel of the depthwise layers, odd; the authors' grows from 3 at P2 to 9 at P5", 3, 11, odd=True
)
_EXPANSION = Arg("e", 1.5, "channels of all slices over the input's; the authors' is 3", low=0.5, high=4.0)


def _layer(c: int, k: int) -> nn.Sequential:
    """Return a layer: 1x1 to twice the channels, depthwise k x k, 1x1 back."""
    return nn.Sequential(Conv(c, 2 * c, 1), Conv(2 * c, 2 * c, k, g=2 * c), Conv(2 * c, c, 1))


@register(
    rule="block",
    kinds={"block"},
    params=(_KERNEL, _EXPANSION),
    paper="YOLO-MS, 2023, arXiv:2308.05480",
    summary="three slices of channels, the second and third through chains of large depthwise layers, hierarchically",
)
class MSBlock(nn.Module):
    """Multi-scale block; (N, c1, H, W) to (N, c2, H, W).

    After a 1x1 convolution there are three slices ``z``: ``y0 = z0``, ``y1 = chain1(z1 + y0)`` and
    ``y2 = chain2(z2 + y1)``, which a 1x1 convolution puts together.

    Args:
        c1: Input channels.
        c2: Output channels.
        n: Layers of a chain.
        k: Kernel of the depthwise layers, odd.
        e: Channels of all slices, over c1; each slice has the whole part of a third, one at least.

    Raises:
        ValueError: An even kernel.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, k: int = 3, e: float = 1.5) -> None:
        super().__init__()
        if k < 1 or k % 2 == 0:
            raise ValueError(f"MSBlock: k={k}: expected an odd kernel")
        width = max(int(c1 * e) // _SLICES, 1)
        self.in_conv = Conv(c1, _SLICES * width, 1)
        self.mid_convs = nn.ModuleList(nn.Sequential(*(_layer(width, k) for _ in range(n))) for _ in range(1, _SLICES))
        self.out_conv = Conv(_SLICES * width, c2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform `x`, (N, c1, H, W)."""
        slices = self.in_conv(x).chunk(_SLICES, 1)
        done = [slices[0]]
        for chain, part in zip(self.mid_convs, slices[1:], strict=True):
            done.append(chain(part + done[-1]))
        y: torch.Tensor = self.out_conv(torch.cat(done, 1))
        return y


@register(
    rule="block",
    kinds={"block"},
    params=(_KERNEL, _EXPANSION),
    paper="YOLO-MS, 2023, arXiv:2308.05480",
    summary="C2f with MSBlocks of one layer",
)
class C2f_MSBlock(C2f):  # type: ignore[misc]  # Ultralytics is untyped
    """C2f with `MSBlock` for bottlenecks; (N, c1, H, W) to (N, c2, H, W).

    Args:
        c1: Input channels.
        c2: Output channels.
        n: Blocks.
        k: Kernel of the depthwise layers, odd.
        e: As for `MSBlock`.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, k: int = 3, e: float = 1.5) -> None:
        super().__init__(c1, c2, n)
        self.m = nn.ModuleList(MSBlock(self.c, self.c, 1, k, e) for _ in range(n))
