"""RCS-OSA: one-shot aggregation of re-parameterised convolutions with channel shuffle.

Paper: Kang et al., "RCS-YOLO: A Fast and High-Accuracy Object Detector for Brain Tumor Detection", MICCAI 2023,
https://arxiv.org/abs/2307.16412.
Origin: written from the formulas; mkang315/RCS-YOLO is GPL-3.0 (none of it is here).

Deliberate differences:
    - One shuffled convolution a stage at least: where a model is scaled to one repeat, the authors' block has none, and
      concatenates the same map three times.
    - The optional squeeze-and-excitation takes means over the whole map; the authors' takes them over a square.
    - Convolutions are `nas.ops.reparam.RepVGG`, which Ultralytics' ``fuse()`` makes one convolution each.
"""

from __future__ import annotations

import torch
from torch import nn

from nas.ops.registry import Arg, register
from nas.ops.reparam import RepVGG


class ShuffledRep(nn.Module):
    """RepVGG of the second half of the channels, then both halves interleaved; (N, c, H, W) to (N, c, H, W).

    Args:
        c: Channels, even.
    """

    def __init__(self, c: int) -> None:
        super().__init__()
        self.repconv = RepVGG(c // 2, c // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform `x`."""
        first, second = x.chunk(2, 1)
        return torch.stack((first, self.repconv(second)), 2).flatten(1, 2)


class _SqueezeExcite(nn.Module):
    """Scale channels by what their means say."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(c, max(c // 8, 1), 1)
        self.up = nn.Conv2d(max(c // 8, 1), c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.up(nn.functional.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()
        y: torch.Tensor = x * gate
        return y


@register(
    rule="block",
    kinds={"block"},
    params=(
        Arg("se", False, "whether squeeze-and-excitation follows"),
        Arg("e", 0.5, "inner channels over the input's", low=0.25, high=1.0),
    ),
    paper="RCS-YOLO, MICCAI 2023, arXiv:2307.16412",
    summary="re-parameterised 3x3 convolutions on half of the channels, shuffled, three stages aggregated at once",
)
class RCSOSA(nn.Module):
    """Reparameterised convolution with channel shuffle, one-shot aggregation; (N, c1, H, W) to (N, c2, H, W).

    ``a = conv1(x)``, ``b = sr1(a)``, ``c = sr2(b)``, ``y = conv3(cat(a, b, c))``; ``conv`` are `RepVGG`, ``sr`` are
    chains of `ShuffledRep`.

    Args:
        c1: Input channels.
        c2: Output channels.
        n: Repeats: each chain has half as many, one at least.
        se: Whether squeeze-and-excitation follows.
        e: Inner channels over c1, rounded up to a multiple of 8.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, se: bool = False, e: float = 0.5) -> None:
        super().__init__()
        c, chain = 8 * -(-max(int(c1 * e), 1) // 8), max(n // 2, 1)
        self.conv1 = RepVGG(c1, c)
        self.sr1 = nn.Sequential(*(ShuffledRep(c) for _ in range(chain)))
        self.sr2 = nn.Sequential(*(ShuffledRep(c) for _ in range(chain)))
        self.conv3 = RepVGG(3 * c, c2)
        self.se = _SqueezeExcite(c2) if se else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform `x`, (N, c1, H, W)."""
        a = self.conv1(x)
        b = self.sr1(a)
        y: torch.Tensor = self.se(self.conv3(torch.cat((a, b, self.sr2(b)), 1)))
        return y
