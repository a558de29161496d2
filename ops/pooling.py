"""Pooling blocks at the end of the backbone: SPP, SPPF, SPPELAN, and SPPF with LSKA.

Papers: SPP, He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition", ECCV 2014,
https://arxiv.org/abs/1406.4729; SPPF, Ultralytics' YOLOv5; SPPELAN, Wang et al., "YOLOv9: Learning What You Want to
Learn Using Programmable Gradient Information", 2024, https://arxiv.org/abs/2402.13616; SPPF with LSKA, Lau et al.,
https://arxiv.org/abs/2309.01439, in the form that circulates for YOLOv8.
Origin: SPP, SPPF and SPPELAN are Ultralytics' classes, registered as they are (AGPL-3.0, as this project).

Deliberate differences:
    - None of their own. SPPELAN's inner channels are an argument that Ultralytics does not scale with the width.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules.block import SPP, SPPELAN, SPPF
from ultralytics.nn.modules.conv import Conv

from nas.ops.attention.lska import KERNELS, LSKA, begin_gate
from nas.ops.registry import Arg, register
from nas.ops.warm_start import CannotStart

_K = Arg("k", 5, "window of a pooling", low=3, high=13, odd=True)


def _start(new: nn.Module, old: nn.Module) -> None:
    """Copy both convolutions, the first one of which is before the poolings."""
    first, last = new.cv1, new.cv5 if isinstance(new, SPPELAN) else new.cv2
    assert isinstance(first, Conv)
    assert isinstance(last, Conv)
    if not isinstance(old, SPPF) or getattr(old, "n", 3) != 3 or getattr(old, "add", False):
        raise CannotStart(f"{type(old).__name__}: expected SPPF of three poolings, without a shortcut")
    pairs = ((first, old.cv1), (last, old.cv2))
    for mine, theirs in pairs:
        own, given = mine.state_dict(), theirs.state_dict()
        if own.keys() != given.keys() or any(own[key].shape != given[key].shape for key in own):
            raise CannotStart(f"{type(old).__name__}: expected convolutions of the same sizes")
    for mine, theirs in pairs:
        mine.load_state_dict(theirs.state_dict())
    if isinstance(new, SPPF_LSKA):
        begin_gate(new.lska)


_EXACTLY = "the replaced SPPF exactly, where the windows are the same"

register(
    rule="conv",
    kinds={"pool"},
    paper="SPP, ECCV 2014, arXiv:1406.4729",
    summary="pooling block: maxima of windows of 5, 9 and 13 pixels side by side",
    start=_start,
    starts=_EXACTLY,
)(SPP)

register(
    rule="conv",
    kinds={"pool"},
    params=(_K,),
    paper="SPPF, YOLOv5",
    summary="pooling block: three maxima one after the other, which reach as far as SPP's",
    start=_start,
    starts=_EXACTLY,
)(SPPF)

register(
    rule="conv",
    kinds={"pool"},
    params=(Arg("c3", 128, "inner channels; the width does not scale them", low=8, high=1024), _K),
    paper="YOLOv9, arXiv:2402.13616",
    summary="pooling block: SPPF with a number of inner channels of its own",
    start=_start,
    starts=f"{_EXACTLY} and the inner channels are half of the input's",
)(SPPELAN)


@register(
    rule="conv",
    kinds={"pool"},
    params=(_K, Arg("k_size", 11, "size of the attention's kernel", options=KERNELS)),
    paper="LSKA, arXiv:2309.01439",
    summary="pooling block: SPPF with a large kernel attention before its last convolution",
    start=_start,
    starts=_EXACTLY,
)
class SPPF_LSKA(nn.Module):
    """SPPF with large separable kernel attention; (N, c1, H, W) to (N, c2, H, W).

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Window of a pooling, odd.
        k_size: Size of the attention's kernel, one of `nas.ops.attention.lska.KERNELS`.

    Raises:
        ValueError: The attention has no such kernel.
    """

    def __init__(self, c1: int, c2: int, k: int = 5, k_size: int = 11) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden)
        self.m = nn.MaxPool2d(k, 1, k // 2)
        self.lska = LSKA(4 * hidden, k_size)
        self.cv2 = Conv(4 * hidden, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool `x`, (N, c1, H, W)."""
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(self.m(maps[-1]))
        y: torch.Tensor = self.cv2(self.lska(torch.cat(maps, 1)))
        return y
