"""A block of cheap large kernels: each bottleneck filters every channel by itself, then mixes the channels."""

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

import nas

HIDDEN = 0.5


def width(channels: int) -> int:
    """Return the channels of the inner branch."""
    return max(8, int(channels * HIDDEN))


def _macs(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    return inputs[0].numel()


@nas.counts_macs(_macs)
class ChannelScale(nn.Module):
    """Multiplies each channel by a learnt number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class _Mixer(nn.Module):
    def __init__(self, channels: int, kernel: int, shortcut: bool) -> None:
        super().__init__()
        self.filter = Conv(channels, channels, kernel, g=channels)
        self.mix = Conv(channels, channels, 1)
        self.scale = ChannelScale(channels)
        self.add = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.scale(self.mix(self.filter(x)))
        return x + y if self.add else y


@nas.module(
    rule="block",
    kinds={"block"},
    paper="-",
    summary="depthwise bottlenecks between two 1x1 convolutions",
    params=(nas.FromSlot("shortcut", "shortcut"), nas.Arg("kernel", 5, "side of the depthwise kernel", 3, 9, odd=True)),
)
class MyBlock(nn.Module):
    """Two branches, one of them through `n` mixers."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, kernel: int = 5) -> None:
        super().__init__()
        inner = width(c2)
        self.first = Conv(c1, 2 * inner, 1)
        self.mixers = nn.ModuleList(_Mixer(inner, kernel, shortcut) for _ in range(n))
        self.last = Conv((2 + n) * inner, c2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for mixer in self.mixers:
            parts.append(mixer(parts[-1]))
        return self.last(torch.cat(parts, 1))
