"""How an attention is put into a network that is trained already.

An attention multiplies a feature map by a gate that starts at about one half, or puts something else in its place: the
layers behind it, trained on the map itself, no longer fit. Here the result is weighed against the map by one learned
number, the residual scale::

    y = x + scale * (attend(x) - x)

The scale starts at 1, where y is the published module. Inserted behind a trained layer (`begin_inserted`), it starts at
`INSERTED`: near the identity, yet with gradients for every parameter from the first step on. At 0 the module would be
the identity, and only the scale would have a gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from nas.ops.warm_start import CannotStart

INSERTED = 0.1
"""What the residual scale starts at behind a trained layer."""
STARTS = "what comes in, with a tenth of the attention's effect: off by less than a fiftieth of its variance"
"""What `begin_inserted` comes to, in words; tests/ops/attention measure it."""


def inserted(old: nn.Module) -> None:
    """Check that `old` is no layer at all: the new module is inserted, not swapped in.

    Raises:
        CannotStart: It is a layer that is replaced.
    """
    if not isinstance(old, nn.Identity):
        raise CannotStart(f"{type(old).__name__}: expected nn.Identity: an attention is inserted, it replaces nothing")


def begin_inserted(new: nn.Module, old: nn.Module) -> None:
    """Start an `Attention` near the identity; see `nas.ops.warm_start`."""
    assert isinstance(new, Attention)
    inserted(old)
    new.residual_scale.fill_(INSERTED)


def wide(x: torch.Tensor) -> torch.Tensor:
    """Return `x` in float32 at least: sums over a map overflow float16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def channel_means(x: torch.Tensor) -> torch.Tensor:
    """Return the mean of each channel of `x`, (N, c, 1, 1): as a pooling, since NCNN multiplies by no other mean."""
    return nn.functional.adaptive_avg_pool2d(x, 1)


def hidden_width(c: int, reduction: int, least: int = 1) -> int:
    """Return the width of a hidden layer: `c` channels over `reduction`, and `least` where that is fewer."""
    return max(least, c // reduction)


class Attention(nn.Module):
    """A module that is weighed against its input by a residual scale; (N, c, H, W) to the same.

    Attributes:
        residual_scale: (1,) parameter, 1 unless it is inserted into a trained network.
    """

    def __init__(self) -> None:
        super().__init__()
        self.residual_scale = nn.Parameter(torch.ones(1))


class Gate(Attention, ABC):
    """An attention that multiplies its input: ``x * (1 + scale * (gate(x) - 1))``."""

    @abstractmethod
    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return what `x`, (N, c, H, W), is multiplied by; it broadcasts to that shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend to `x`, (N, c, H, W)."""
        gate = self.gate(x)
        return x * (1 + self.residual_scale.to(gate.dtype) * (gate - 1))
