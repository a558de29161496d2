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

import torch
from torch import nn

from nas.ops.activation import activation
from nas.ops.functional.spconv import spconv_blend
from nas.ops.registry import Arg, FromSlot, counts_macs, register
from nas.ops.slots import three_by_two
from nas.ops.warm_start import covariance, set_norm, trained


def _macs(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the blend of the two branches, one per output element. The pools (additions) are not counted."""
    return output.numel()


def _start(new: nn.Module, old: nn.Module) -> None:
    """Keep the kernels that the grouped 3x3 can hold; let a 1x1 predict what the others would give.

    Both norms get the trained bias and twice the trained gain, so that their blend at p = 1/2 is the trained norm of
    the sum. Elsewhere p follows the means of the branches, and the output leans to one of them.
    """
    assert isinstance(new, SPConv)
    c2, heavy = new.gwc.out_channels, new.heavy
    layer = trained(old, heavy + new.conv1x1.in_channels, c2, 3, new.s)
    weight = layer.weight
    # What a 1x1 sees of the 3x3 window: its centre, or with stride 2 the mean of its lower right quarter.
    seen = torch.zeros(3, 3, dtype=weight.dtype, device=weight.device)
    if new.s == 1:
        seen[1, 1] = 1
    else:
        seen[1:, 1:] = 1 / 4
    with_seen = covariance(3, weight) @ seen.flatten()
    point = weight.flatten(2) @ with_seen / (seen.flatten() @ with_seen)  # least squares, (c2, c1)
    grouped = torch.zeros_like(weight, dtype=torch.bool)
    grouped[: c2 // 2, : heavy // 2] = True
    grouped[c2 // 2 :, heavy // 2 : heavy] = True

    new.gwc.weight.copy_(torch.cat((weight[: c2 // 2, : heavy // 2], weight[c2 // 2 :, heavy // 2 : heavy])))
    new.pwc.weight.copy_(point[:, :heavy, None, None].masked_fill(grouped[:, :heavy, :1, :1], 0))
    new.conv1x1.weight.copy_(point[:, heavy:, None, None])
    assert new.conv1x1.bias is not None
    new.conv1x1.bias.zero_()

    near = torch.where(grouped, weight, point[:, :, None, None] * seen)
    rest = near.clone()
    rest[:, :heavy] = 0
    mean, var = layer.moments(near)
    rest_mean, rest_var = layer.moments(rest)
    set_norm(new.bn1, mean - rest_mean, var - rest_var, 2 * layer.gain, layer.bias)
    set_norm(new.bn2, rest_mean, rest_var, 2 * layer.gain, layer.bias)


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
    fits=three_by_two,
    start=_start,
    starts="the replaced kernel where the grouped 3x3 holds it and the nearest 1x1 elsewhere: "
    "off by about a third of the output's variance on a trained YOLOv8n",
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
        g, q = self.gwc(x[:, : self.heavy]), self.pwc(pooled[:, : self.heavy])
        y: torch.Tensor = self.act(spconv_blend(g, q, self.conv1x1(pooled[:, self.heavy :]), self.bn1, self.bn2))
        return y
