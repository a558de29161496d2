"""Convolutions that Ultralytics has and that fit a slot as they are: GhostConv.

Paper: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020, https://arxiv.org/abs/1911.11907.
Origin: Ultralytics' ``GhostConv`` is imported, not copied (AGPL-3.0, as this project). Model YAMLs call it by its name
without any registration.
"""

from __future__ import annotations

from ultralytics.nn.modules.conv import GhostConv

from nas.ops.registry import FromSlot, register

__all__ = ["GhostConv"]

register(
    rule="conv",
    kinds={"conv", "down"},
    params=(FromSlot("k", "kernel"), FromSlot("s", "stride")),
    paper="GhostNet, CVPR 2020, arXiv:1911.11907",
    summary="Ultralytics' GhostConv: half of the channels by a convolution, half from those by a depthwise 5x5",
)(GhostConv)
