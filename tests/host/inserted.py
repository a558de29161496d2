"""A module that can be inserted, for tests: registered only while a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nas.ops import registry


class ChannelGate(nn.Module):
    """Scales every channel by a learnt gate of its mean: (n, c, h, w) to the same."""

    def __init__(self, c: int, groups: int = 1) -> None:
        super().__init__()
        self.mix = nn.Conv2d(c, c, 1, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mix(x.mean((2, 3), keepdim=True)).sigmoid()


@contextmanager
def channel_gate() -> Iterator[None]:
    """Register `ChannelGate` within a block."""
    registry.register(
        rule="same",
        kinds={"attention"},
        paper="none: a module of the tests",
        summary="A gate for each channel.",
        params=(registry.Arg("groups", 1, "groups of the convolution", low=1),),
    )(ChannelGate)
    try:
        yield
    finally:
        registry._ENTRIES.pop("ChannelGate")
