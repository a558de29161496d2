"""Attentions over channels and positions, by convolutions: CBAM, CoordAtt, GAM.

Papers: CBAM, Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, https://arxiv.org/abs/1807.06521;
CoordAtt, Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
https://arxiv.org/abs/2103.02907; GAM, Liu et al., "Global Attention Mechanism: Retain Information to Enhance
Channel-Spatial Interactions", 2021, https://arxiv.org/abs/2112.05561.
Origin: written from the formulas. State keys of CoordAtt are those of houqb/CoordAttention (MIT), without
``conv1.bias``: the mean of ``bn1`` takes it up when it is loaded.

Deliberate differences:
    - Weighed against their input by a residual scale, 1 unless inserted into a trained network; see
      `nas.ops.attention.gate`.
    - A hidden layer has at least one unit. Convolutions before a batch norm have no bias, which it would cancel.
    - CBAM is the paper's, with means and maxima; the authors' other poolings (``pool_types``, ``no_spatial``) are not
      here. Ultralytics has a class of that name in its own package, which no model YAML can use: without the hidden
      layer, the maximum and the norm.
    - Sizes are taken by means and maxima over axes, which export for every size and are deterministic on CUDA.
    - GAM has the paper's sigmoid behind the channel part; most copies leave it out, which `channel_sigmoid` does too.
      The grouped form for large networks, which some copies have, is not here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nas.ops.attention.gate import STARTS, Gate, begin_inserted, hidden_width
from nas.ops.registry import Arg, register
from nas.ops.state import fold_bias


@register(
    rule="same",
    kinds={"attention"},
    params=(
        Arg("reduction", 16, "channels over hidden units", low=1, high=64),
        Arg("kernel", 7, "kernel over positions", low=1, high=15, odd=True),
    ),
    paper="CBAM, ECCV 2018, arXiv:1807.06521",
    summary="attention: a factor for each channel, then one for each position",
    start=begin_inserted,
    starts=STARTS,
)
class CBAM(Gate):
    """Convolutional block attention; (N, c, H, W) to the same.

    With f(v) = W2 relu(W1 v + b1) + b2::

        a = sigmoid(f(mean(x)) + f(max(x)))                         over positions, a factor a channel
        b = sigmoid(bn(conv([max(x * a), mean(x * a)])))            over channels, a factor a position
        y = x * a * b

    Args:
        c: Channels.
        reduction: Channels over hidden units.
        kernel: Kernel over positions, odd.
    """

    def __init__(self, c: int, reduction: int = 16, kernel: int = 7) -> None:
        super().__init__()
        hidden = hidden_width(c, reduction)
        self.mlp = nn.Sequential(nn.Linear(c, hidden), nn.ReLU(), nn.Linear(hidden, c))
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(1)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, c, H, W)."""
        pooled = torch.stack((x.mean((2, 3)), x.amax((2, 3))))
        channels = self.mlp(pooled).sum(0).sigmoid()[:, :, None, None]
        y = x * channels
        positions = self.bn(self.conv(torch.cat((y.amax(1, keepdim=True), y.mean(1, keepdim=True)), 1)))
        gate: torch.Tensor = channels * positions.sigmoid()
        return gate


@register(
    rule="same",
    kinds={"attention"},
    params=(Arg("reduction", 32, "channels over hidden channels, of which there are at least 8", low=1, high=64),),
    paper="CoordAtt, CVPR 2021, arXiv:2103.02907",
    summary="attention: a factor for each row and one for each column of every channel",
    start=begin_inserted,
    starts=STARTS,
)
class CoordAtt(Gate):
    """Coordinate attention; (N, c, H, W) to the same.

    The means along rows and along columns pass one convolution, norm and hard swish together, then one convolution and
    sigmoid each; the input is multiplied by both.

    Args:
        c: Channels.
        reduction: Channels over hidden channels, of which there are at least 8.
    """

    def __init__(self, c: int, reduction: int = 32) -> None:
        super().__init__()
        hidden = hidden_width(c, reduction, least=8)
        self.conv1 = nn.Conv2d(c, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.act = nn.Hardswish()
        self.conv_h = nn.Conv2d(hidden, c, 1)
        self.conv_w = nn.Conv2d(hidden, c, 1)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, c, H, W)."""
        h, w = x.shape[2:]
        both = torch.cat((x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)), 2)
        rows, columns = self.act(self.bn1(self.conv1(both))).split((h, w), 2)
        gate: torch.Tensor = self.conv_h(rows).sigmoid() * self.conv_w(columns.transpose(2, 3)).sigmoid()
        return gate

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Fold the authors' bias of the first convolution into its batch norm."""
        fold_bias(state, prefix, "conv1", "bn1", self.bn1)
        super()._load_from_state_dict(state, prefix, *rest)


@register(
    rule="same",
    kinds={"attention"},
    params=(
        Arg("rate", 4, "channels over hidden channels", low=1, high=64),
        Arg("channel_sigmoid", True, "sigmoid behind the channel part; most copies leave it out"),
    ),
    paper="GAM, arXiv:2112.05561",
    summary="attention: two layers over the channels of each pixel, then two 7x7 convolutions",
    start=begin_inserted,
    starts=STARTS,
)
class GAM(Gate):
    """Global attention; (N, c, H, W) to the same.

    With f two linear layers over channels with a ReLU between, a = sigmoid(f(x)) at each pixel, and
    b = sigmoid(bn(conv7x7(relu(bn(conv7x7(x * a)))))): ``y = x * a * b``.

    Args:
        c: Channels.
        rate: Channels over hidden channels.
        channel_sigmoid: Whether a is a sigmoid; without it, a = f(x).
    """

    def __init__(self, c: int, rate: int = 4, channel_sigmoid: bool = True) -> None:
        super().__init__()
        hidden = hidden_width(c, rate)
        self.channel_attention = nn.Sequential(nn.Conv2d(c, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, c, 1))
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(c, hidden, 7, padding=3, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, c, 7, padding=3, bias=False),
            nn.BatchNorm2d(c),
        )
        self.channel_sigmoid = channel_sigmoid

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, c, H, W)."""
        channels = self.channel_attention(x)
        if self.channel_sigmoid:
            channels = channels.sigmoid()
        gate: torch.Tensor = channels * self.spatial_attention(x * channels).sigmoid()
        return gate
