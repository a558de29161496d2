"""Smaller forms of stock layers: Ultralytics' C2f and Conv by their own arguments, and an SPPF that is narrower.

Paper: none of their own. C2f and SPPF are YOLOv8's and YOLOv5's, without papers.
Origin: Ultralytics' ``C2f`` and ``Conv`` are registered as they are, and used in its own YAML rows, without any
registration (AGPL-3.0, as this project).

Deliberate differences:
    - `NarrowSPPF` is Ultralytics' ``SPPF`` with the inner channels as an argument, and an activation in both
      convolutions, as it was until 2025.
    - A narrower bottleneck inside a C2f is ``C3k2Block(c3k=false)`` (`nas.ops.csp`).
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.block import C2f
from ultralytics.nn.modules.conv import Conv

from nas.ops.registry import Arg, FromSlot, register
from nas.ops.shrink import inherit_c2f, inherit_conv, inherit_sppf

register(
    rule="block",
    kinds={"block"},
    params=(
        FromSlot("shortcut", "shortcut"),
        Arg("g", 1, "groups of the second 3x3 convolutions", low=1, high=16, optional=True),
        Arg("e", 0.5, "channels between the 1x1 convolutions, over the output's", low=0.125, high=1.0, optional=True),
    ),
    paper="YOLOv8, Ultralytics 2023",
    summary="Ultralytics' C2f, narrower by its own argument, or with fewer repeats",
    requires="channels inside that the groups divide",
    inherit=inherit_c2f,
    starts="the repeats and channels of a replaced C2f that its output needs most, fitted to it on training images",
)(C2f)

register(
    rule="conv",
    kinds={"block", "pool"},
    params=(Arg("k", 1, "kernel", options=(1, 3)),),
    paper="Ultralytics' Conv",
    summary="no block at all: one convolution, 1x1 by default, from the input's to the output's channels",
    inherit=inherit_conv,
    starts="the convolution that comes nearest to a replaced C2f or SPPF on training images",
)(Conv)


@register(
    rule="conv",
    kinds={"pool"},
    params=(
        Arg("k", 5, "window of a pooling", low=3, high=13, odd=True),
        Arg("e", 0.25, "channels that are pooled, over the input's; SPPF has 0.5", low=0.0625, high=0.5),
    ),
    paper="SPPF, YOLOv5",
    summary="SPPF with fewer channels between its convolutions",
    inherit=inherit_sppf,
    starts="the channels of a replaced SPPF that its output needs most, fitted to it on training images",
)
class NarrowSPPF(nn.Module):
    """SPPF of any inner width; (N, c1, H, W) to (N, c2, H, W).

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Window of each of the three poolings in a row, odd.
        e: Channels that are pooled, over c1.
    """

    def __init__(self, c1: int, c2: int, k: int = 5, e: float = 0.25) -> None:
        super().__init__()
        hidden = max(1, round(c1 * e))
        self.cv1 = Conv(c1, hidden)
        self.m = nn.MaxPool2d(k, 1, k // 2)
        self.cv2 = Conv(4 * hidden, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool `x`, (N, c1, H, W)."""
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(self.m(maps[-1]))
        y: torch.Tensor = self.cv2(torch.cat(maps, 1))
        return y
