"""Blocks of Ultralytics' later models, with the constructor of ``C2f``: GELAN and C3k2.

Paper: Wang et al., "YOLOv9: Learning What You Want to Learn Using Programmable Gradient Information" (GELAN), 2024,
https://arxiv.org/abs/2402.13616. C3k2 is YOLO11's, without a paper.
Origin: Ultralytics' ``RepNCSPELAN4`` and ``C3k2`` are imported, not copied (AGPL-3.0, as this project).

Deliberate differences:
    - They are called as ``C2f`` is, so that they can stand in its place. In a model YAML, ``RepNCSPELAN4`` has inner
      widths that the scale does not change, and ``C3k2`` changes the detection head of YOLOv8 and, at the scales m, l
      and x, its own argument.
"""

from __future__ import annotations

from ultralytics.nn.modules.block import C3k2, RepNCSPELAN4

from nas.ops.registry import Arg, FromSlot, register
from nas.ops.shrink import inherit_c2f


@register(
    rule="block",
    kinds={"block"},
    params=(Arg("e", 0.5, "inner channels over the output's", low=0.25, high=2.0),),
    paper="YOLOv9, 2024, arXiv:2402.13616",
    summary="Ultralytics' RepNCSPELAN4 (GELAN): two stages of CSP with re-parameterised bottlenecks, all concatenated",
)
class GELAN(RepNCSPELAN4):  # type: ignore[misc]  # Ultralytics is untyped
    """``RepNCSPELAN4`` with inner widths from its output's; (N, c1, H, W) to (N, c2, H, W).

    Args:
        c1: Input channels.
        c2: Output channels.
        n: Bottlenecks of each of the two stages.
        e: Channels behind the first convolution, over c2, in whole multiples of 4; each stage has half of them.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, e: float = 0.5) -> None:
        c3 = max(4 * round(c2 * e / 4), 4)
        super().__init__(c1, c2, c3, c3 // 2, n)


@register(
    rule="block",
    kinds={"block"},
    params=(
        FromSlot("shortcut", "shortcut"),
        Arg("c3k", True, "whether its blocks are C3 of two bottlenecks, or narrow bottlenecks"),
        Arg("e", 0.5, "channels between the 1x1 convolutions, over the output's", low=0.125, high=1.0, optional=True),
    ),
    paper="YOLO11, Ultralytics 2024",
    summary="Ultralytics' C3k2: C2f with small C3 blocks, or narrow bottlenecks, inside",
    inherit=inherit_c2f,
    starts="with c3k=false the repeats and channels of a replaced C2f that its output needs most, fitted to it on "
    "training images",
)
class C3k2Block(C3k2):  # type: ignore[misc]  # Ultralytics is untyped
    """``C3k2`` that takes its arguments as ``C2f`` does; (N, c1, H, W) to (N, c2, H, W).

    Args:
        c1: Input channels.
        c2: Output channels.
        n: Blocks inside.
        shortcut: Whether bottlenecks add their input.
        c3k: Whether the blocks are C3 of two bottlenecks, or single bottlenecks of half the width.
        e: Channels between the 1x1 convolutions, over c2.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, c3k: bool = True, e: float = 0.5) -> None:
        super().__init__(c1, c2, n, c3k, e, shortcut=shortcut)
