"""The cost of a variant: parameters, GFLOPs, and the operations that are not counted.

GFLOPs follow Ultralytics' convention, so that they are comparable with published tables: twice the multiply-accumulates
of one 640 x 640 image (plus what its counter adds for normalisation and upsampling), with the YAML's number of classes.
Work that its counter does not see (a convolution with computed weights, a sampling) is counted by each module's own
rule (`nas.ops.registry.counts_macs`). Operations that no rule counts, such as activations, are listed with their size;
a cost is never silently 0.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nas.errors import BuildError, HeadError, one_line
from nas.model.host import build, register_costs, unregister_costs
from nas.model.render import ModelFiles, render
from nas.ops import registry
from nas.space.variant import Variant

IMGSZ = 640
"""Image side, in pixels, at which costs are stated."""

_COUNTED = (
    "convolution",
    "batch_norm",
    "native_batch_norm",
    "layer_norm",
    "group_norm",
    "addmm",
    "mm",
    "bmm",
    "matmul",
    "linear",
    "upsample_nearest2d",
    "scaled_dot_product",
)
_MOVES = (
    "view", "reshape", "permute", "transpose", "expand", "slice", "select", "split", "chunk", "cat", "stack", "clone",
    "copy", "contiguous", "squeeze", "unbind", "alias", "as_strided", "detach", "t", "empty", "zeros", "ones", "full",
    "arange", "lift", "to", "fill", "pixel_shuffle", "pixel_unshuffle", "unfold", "im2col", "constant_pad", "index",
    "gather", "repeat", "narrow", "scalar_tensor", "new", "pad", "roll", "flip", "movedim", "flatten", "unflatten",
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """The cost of a model.

    Attributes:
        params: Parameters.
        gflops: 1e9 floating point operations for one image of 640 px, in Ultralytics' convention, all rules applied.
        stock_gflops: GFLOPs by Ultralytics' counter, without the rules of the registered modules.
        uncounted: Operation to the elements that it writes for one image of 640 px, largest first; none is in `gflops`.
    """

    params: int
    gflops: float
    stock_gflops: float
    uncounted: tuple[tuple[str, int], ...] = ()

    @property
    def summary(self) -> str:
        """One line, as in the comment after a scale of a model YAML."""
        return f"{self.params} parameters, {self.gflops:.1f} GFLOPs"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for storing."""
        return asdict(self) | {"uncounted": [list(pair) for pair in self.uncounted]}


def costed(variant: Variant) -> tuple[ModelFiles, Cost]:
    """Build a variant from what is rendered for it, cost it, and return its files with the cost in them.

    Raises:
        HeadError: As `_built`.
        BuildError: It cannot be built, run or counted.
        SpaceError: It does not fit its base.
    """
    cost = model_cost(_built(variant))
    return render(variant, {variant.scale: cost.summary}), cost


def gflops_and_params(variant: Variant) -> tuple[float, int]:
    """Return a variant's `Cost.gflops` and `Cost.params` alone, which takes a third of the time of `costed`.

    Raises:
        HeadError: As `_built`.
        BuildError: It cannot be built, run or counted.
        SpaceError: It does not fit its base.
    """
    model = _built(variant)
    register_costs()
    try:
        gflops = _gflops(model)
    except Exception as error:  # any error of a module's rule or forward is the variant's failure
        raise BuildError(f"cannot be costed: {one_line(error)}") from error
    return gflops, sum(p.numel() for p in model.parameters())


def _built(variant: Variant) -> nn.Module:
    """Build a variant.

    Raises:
        HeadError: No block is left for which Ultralytics builds the head of its base, YOLO11 or one like it.
        BuildError: It cannot be built.
    """
    model = build(render(variant).yaml, variant.scale)
    head: Any = model.model[-1]  # type: ignore[index]  # nn.Sequential of the host
    wants_own = ("legacy", False) in variant.graph().constants
    if wants_own and vars(type(head)).get("legacy"):  # as the host set it for this model; heads of nas have none
        raise HeadError(
            f"cannot be compared: Ultralytics builds the {type(head).__name__} of YOLOv8 where no C3k2, no A2C2f and "
            "no module that nas registers is in the model"
        )
    return model


def model_cost(model: nn.Module) -> Cost:
    """Cost a model.

    Raises:
        BuildError: The counter fails, or counts nothing.
    """
    register_costs()
    try:
        gflops = _gflops(model)
        unregister_costs()
        try:
            stock = _gflops(model)
        finally:
            register_costs()
        uncounted = _uncounted(model)
    except Exception as error:  # any error of a module's rule or forward is the variant's failure
        raise BuildError(f"cannot be costed: {one_line(error)}") from error
    if not gflops > 0:
        raise BuildError("cannot be costed: the counter found no operations")
    return Cost(sum(p.numel() for p in model.parameters()), gflops, stock, uncounted)


def _gflops(model: nn.Module) -> float:
    """Return the GFLOPs of one image, as the host's own summary computes them, but with errors raised."""
    thop = importlib.import_module("thop")
    parameter = next(model.parameters())
    image = torch.empty((1, 3, IMGSZ, IMGSZ), device=parameter.device, dtype=parameter.dtype)
    # Counted on small images, of whole multiples of 64 so that a map of stride 32 can be halved once more.
    macs: float = thop.profile(model, inputs=[image], stride=64, verbose=False)[0]
    return 2 * macs / 1e9


def _uncounted(model: nn.Module) -> tuple[tuple[str, int], ...]:
    """Run the model on shapes alone and return the operations that no rule covers, with the elements they write."""
    shapes = copy.deepcopy(model).to("meta")
    for mine, theirs in zip(shapes.modules(), model.modules(), strict=True):
        if isinstance(getattr(theirs, "stride", None), torch.Tensor):
            mine.stride = theirs.stride  # the head reads its values; they have none on "meta"
    listing = _Listing()
    with _covered(shapes, listing), listing, torch.no_grad():
        shapes(torch.empty(1, 3, IMGSZ, IMGSZ, device="meta"))
    return tuple(sorted(listing.elements.items(), key=lambda item: (-item[1], item[0])))


class _Listing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base class is untyped
    """Sums up the elements written by each operation, outside of modules that have a rule."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's base class is untyped
        self.elements: dict[str, int] = {}
        self.depth = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.strip("_")
        written = result[0] if isinstance(result, tuple | list) and result else result
        moves = any(name == m or name.startswith(f"{m}_") for m in _MOVES)
        if self.depth == 0 and isinstance(written, torch.Tensor) and not moves and not name.startswith(_COUNTED):
            self.elements[name] = self.elements.get(name, 0) + written.numel()
        return result


@contextmanager
def _covered(model: nn.Module, listing: _Listing) -> Iterator[None]:
    """Suspend the listing while a module runs that has a rule."""
    rules = tuple(registry.macs_rules())

    def enter(*_: object) -> None:
        listing.depth += 1

    def leave(*_: object) -> None:
        listing.depth -= 1

    handles = []
    for module in model.modules():
        if isinstance(module, rules):
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
