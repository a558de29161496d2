"""SPConv: a 3x3 convolution that spends its arithmetic on half of the channels.

Paper: Zhang et al., "Split to Be Slim: An Overlooked Redundancy in Vanilla Convolution", IJCAI 2020,
https://arxiv.org/abs/2006.12085.
Origin: written from the formulas; state keys are those of qiulinzhang/SPConv.pytorch, which carries no licence (none of
it is here).

Deliberate differences:
    - Works for every number of input channels from 3 on: the representative part is the largest even number that is not
      above ``ratio * c1``, but leaves at least one channel to either part. Where ``int(c1 * ratio)`` is even, this is
      the authors' split.
    - Stride 2 on odd sizes: the average pool rounds up as the convolution does, and windows at the border are means of
      what they hold.
    - An activation follows. No further batch norm: both branches end in one.
    - The softmax over the pair of pooled branches is the sigmoid of their difference.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from nas.ops.activation import activation
from nas.ops.registry import Arg, FromSlot, Value, counts_macs, register


def _macs(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the blend of the two branches, one per output element. The pools (additions) are not counted."""
    return output.numel()


def _fits(slot: Mapping[str, Value]) -> bool:
    """Only 3x3, stride 1 or 2."""
    return slot["kernel"] == 3 and slot["stride"] in (1, 2)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(
        FromSlot("k", "kernel"),
        FromSlot("s", "stride"),
        Arg("ratio", 0.5, "share of the channels that the 3x3 kernels see", low=0.05, high=0.95),
    ),
    paper="SPConv, IJCAI 2020, arXiv:2006.12085",
    summary="3x3 convolution on a part of the channels, 1x1 on the rest, blended by their means",
    requires="a 3x3 kernel with stride 1 or 2, at least 3 input channels, an even number of output channels",
    fits=_fits,
)
@counts_macs(_macs)
class SPConv(nn.Module):
    """Split convolution.

    Input (N, c1, H, W), output (N, c2, ceil(H / s), ceil(W / s)). With x split by channels into a and b, both average
    pooled 2x2 before the 1x1 convolutions if the stride is 2::

        u = bn1(gwc(a) + pwc(a))        gwc: 3x3 in 2 groups, pwc: 1x1
        v = bn2(conv1x1(b))
        p = sigmoid(mean(u) - mean(v))  per image and channel
        y = act(p * u + (1 - p) * v)

    The bias of ``conv1x1`` cancels in its batch norm; it is kept for the authors' checkpoints.

    Args:
        c1: Input channels, at least 3.
        c2: Output channels, even.
        k: Kernel size; only 3.
        s: Stride, 1 or 2.
        ratio: Share of the input channels in a, more than 0 and less than 1.
        act: Activation, as `nas.ops.activation.activation` takes it.

    Raises:
        ValueError: An argument that it is not defined for.
    """

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, ratio: float = 0.5, act: bool | nn.Module = True
    ) -> None:
        super().__init__()
        if k != 3 or s not in (1, 2):
            raise ValueError(f"SPConv: k={k}, s={s}: expected kernel 3 and stride 1 or 2")
        if not 0 < ratio < 1:
            raise ValueError(f"SPConv: ratio={ratio}: expected more than 0 and less than 1")
        if c1 < 3 or c2 < 2 or c2 % 2:
            raise ValueError(
                f"SPConv: {c1} to {c2} channels: expected at least 3 input and an even number of output channels"
            )
        heavy = min(max(int(c1 * ratio) // 2, 1), (c1 - 1) // 2) * 2
        self.s = s
        self.heavy = heavy
        self.gwc = nn.Conv2d(heavy, c2, 3, s, 1, groups=2, bias=False)
        self.pwc = nn.Conv2d(heavy, c2, 1, bias=False)
        self.conv1x1 = nn.Conv2d(c1 - heavy, c2, 1)
        self.bn1 = nn.BatchNorm2d(c2)
        self.bn2 = nn.BatchNorm2d(c2)
        self.act = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        pooled = x if self.s == 1 else nn.functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        u = self.bn1(self.gwc(x[:, : self.heavy]) + self.pwc(pooled[:, : self.heavy]))
        v = self.bn2(self.conv1x1(pooled[:, self.heavy :]))
        p = (u.mean((2, 3), keepdim=True) - v.mean((2, 3), keepdim=True)).sigmoid()
        y: torch.Tensor = self.act(torch.lerp(v, u, p))
        return y
