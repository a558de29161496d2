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
from nas.ops.start import CannotStart, begin, set_norm, trained

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


def _start(new: nn.Module, old: nn.Module) -> None:
    """Copy the convolutions that both blocks have; let the others start from the ones in their place."""
    assert isinstance(new, C2fWith)
    bottlenecks = getattr(old, "m", None)
    if not isinstance(bottlenecks, nn.ModuleList) or len(bottlenecks) != len(new.m):
        raise CannotStart(f"{type(old).__name__}: expected a C2f of {len(new.m)} bottlenecks")
    copies = [(new, old, "cv1"), (new, old, "cv2")]
    for ours, theirs in zip(new.m, bottlenecks, strict=True):
        if getattr(theirs, "add", None) != ours.add:
            raise CannotStart(f"{type(theirs).__name__}: expected a bottleneck with shortcut={ours.add}")
        copies.append((ours, theirs, "cv1"))
        trained(getattr(theirs, "cv2", nn.Identity()), new.c, new.c, 3, 1)
    layers = []
    for ours, theirs, name in copies:
        conv = getattr(ours, name).conv
        other = getattr(theirs, name, nn.Identity())
        layers.append(trained(other, conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0]))

    for (ours, _, name), layer in zip(copies, layers, strict=True):
        getattr(ours, name).conv.weight.copy_(layer.weight)
        set_norm(getattr(ours, name).bn, layer.mean, layer.var, layer.gain, layer.bias)
    for ours, theirs in zip(new.m, bottlenecks, strict=True):
        convolution = theirs.cv2
        assert isinstance(convolution, nn.Module)
        begun = begin(ours.cv2, convolution)
        assert begun, "checked above"


@register(
    rule="block",
    kinds={"block"},
    params=(_SHORTCUT, *get("DCNv4").args.values()),
    paper=get("DCNv4").paper,
    summary="C2f with deformable convolutions",
    start=_start,
    starts="the replaced block, its second convolutions begun as DCNv4: "
    "off by less than a tenth of the output's variance on a trained YOLOv8n",
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
    start=_start,
    starts="the replaced block, its second convolutions begun as SPConv: "
    "off by about a tenth of the output's variance on a trained YOLOv8n",
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
    start=_start,
    starts="the replaced block exactly, its second convolutions mixed from experts that differ",
)
class C2f_DynamicConv(C2fWith):
    """C2f with `nas.ops.dynamicconv.DynamicConv` in its bottlenecks; (N, c1, H, W) to (N, c2, H, W)."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = False, num_experts: int = 4, gate: str = "sigmoid"
    ) -> None:
        super().__init__(c1, c2, n, shortcut, lambda c: DynamicConv(c, c, 3, 1, num_experts, gate))
