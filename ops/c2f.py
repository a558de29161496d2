"""C2f blocks whose bottlenecks end in another convolution.

Paper: none of their own; the block is Ultralytics' ``C2f`` (YOLOv8), the convolutions are those of the files beside
this one, which name their papers.
Origin: Ultralytics' ``C2f`` is imported, not copied (AGPL-3.0, as this project).

Deliberate differences:
    - The second 3x3 ``Conv`` of every bottleneck is the other convolution. All other state keys are those of ``C2f``,
      so that its weights transfer.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from ultralytics.nn.modules.block import C2f

from nas.ops.dcnv4 import DCNv4
from nas.ops.dynamicconv import DynamicConv
from nas.ops.registry import FromSlot, get, register
from nas.ops.spconv import SPConv

_SHORTCUT = FromSlot("shortcut", "shortcut")


class C2fWith(C2f):  # type: ignore[misc]  # Ultralytics is untyped
    """C2f with another convolution as ``cv2`` of its bottlenecks.

    Args:
        c1: Input channels.
        c2: Output channels.
        n: Bottlenecks.
        shortcut: Whether a bottleneck adds its input.
        conv: Makes the convolution for a number of channels, kernel 3 and stride 1.
    """

    def __init__(self, c1: int, c2: int, n: int, shortcut: bool, conv: Callable[[int], nn.Module]) -> None:
        super().__init__(c1, c2, n, shortcut)
        for bottleneck in self.m:
            bottleneck.cv2 = conv(self.c)


@register(
    rule="block",
    kinds={"block"},
    params=(_SHORTCUT, *get("DCNv4").args.values()),
    paper=get("DCNv4").paper,
    summary="C2f with deformable convolutions",
)
class C2f_DCNv4(C2fWith):
    """C2f with `nas.ops.dcnv4.DCNv4` in its bottlenecks; (N, c1, H, W) to (N, c2, H, W)."""

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = False,
        group_width: int = 16,
        offset_scale: float = 1.0,
        dw_kernel_size: int = 0,
        center_feature_scale: bool = False,
        remove_center: bool = False,
    ) -> None:
        def conv(c: int) -> DCNv4:
            return DCNv4(c, c, 3, 1, group_width, offset_scale, dw_kernel_size, center_feature_scale, remove_center)

        super().__init__(c1, c2, n, shortcut, conv)


@register(
    rule="block",
    kinds={"block"},
    params=(_SHORTCUT, *get("SPConv").args.values()),
    paper=get("SPConv").paper,
    summary="C2f with split convolutions",
)
class C2f_SPConv(C2fWith):
    """C2f with `nas.ops.spconv.SPConv` in its bottlenecks; (N, c1, H, W) to (N, c2, H, W)."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, ratio: float = 0.5) -> None:
        super().__init__(c1, c2, n, shortcut, lambda c: SPConv(c, c, 3, 1, ratio))


@register(
    rule="block",
    kinds={"block"},
    params=(_SHORTCUT, *get("DynamicConv").args.values()),
    paper=get("DynamicConv").paper,
    summary="C2f with dynamic convolutions",
)
class C2f_DynamicConv(C2fWith):
    """C2f with `nas.ops.dynamicconv.DynamicConv` in its bottlenecks; (N, c1, H, W) to (N, c2, H, W)."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = False, num_experts: int = 4, gate: str = "sigmoid"
    ) -> None:
        super().__init__(c1, c2, n, shortcut, lambda c: DynamicConv(c, c, 3, 1, num_experts, gate))
