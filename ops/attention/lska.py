"""LSKA: large separable kernel attention.

Paper: Lau et al., "Large Separable Kernel Attention: Rethinking the Large Kernel Attention Design in CNN", Expert
Systems with Applications 2024, https://arxiv.org/abs/2309.01439.
Origin: written from the formulas; state keys are those of StevenLauHKHK/Large-Separable-Kernel-Attention (Apache-2.0).

Deliberate differences:
    - A kernel that is not of the paper's is refused when it is built, not when it runs.
    - No residual scale is needed: the gate is linear, and starts at 1 by the bias of its last layer.
"""

from __future__ import annotations

import torch
from torch import nn

from nas.ops.attention.gate import inserted
from nas.ops.registry import Arg, register

KERNELS = (7, 11, 23, 35, 41, 53)
"""The paper's kernel sizes."""


def begin_gate(lska: LSKA) -> None:
    """Let the gate be 1, whatever comes in: its last layer has no weights at first, and a bias of 1."""
    lska.conv1.weight.zero_()
    assert lska.conv1.bias is not None
    lska.conv1.bias.fill_(1)


def _start(new: nn.Module, old: nn.Module) -> None:
    assert isinstance(new, LSKA)
    inserted(old)
    begin_gate(new)


@register(
    rule="same",
    kinds={"attention"},
    params=(Arg("k_size", 7, "size of the kernel that the four thin ones make up", options=KERNELS),),
    paper="LSKA, arXiv:2309.01439",
    summary="attention: a factor for each element, by four thin depthwise convolutions of a large kernel",
    start=_start,
    starts="what comes in, exactly: its last layer starts without weights, and with a bias of 1",
)
class LSKA(nn.Module):
    """Large separable kernel attention; (N, c, H, W) to the same.

    ``x * conv1x1(z)``, where z comes of x by depthwise convolutions: 1 x a, a x 1, then 1 x e and e x 1 with dilation
    d. For sizes up to 11, d is 2, above it is 3; a = 2 d - 1 and e = size // d.

    Args:
        c: Channels.
        k_size: One of `KERNELS`.

    Raises:
        ValueError: The kernel is none of these.
    """

    def __init__(self, c: int, k_size: int = 7) -> None:
        super().__init__()
        if k_size not in KERNELS:
            raise ValueError(f"LSKA: k_size={k_size}: expected one of {', '.join(map(str, KERNELS))}")
        d = 2 if k_size <= 11 else 3
        a, e = 2 * d - 1, k_size // d
        far = d * (e // 2)
        self.conv0h = nn.Conv2d(c, c, (1, a), padding=(0, a // 2), groups=c)
        self.conv0v = nn.Conv2d(c, c, (a, 1), padding=(a // 2, 0), groups=c)
        self.conv_spatial_h = nn.Conv2d(c, c, (1, e), padding=(0, far), groups=c, dilation=d)
        self.conv_spatial_v = nn.Conv2d(c, c, (e, 1), padding=(far, 0), groups=c, dilation=d)
        self.conv1 = nn.Conv2d(c, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend to `x`, (N, c, H, W)."""
        z = self.conv_spatial_v(self.conv_spatial_h(self.conv0v(self.conv0h(x))))
        y: torch.Tensor = x * self.conv1(z)
        return y
