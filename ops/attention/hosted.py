"""Self-attentions that Ultralytics has: AIFI of RT-DETR and C2PSA of YOLO11, to be inserted.

Papers: AIFI, Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection" (RT-DETR), CVPR 2024,
https://arxiv.org/abs/2304.08069; C2PSA, Ultralytics' YOLO11, after PSA of Wang et al., "YOLOv10: Real-Time End-to-End
Object Detection", 2024, https://arxiv.org/abs/2405.14458.
Origin: Ultralytics' ``AIFI`` and ``C2PSA`` are imported, not copied (AGPL-3.0, as this project).

Deliberate differences:
    - Weighed against their input by a residual scale, 1 unless inserted into a trained network; see
      `nas.ops.attention.gate`.
    - The hidden layer of AIFI follows its channels: in a model YAML it has a width that the scale does not change.
      Four times as many are RT-DETR's 1024 of 256.
    - What they cannot do is refused when they are built; Ultralytics fails in the first forward.

Every pixel attends to every other one: memory and time grow with the square of the pixels. Both papers have them at
the lowest resolution alone. The products of all pairs of pixels have no cost rule here: the host's counter sees them,
and that they grow with the square; what a module states of its cost, it takes as growing with the pixels.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.block import C2PSA
from ultralytics.nn.modules.transformer import AIFI

from nas.ops.attention.gate import STARTS, Attention, begin_inserted
from nas.ops.registry import Arg, counts_macs, register


class _Hosted(Attention):
    """An attention of Ultralytics', weighed against its input; (N, c, H, W) to the same.

    Args:
        inner: Keeps the shape of its input.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend to `x`, (N, c, H, W)."""
        y: torch.Tensor = x + self.residual_scale.to(x.dtype) * (self.inner(x) - x)
        return y


def _position_macs(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count the angles of the positions. The attention is a layer of PyTorch's, which the host's counter knows."""
    return output.numel() // 2


@register(
    rule="same",
    kinds={"attention"},
    params=(
        Arg("ratio", 4.0, "hidden channels of the feed-forward part over channels", low=0.25, high=8.0),
        Arg("num_heads", 8, "heads; they divide the channels", low=1, high=16),
    ),
    paper="AIFI (RT-DETR), CVPR 2024, arXiv:2304.08069",
    summary="attention: Ultralytics' AIFI, a transformer's layer over all pixels; low resolutions",
    requires="channels that 4 and the heads divide",
    start=begin_inserted,
    starts=STARTS,
    needs=(AIFI,),
)
@counts_macs(_position_macs)
class AIFIInsert(_Hosted):
    """Intra-scale feature interaction; (N, c, H, W) to the same.

    With p the sines and cosines of a pixel's row and column, and all pixels as one sequence::

        u = norm(x + attend(query x + p, key x + p, value x))
        y = norm(u + W2 gelu(W1 u + b1) + b2)

    Args:
        c: Channels.
        ratio: Hidden channels over channels.
        num_heads: Heads.

    Raises:
        ValueError: 4 or the heads do not divide the channels.
    """

    def __init__(self, c: int, ratio: float = 4.0, num_heads: int = 8) -> None:
        if c % 4 or c % num_heads:
            raise ValueError(
                f"AIFIInsert: {c} channels, num_heads={num_heads}: expected channels that 4 and the heads divide"
            )
        super().__init__(AIFI(c, max(int(c * ratio), 1), num_heads))


@register(
    rule="same",
    kinds={"attention"},
    params=(
        Arg("n", 1, "blocks of attention and feed-forward part", low=1, high=4),
        Arg("e", 0.5, "share of the channels that attends; a head has 64 of them or more", low=0.25, high=1.0),
    ),
    paper="YOLO11, Ultralytics 2024; PSA: YOLOv10, arXiv:2405.14458",
    summary="attention: Ultralytics' C2PSA, all pixels attend to each other in half of the channels; low resolutions",
    requires="channels of which the share e is at least two, that its heads divide",
    start=begin_inserted,
    starts=STARTS,
    needs=(C2PSA,),
)
class C2PSAInsert(_Hosted):
    """Position-sensitive attention for a part of the channels; (N, c, H, W) to the same.

    A 1x1 convolution makes two parts, through one of which go blocks ``b = b + attend(b)``, ``b = b + ffn(b)``; a 1x1
    convolution puts them together. Queries and keys have half as many channels as values.

    Args:
        c: Channels.
        n: Blocks.
        e: Share of the channels in a part.

    Raises:
        ValueError: A part has fewer than two channels, or a number that its heads, one for each 64, do not divide.
    """

    def __init__(self, c: int, n: int = 1, e: float = 0.5) -> None:
        part = int(c * e)
        heads = max(part // 64, 1)
        if part < 2 or part % heads:
            raise ValueError(
                f"C2PSAInsert: {c} channels, e={e}: {heads} heads of {part} channels: expected two channels or more, "
                "that the heads divide"
            )
        super().__init__(C2PSA(c, c, n, e))
