"""ContextAggregation: what the whole image says, added where each position asks for it.

Paper: Liu et al., "Learning to Aggregate Multi-Scale Context for Instance Segmentation in Remote Sensing Images"
(CATNet), 2021, https://arxiv.org/abs/2111.11057.
Origin: written from the formulas. yeliudev/CATNet is GPL-3.0; none of it is here.

Deliberate differences:
    - The values are made of the weighted mean of the map, not the weighted mean of the values: the same function, since
      they are linear and the weights sum to 1, for one product an image in place of one a position.
    - The softmax runs in float32 at least. The bias before it, which it does not see, is not here.
    - Plain convolutions, as in the paper; versions made of Ultralytics' ``Conv`` add norms and SiLU.
"""

from __future__ import annotations

import torch
from torch import nn

from nas.ops.attention.gate import hidden_width, inserted, wide
from nas.ops.registry import Arg, counts_macs, register


def _macs(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the weighted mean: every element once."""
    return output.numel()


def _start(new: nn.Module, old: nn.Module) -> None:
    assert isinstance(new, ContextAggregation)
    inserted(old)
    nn.init.zeros_(new.m.weight)
    assert new.m.bias is not None
    nn.init.zeros_(new.m.bias)


@register(
    rule="same",
    kinds={"attention"},
    params=(Arg("reduction", 1, "channels over channels of the context", low=1, high=64),),
    paper="ContextAggregation (CATNet), arXiv:2111.11057",
    summary="attention: adds a context of the whole image, by as much as each position asks for",
    start=_start,
    starts="what comes in, exactly: its last layer starts at zero",
)
@counts_macs(_macs)
class ContextAggregation(nn.Module):
    """Context aggregation; (N, c, H, W) to the same.

    With 1x1 convolutions a and k to one channel, v to ``c / reduction`` and m back::

        context = sum over positions p of softmax(k(x))_p * v(x_p)
        y = x + sigmoid(a(x)) * m(context)

    m starts at zero, so that the module starts as the identity; the others learn from the second step on.

    Args:
        c: Channels.
        reduction: Channels over channels of the context.
    """

    def __init__(self, c: int, reduction: int = 1) -> None:
        super().__init__()
        hidden = hidden_width(c, reduction)
        self.a = nn.Conv2d(c, 1, 1)
        self.k = nn.Conv2d(c, 1, 1, bias=False)
        self.v = nn.Conv2d(c, hidden, 1)
        self.m = nn.Conv2d(hidden, c, 1)
        for layer in (self.a, self.k, self.v):
            nn.init.uniform_(layer.weight, -((3 / c) ** 0.5), (3 / c) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.m.weight)
        assert self.m.bias is not None
        nn.init.zeros_(self.m.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend to `x`, (N, c, H, W)."""
        weights = wide(self.k(x)).flatten(2).softmax(2)
        mean = torch.matmul(wide(x).flatten(2), weights.transpose(1, 2)).to(x.dtype)
        context = self.m(self.v(mean.unsqueeze(3)))
        y: torch.Tensor = x + self.a(x).sigmoid() * context
        return y
