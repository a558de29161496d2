"""Channel attentions: a factor for each channel of an image, from the means of all channels.

Papers: SE, Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, https://arxiv.org/abs/1709.01507;
ECA, Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR 2020,
https://arxiv.org/abs/1910.03151; SENetV2, Narayanan, "SENetV2: Aggregated dense layer for channelwise and global
representations", 2023, https://arxiv.org/abs/2311.10807.
Origin: written from the formulas. State keys of SE and ECA are those of the common PyTorch versions
(moskomule/senet.pytorch and BangguWu/ECANet, both MIT).

Deliberate differences:
    - Weighed against their input by a residual scale, 1 unless inserted into a trained network; see
      `nas.ops.attention.gate`.
    - A hidden layer has at least one unit: with fewer channels than the reduction the usual versions have none.
    - The four parallel layers of SENetV2 are one layer of four times the width: the same function.
    - The kernel of ECA always follows the paper's rule.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from nas.ops.attention.gate import STARTS, Gate, begin_inserted, channel_means, hidden_width
from nas.ops.registry import Arg, register


@register(
    rule="same",
    kinds={"attention"},
    params=(Arg("reduction", 16, "channels over hidden units", low=1, high=64),),
    paper="SE, CVPR 2018, arXiv:1709.01507",
    summary="attention: a factor for each channel, by two small layers",
    start=begin_inserted,
    starts=STARTS,
)
class SE(Gate):
    """Squeeze and excitation; (N, c, H, W) to the same: ``x * sigmoid(W2 relu(W1 mean(x)))``.

    Args:
        c: Channels.
        reduction: Channels over hidden units.
    """

    def __init__(self, c: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = hidden_width(c, reduction)
        self.fc = nn.Sequential(
            nn.Linear(c, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, c, bias=False), nn.Sigmoid()
        )

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, c, 1, 1)."""
        gate: torch.Tensor = self.fc(channel_means(x).flatten(1))
        return gate[:, :, None, None]


@register(
    rule="same",
    kinds={"attention"},
    params=(
        Arg("reduction", 32, "channels over hidden units of each of the four layers", low=1, high=64),
        Arg("residual", True, "add the input, as the authors do; off: the form that circulates in PyTorch"),
    ),
    paper="SENetV2, arXiv:2311.10807",
    summary="attention: SE with four parallel hidden layers and a residual",
    start=begin_inserted,
    starts=STARTS,
)
class SENetV2(Gate):
    """Squeeze and aggregated excitation; (N, c, H, W) to the same.

    With g = sigmoid(W2 relu(W1 mean(x) + b1) + b2): ``x + x * g``, without `residual` ``x * g``.

    Args:
        c: Channels.
        reduction: Channels over hidden units of each of the four layers.
        residual: Whether the input is added.
    """

    def __init__(self, c: int, reduction: int = 32, residual: bool = True) -> None:
        super().__init__()
        hidden = 4 * hidden_width(c, reduction)
        self.residual = residual
        self.fc = nn.Sequential(nn.Linear(c, hidden), nn.ReLU(), nn.Linear(hidden, c), nn.Sigmoid())

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, c, 1, 1)."""
        gate: torch.Tensor = self.fc(channel_means(x).flatten(1))
        return gate[:, :, None, None] + int(self.residual)


@register(
    rule="same",
    kinds={"attention"},
    params=(
        Arg("gamma", 2, "the kernel is about (log2(channels) + b) / gamma", low=1, high=8),
        Arg("b", 1, "the kernel is about (log2(channels) + b) / gamma", low=0, high=8),
    ),
    paper="ECA, CVPR 2020, arXiv:1910.03151",
    summary="attention: a factor for each channel, by a convolution along the channels",
    start=begin_inserted,
    starts=STARTS,
)
class ECA(Gate):
    """Efficient channel attention; (N, c, H, W) to the same: ``x * sigmoid(conv1d(mean(x)))`` along the channels.

    Args:
        c: Channels.
        gamma: The kernel is the odd number from ``(log2(c) + b) / gamma`` upwards.
        b: See `gamma`.
    """

    def __init__(self, c: int, gamma: int = 2, b: int = 1) -> None:
        super().__init__()
        size = int(abs((math.log2(c) + b) / gamma))
        k = size if size % 2 else size + 1
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, c, 1, 1)."""
        gate: torch.Tensor = self.conv(x.mean((2, 3)).unsqueeze(1))
        return gate.sigmoid().transpose(1, 2).unsqueeze(3)
