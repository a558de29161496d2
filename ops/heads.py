"""Lighter detection heads: depthwise and narrower branches, and a tower that the levels share.

Papers: depthwise class branches are YOLO11's, Ultralytics 2024, without a paper; convolutions that levels share, each
level with batch norms of its own: Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors",
2022, https://arxiv.org/abs/2212.07784.
Origin: Ultralytics' ``Detect`` is the base class and does all but the convolutions: strides, decoding, the loss's
view of the outputs (AGPL-3.0, as this project).

Deliberate differences:
    - Every head has the branches ``cv2`` (boxes) and ``cv3`` (classes) of ``Detect``, a list of one for each level,
      that end in a convolution with bias: Ultralytics sets these biases and reads the branches by these names.
    - RTMDet has a tower for classes and one for boxes. Here one serves both, behind a 1x1 convolution for each level,
      as in the heads that circulate for YOLOv8: half of the cost.
    - No end-to-end form: they do not stand in for ``v10Detect``, nor for the head of YOLO26.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv, DWConv
from ultralytics.nn.modules.head import Detect

from nas.ops.registry import Arg, register
from nas.ops.shrink_heads import inherit_light, inherit_shared


def _scaled(channels: int, share: float) -> int:
    """Return a share of channels, in multiples of 8; never more than the channels where the share is at most 1."""
    scaled = max(8, 8 * round(channels * share / 8))
    return scaled if share > 1 else min(scaled, channels)


def _branch(c1: int, hidden: int, out: int, *, depthwise: bool) -> nn.Sequential:
    """Return two 3x3 convolutions, dense or depthwise and 1x1, and the one that predicts."""
    if not depthwise:
        return nn.Sequential(Conv(c1, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, out, 1))
    return nn.Sequential(
        nn.Sequential(DWConv(c1, c1, 3), Conv(c1, hidden, 1)),
        nn.Sequential(DWConv(hidden, hidden, 3), Conv(hidden, hidden, 1)),
        nn.Conv2d(hidden, out, 1),
    )


def is_head(module: nn.Module) -> bool:
    """Return whether a layer is a detection head: it predicts from a list of maps."""
    return isinstance(module, Detect)


def head_maps(head: Any, inputs: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return what a head predicts, in any mode and release, before boxes are decoded.

    Args:
        head: Ultralytics' ``Detect``, or one of this file.
        inputs: The maps of its levels, (N, c, H, W) each.

    Returns:
        For each level the distributions of the four sides, (N, 4 * reg_max, H, W), and the class logits, (N, nc, H, W).
    """
    maps = head.features(inputs) if hasattr(head, "features") else inputs
    return [(head.cv2[i](x), head.cv3[i](x)) for i, x in enumerate(maps)]


@register(
    rule="head",
    kinds={"head"},
    params=(
        Arg("depthwise", "classes", "branches of depthwise convolutions", options=("classes", "both", "none")),
        Arg("box", 1.0, "channels of the branch for boxes, over the stock head's", low=0.125, high=1.0),
        Arg("cls", 1.0, "channels of the branch for classes, over the stock head's", low=0.125, high=1.0),
    ),
    paper="YOLO11, Ultralytics 2024",
    summary="Detect with a depthwise class branch as in YOLO11, and narrower branches",
    inherit=inherit_light,
    starts="the channels of the replaced head that its outputs need most, fitted to it on training images",
)
class LightDetect(Detect):  # type: ignore[misc]  # Ultralytics is untyped
    """``Detect`` with lighter branches; maps of some levels to boxes and classes, as ``Detect``.

    Args:
        nc: Classes.
        ch: Channels of the levels.
        depthwise: Which branches have depthwise convolutions: ``classes``, ``both`` or ``none``.
        box: Channels inside the branches for boxes, over those of ``Detect``.
        cls: Channels inside the branches for classes, over those of ``Detect``.
    """

    def __init__(
        self,
        nc: int = 80,
        ch: tuple[int, ...] = (),
        depthwise: Literal["classes", "both", "none"] = "classes",
        box: float = 1.0,
        cls: float = 1.0,
    ) -> None:
        super().__init__(nc=nc, ch=ch)
        sides = 4 * self.reg_max
        c2 = _scaled(max(16, ch[0] // 4, sides), box)
        c3 = _scaled(max(ch[0], min(nc, 100)), cls)
        self.cv2 = nn.ModuleList(_branch(x, c2, sides, depthwise=depthwise == "both") for x in ch)
        self.cv3 = nn.ModuleList(_branch(x, c3, nc, depthwise=depthwise != "none") for x in ch)


class SharedConv(nn.Module):
    """A 3x3 convolution that levels share, with a batch norm for each; (N, c, H, W) to the same.

    Args:
        c: Channels.
        levels: Number of levels.
    """

    def __init__(self, c: int, levels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for _ in range(levels))
        self.act = Conv.default_act

    def forward(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Convolve the map of a level."""
        y: torch.Tensor = self.act(self.norms[level](self.conv(x)))
        return y


@register(
    rule="head",
    kinds={"head"},
    params=(
        Arg("width", 1.0, "channels inside, over those of the first level", low=0.125, high=2.0),
        Arg("depth", 2, "3x3 convolutions that the levels share", low=1, high=4),
    ),
    paper="RTMDet, 2022, arXiv:2212.07784",
    summary="Detect with one tower of convolutions for all levels, boxes and classes; batch norms for each level",
    inherit=inherit_shared,
    starts="its own initial values, with predictions that are fitted to the replaced head on training images",
)
class SharedDetect(Detect):  # type: ignore[misc]  # Ultralytics is untyped
    """``Detect`` with one tower for all levels; maps of some levels to boxes and classes, as ``Detect``.

    Its tower starts at random: the trained branches of the levels share no channels, so there is no kernel of theirs
    that serves all levels. A short distillation does not make up for it; train it for longer than other heads.

    Args:
        nc: Classes.
        ch: Channels of the levels.
        width: Channels inside, over ``ch[0]``.
        depth: Convolutions of the tower.
    """

    def __init__(self, nc: int = 80, ch: tuple[int, ...] = (), width: float = 1.0, depth: int = 2) -> None:
        super().__init__(nc=nc, ch=ch)
        hidden = _scaled(ch[0], width)
        self.stems = nn.ModuleList(Conv(x, hidden) for x in ch)
        self.tower = nn.ModuleList(SharedConv(hidden, len(ch)) for _ in range(depth))
        self.cv2 = nn.ModuleList(nn.Sequential(nn.Conv2d(hidden, 4 * self.reg_max, 1)) for _ in ch)
        self.cv3 = nn.ModuleList(nn.Sequential(nn.Conv2d(hidden, nc, 1)) for _ in ch)

    def features(self, x: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return what predictions are made of, (N, hidden, H, W) for each level."""
        maps = [stem(m) for stem, m in zip(self.stems, x, strict=True)]
        for conv in self.tower:
            maps = [conv(m, level) for level, m in enumerate(maps)]
        return maps

    def forward(self, x: list[torch.Tensor]) -> Any:
        """Predict from the maps of the levels, as ``Detect`` does."""
        return super().forward(self.features(x))
