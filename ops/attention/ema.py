"""EMA: efficient multi-scale attention.

Paper: Ouyang et al., "Efficient Multi-Scale Attention Module with Cross-Spatial Learning", ICASSP 2023,
https://arxiv.org/abs/2305.13563.
Origin: written from the formulas; state keys are those of YOLOonMe/EMA-attention-module, which carries no licence (none
of it is here).

Deliberate differences:
    - Weighed against its input by a residual scale, 1 unless inserted into a trained network; see
      `nas.ops.attention.gate`.
    - The number of groups is the greatest common divisor of `factor` and the channels, so that every width works; where
      `factor` divides the channels it is `factor`.
    - The mean of a normalised channel is its norm's bias, and is not computed again: the same function.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from nas.ops.attention.gate import STARTS, Gate, begin_inserted
from nas.ops.registry import Arg, counts_macs, register


def _macs(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the two weighted sums over channels: twice every element."""
    return 2 * output.numel()


@register(
    rule="same",
    kinds={"attention"},
    params=(Arg("factor", 32, "groups of channels, as far as the channels divide", low=1, high=256),),
    paper="EMA, ICASSP 2023, arXiv:2305.13563",
    summary="attention: a factor for each position of a group of channels, from two branches that weigh each other",
    start=begin_inserted,
    starts=STARTS,
)
@counts_macs(_macs)
class EMA(Gate):
    """Efficient multi-scale attention; (N, c, H, W) to the same.

    Within each group of k channels X::

        a, b = sigmoid(conv1x1([mean along rows of X, mean along columns of X]))
        z = norm(X * a * b)                                             each channel by itself
        v = conv3x3(X)
        w = softmax(mean(z)) . v + softmax(mean(v)) . z                 over the k channels, a number a position
        y = X * sigmoid(w)

    Args:
        c: Channels.
        factor: Groups, as far as the channels divide.
    """

    def __init__(self, c: int, factor: int = 32) -> None:
        super().__init__()
        self.groups = math.gcd(c, factor)
        k = c // self.groups
        self.gn = nn.GroupNorm(k, k)
        self.conv1x1 = nn.Conv2d(k, k, 1)
        self.conv3x3 = nn.Conv2d(k, k, 3, padding=1)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, c, H, W)."""
        n, c, h, w = x.shape
        k = c // self.groups
        group = x.reshape(-1, k, h, w)
        both = torch.cat((group.mean(3, keepdim=True), group.mean(2, keepdim=True).transpose(2, 3)), 2)
        rows, columns = self.conv1x1(both).sigmoid().split((h, w), 2)
        z = self.gn(group * rows * columns.transpose(2, 3))
        v = self.conv3x3(group)
        p = self.gn.bias.softmax(0).view(1, k, 1, 1).to(v.dtype)
        q = v.mean((2, 3), keepdim=True).softmax(1)
        weight: torch.Tensor = (p * v + q * z).sum(1, keepdim=True).sigmoid()
        return weight.view(n, self.groups, 1, h, w).expand(-1, -1, k, -1, -1).reshape(n, c, h, w)
