"""Ghost modules: half of the channels by a convolution, the other half from those, each by itself.

Paper: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020, https://arxiv.org/abs/1911.11907.
Origin: Ultralytics' ``GhostConv`` and ``GhostBottleneck`` are imported, not copied (AGPL-3.0, as this project). Model
YAMLs call ``GhostConv`` by its name without any registration.

Deliberate differences:
    - `C2f_Ghost` is Ultralytics' ``C2f`` with its ``GhostBottleneck`` inside, as its ``C3Ghost`` is of ``C3``. (With
      ``GhostConv`` as the second convolution of a plain bottleneck it is `C2f_GhostConv`.)
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.block import C2f, GhostBottleneck
from ultralytics.nn.modules.conv import Conv, GhostConv

from nas.ops.gaussian import activated, predicted
from nas.ops.registry import FromSlot, register
from nas.ops.warm_start import correlation, set_norm, trained

__all__ = ["C2f_Ghost", "GhostConv"]


def _start(new: nn.Module, old: nn.Module) -> None:
    """Keep the first half of the channels; let each of the others be what its partner of the first half says of it."""
    assert isinstance(new, GhostConv)
    first, second = new.cv1, new.cv2
    assert isinstance(first, Conv)
    assert isinstance(second, Conv)
    half = first.conv.out_channels
    k, s = first.conv.kernel_size[0], first.conv.stride[0]
    layer = trained(old, first.conv.in_channels, 2 * half, k, s)
    first.conv.weight.copy_(layer.weight[:half])
    set_norm(first.bn, layer.mean[:half], layer.var[:half], layer.gain[:half], layer.bias[:half])
    # The normed sums of both have these standard deviations, with a sign.
    spread = layer.gain * layer.var.sqrt()
    mean, var, slope = activated(layer.bias[:half], spread[:half], first.act)
    deviation = var.clamp_min(torch.finfo(var.dtype).tiny).sqrt()
    # The correlation of the other's sum with what the activation makes of the first one's.
    share = correlation(layer.weight[:half], layer.weight[half:]) * (slope * spread[:half] / deviation).clamp(-1, 1)
    share = share * torch.where(layer.gain[half:] < 0, -1, 1)
    steepness, level = predicted(second.act, layer.bias[half:], spread[half:].abs(), share)
    nn.init.dirac_(second.conv.weight, groups=half)
    set_norm(second.bn, mean, var, steepness / deviation, level)


register(
    rule="conv",
    kinds={"conv", "down"},
    params=(FromSlot("k", "kernel"), FromSlot("s", "stride")),
    paper="GhostNet, CVPR 2020, arXiv:1911.11907",
    summary="Ultralytics' GhostConv: half of the channels by a convolution, half from those by a depthwise 5x5",
    start=_start,
    starts="the first half of the replaced layer's channels exactly, and the others as far as they go with those: "
    "off by about half of the output's variance on a trained YOLOv8n",
)(GhostConv)


@register(
    rule="block",
    kinds={"block"},
    paper="GhostNet, CVPR 2020, arXiv:1911.11907",
    summary="C2f with Ultralytics' Ghost bottlenecks",
    requires="a number of output channels that 8 divides",
    needs=(GhostBottleneck,),
)
class C2f_Ghost(C2f):  # type: ignore[misc]  # Ultralytics is untyped
    """C2f with Ghost bottlenecks, which always add their input; (N, c1, H, W) to (N, c2, H, W).

    Args:
        c1: Input channels.
        c2: Output channels, a multiple of 8.
        n: Bottlenecks.

    Raises:
        ValueError: Other channels: a half of a half of those inside is halved once more.
    """

    def __init__(self, c1: int, c2: int, n: int = 1) -> None:
        if c2 % 8:
            raise ValueError(f"C2f_Ghost: {c2} output channels: expected a multiple of 8")
        super().__init__(c1, c2, n)
        self.m = nn.ModuleList(GhostBottleneck(self.c, self.c) for _ in range(n))
