"""C2f blocks whose bottlenecks end in another convolution: ``C2f_NAME`` for every registered convolution ``NAME``.

Paper: none of their own; the block is Ultralytics' ``C2f`` (YOLOv8), the convolutions are those of the files beside
this one, which name their papers.
Origin: Ultralytics' ``C2f`` is imported, not copied (AGPL-3.0, as this project).

Deliberate differences:
    - The second 3x3 ``Conv`` of every bottleneck is the other convolution. All other state keys are those of ``C2f``,
      so that its weights transfer.

A block is one line here, `c2f_of` of its convolution: a class of this file, which pickles, imports and moves into
generated files as any other. Its registration follows from the convolution's.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from ultralytics.nn.modules.block import C2f

from nas.ops.akconv import AKConv
from nas.ops.dcnv2 import DCNv2
from nas.ops.dcnv3 import DCNv3
from nas.ops.dcnv4 import DCNv4
from nas.ops.dilated import MDCR, DilatedConv
from nas.ops.dsconv import DSConv
from nas.ops.dualconv import DualConv, HetConv
from nas.ops.dynamicconv import DynamicConv
from nas.ops.ghost import GhostConv
from nas.ops.orepa import OREPA
from nas.ops.pconv import PConv
from nas.ops.registry import FromSlot, get, register
from nas.ops.reparam import RepVGG
from nas.ops.spconv import SPConv
from nas.ops.warm_start import apply_start, bottlenecks_of, copy_conv, trained, trained_like


class C2fWith(C2f):  # type: ignore[misc]  # Ultralytics is untyped
    """C2f with another convolution as ``cv2`` of its bottlenecks; (N, c1, H, W) to (N, c2, H, W).

    Attributes:
        convolution: The class, called as ``convolution(c, c, 3, 1, ...)``.

    Args:
        c1: Input channels.
        c2: Output channels.
        n: Bottlenecks.
        shortcut: Whether a bottleneck adds its input.
        *args: The convolution's own, behind its kernel and stride.
        **kwargs: The same, by name.
    """

    convolution: type[nn.Module]

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, *args: Any, **kwargs: Any) -> None:
        super().__init__(c1, c2, n, shortcut)
        for bottleneck in self.m:
            bottleneck.cv2 = self.convolution(self.c, self.c, 3, 1, *args, **kwargs)


def c2f_of(convolution: type[nn.Module]) -> type[C2fWith]:
    """Return the class ``C2f_NAME`` of the convolution NAME, to be bound to that name in this file.

    Args:
        convolution: A class whose constructor takes c1, c2, kernel, stride, then what is its own.
    """
    own = list(inspect.signature(convolution).parameters.values())[4:]
    block = list(inspect.signature(C2fWith.__init__).parameters.values())[1:5]
    members = {
        "__module__": __name__,
        "__doc__": f"C2f with `{convolution.__name__}` in its bottlenecks; (N, c1, H, W) to (N, c2, H, W).",
        "__signature__": inspect.Signature(block + own),
        "convolution": convolution,
    }
    return type(f"C2f_{convolution.__name__}", (C2fWith,), members)


C2f_DCNv4 = c2f_of(DCNv4)
C2f_SPConv = c2f_of(SPConv)
C2f_DynamicConv = c2f_of(DynamicConv)
C2f_OREPA = c2f_of(OREPA)
C2f_RepVGG = c2f_of(RepVGG)
C2f_DualConv = c2f_of(DualConv)
C2f_HetConv = c2f_of(HetConv)
C2f_GhostConv = c2f_of(GhostConv)
C2f_PConv = c2f_of(PConv)
C2f_AKConv = c2f_of(AKConv)
C2f_DSConv = c2f_of(DSConv)
C2f_DCNv2 = c2f_of(DCNv2)
C2f_DCNv3 = c2f_of(DCNv3)
C2f_DilatedConv = c2f_of(DilatedConv)
C2f_MDCR = c2f_of(MDCR)


def _start(new: nn.Module, old: nn.Module) -> None:
    """Copy the convolutions that both blocks have; let the others start from the ones in their place."""
    assert isinstance(new, C2fWith)
    copies = [(new, old, "cv1"), (new, old, "cv2")]
    bottlenecks = bottlenecks_of(old, [m.add for m in new.m])
    for ours, theirs in zip(new.m, bottlenecks, strict=True):
        copies.append((ours, theirs, "cv1"))
        trained(getattr(theirs, "cv2", nn.Identity()), new.c, new.c, 3, 1)
    convs = [getattr(ours, name) for ours, _, name in copies]
    layers = [
        trained_like(getattr(theirs, name, nn.Identity()), conv)
        for conv, (_, theirs, name) in zip(convs, copies, strict=True)
    ]

    for conv, layer in zip(convs, layers, strict=True):
        copy_conv(conv, layer)
    for ours, theirs in zip(new.m, bottlenecks, strict=True):
        convolution = theirs.cv2
        assert isinstance(convolution, nn.Module)
        begun = apply_start(ours.cv2, convolution)
        assert begun, "checked above"


_NEAR = {
    "DCNv4": "less than a tenth",
    "SPConv": "about a tenth",
    "DualConv": "less than a tenth",
    "HetConv": "less than a tenth",
    "PConv": "about a tenth",
    "AKConv": "a few hundredths",
    "DilatedConv": "a few hundredths",
    "DCNv3": "a few hundredths",
    "GhostConv": "about a tenth",
    "DSConv": "about a hundredth",
}
"""How far off a block starts, as a part of the variance of the replaced one's output; the others are exact."""


def _register(block: type[C2fWith]) -> None:
    """Register a block by what its convolution's entry says."""
    name = block.convolution.__name__
    entry = get(name)
    register(
        rule="block",
        kinds={"block"},
        params=(FromSlot("shortcut", "shortcut"), *entry.args.values()),
        paper=entry.paper,
        summary=f"C2f, its second convolutions {name}: {entry.summary}",
        requires="inner channels, half of the output's, that the groups divide" if "groups" in entry.args else "",
        start=_start if entry.start else None,
        starts=_starts(name) if entry.start else "",
    )(block)


def _starts(name: str) -> str:
    """Say how a block starts whose convolution has a start."""
    if name not in _NEAR:
        held = ", or what their groups hold" if "groups" in get(name).args else ""
        return f"the replaced block exactly, its second convolutions begun as {name}{held}"
    return (
        f"the replaced block, its second convolutions begun as {name}: "
        f"off by {_NEAR[name]} of the output's variance on a trained YOLOv8n"
    )


for _block in C2fWith.__subclasses__():
    _register(_block)
