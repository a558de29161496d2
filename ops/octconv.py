"""OctConv: a convolution on features of which a part is kept at half the resolution.

Paper: Chen et al., "Drop an Octave: Reducing Spatial Redundancy in Convolutional Neural Networks with Octave
Convolution", ICCV 2019, https://arxiv.org/abs/1904.05049.
Origin: written from the formulas; names of layers are those of d-li14/octconv.pytorch (Apache-2.0). The authors' code
is facebookresearch/OctConv (MIT).

Deliberate differences:
    - It is offered inside of a C2f only: a bottleneck's first convolution makes the low part, its second one takes it
      in again. A pair of features cannot pass between the layers of a model YAML.
    - Odd sizes: the low part is half rounded up (means of what a window holds, as in the authors' code), and what comes
      back up is cut to the high part's size.
    - SiLU, as Ultralytics has it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from ultralytics.nn.modules.block import C2f

from nas.ops.activation import activation
from nas.ops.registry import Arg, FromSlot, register


def _pool(x: torch.Tensor) -> torch.Tensor:
    """Halve (N, C, H, W), rounding up."""
    return functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


class OctaveConv(nn.Module):
    """Octave convolution with batch norms and activation, stride 1.

    ``high' = h2h(high) + up(l2h(low))``, ``low' = l2l(low) + h2l(pool(high))``; each then normalised and activated.
    Without a low part in or out, what deals with it is not there.

    Args:
        c1: Input channels, of both parts together.
        c2: Output channels, of both parts together.
        k: Kernel size, odd.
        low_in: Input channels that are at half the resolution, fewer than c1.
        low_out: Output channels that are at half the resolution, fewer than c2.
    """

    def __init__(self, c1: int, c2: int, k: int, low_in: int, low_out: int) -> None:
        super().__init__()

        def conv(a: int, b: int) -> nn.Conv2d | None:
            return nn.Conv2d(a, b, k, 1, k // 2, bias=False) if a and b else None

        high_in, high_out = c1 - low_in, c2 - low_out
        self.conv_h2h = nn.Conv2d(high_in, high_out, k, 1, k // 2, bias=False)
        self.conv_h2l = conv(high_in, low_out)
        self.conv_l2h = conv(low_in, high_out)
        self.conv_l2l = conv(low_in, low_out)
        self.bn_h = nn.BatchNorm2d(high_out)
        self.bn_l = nn.BatchNorm2d(low_out) if low_out else None
        self.act = activation(True)

    def forward(self, high: torch.Tensor, low: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Convolve a pair.

        Args:
            high: (N, c1 - low_in, H, W).
            low: (N, low_in, ceil(H / 2), ceil(W / 2)), or None without a low part.

        Returns:
            The pair after it, alike.
        """
        h, w = high.shape[2:]
        above = self.conv_h2h(high)
        if low is not None and self.conv_l2h is not None:
            up = functional.interpolate(self.conv_l2h(low), scale_factor=2.0, mode="nearest")
            above = above + up[..., :h, :w]
        above = self.act(self.bn_h(above))
        if self.conv_h2l is None or self.bn_l is None:
            return above, None
        below = self.conv_h2l(_pool(high))
        if low is not None and self.conv_l2l is not None:
            below = below + self.conv_l2l(low)
        return above, self.act(self.bn_l(below))


class OctaveBottleneck(nn.Module):
    """Bottleneck of two octave convolutions 3x3; (N, c, H, W) to (N, c, H, W).

    Args:
        c: Channels.
        shortcut: Whether it adds its input.
        alpha: Share of the channels between them that is at half the resolution.

    Raises:
        ValueError: No channel is left in a part.
    """

    def __init__(self, c: int, shortcut: bool, alpha: float) -> None:
        super().__init__()
        low = int(c * alpha)
        if not 0 < low < c:
            raise ValueError(f"OctConv: alpha={alpha} of {c} channels: expected 1 to {c - 1} channels in the low part")
        self.cv1 = OctaveConv(c, c, 3, 0, low)
        self.cv2 = OctaveConv(c, c, 3, low, 0)
        self.add = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform `x`."""
        y: torch.Tensor = self.cv2(*self.cv1(x))[0]
        return x + y if self.add else y


@register(
    rule="block",
    kinds={"block"},
    params=(
        FromSlot("shortcut", "shortcut"),
        Arg("alpha", 0.5, "share of the channels at half the resolution", low=0.125, high=0.875),
    ),
    paper="OctConv, ICCV 2019, arXiv:1904.05049",
    summary="C2f with bottlenecks that work on a part of their channels at half the resolution",
    requires="channels inside (half of its output's) of which the share alpha is one at least",
)
class C2f_OctConv(C2f):  # type: ignore[misc]  # Ultralytics is untyped
    """C2f with octave convolutions in its bottlenecks; (N, c1, H, W) to (N, c2, H, W).

    Args:
        c1: Input channels.
        c2: Output channels.
        n: Bottlenecks.
        shortcut: Whether a bottleneck adds its input.
        alpha: As for `OctaveBottleneck`.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, alpha: float = 0.5) -> None:
        super().__init__(c1, c2, n, shortcut)
        self.m = nn.ModuleList(OctaveBottleneck(self.c, shortcut, alpha) for _ in range(n))
