"""What the deformable convolutions (DCNv2, DCNv3, DCNv4) have in common.

DCNv3 and DCNv4 sample projected channels at points that groups of them share, and project the sums; see
`nas.ops.dcnv3` and `nas.ops.dcnv4` for their papers. Their operator is `nas.ops.functional.dcnv4`.
"""

from __future__ import annotations

import torch
from torch import nn

from nas.ops.registry import Arg

GROUP_WIDTH = Arg("group_width", 16, "channels that share their sampling points", low=1, high=256)
DILATION = Arg("dilation", 1, "pixels from tap to tap, before offsets", low=1, high=8, optional=True)
OFFSET_SCALE = Arg("offset_scale", 1.0, "scale of the sampling grid and its offsets", low=0.1, high=8.0)


def projection(c1: int, c2: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer with the authors' initial values: Xavier's weights and no bias."""
    layer = nn.Linear(c1, c2, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def as_maps(y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return channels-last features (N, H, W, C) as maps (N, C, H, W), in memory as `like` is."""
    y = y.permute(0, 3, 1, 2)
    return y if like.is_contiguous(memory_format=torch.channels_last) else y.contiguous()
