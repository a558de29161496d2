"""Named layers: the architecture as a graph that survives swaps and insertions.

Ultralytics' model YAMLs address layers by row number, and an inserted row shifts every number after it. Here a layer
has a name and takes its inputs by name; numbers exist only in what `LayerGraph.rows` returns for printing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from nas.errors import SpaceError
from nas.ops.registry import SlotKind, Value, did_you_mean

IMAGE = "image"
"""Name of the first layer's input."""

RowArg: TypeAlias = "Value | tuple[RowArg, ...] | None"

_CONVS = frozenset({"Conv", "GhostConv", "DWConv", "SCDown"})
"""Row arguments: channels, kernel, stride."""
_HALVING = {"ADown": 3, "AConv": 3, "Focus": 1}
"""Layers of stride 2 without a stride in their rows, and their kernels."""
_BLOCKS: dict[str, tuple[int, bool]] = {
    "Bottleneck": (1, True),
    "BottleneckCSP": (1, True),
    "C2": (1, True),
    "C2f": (1, False),
    "C3": (1, True),
    "C3x": (1, True),
    "C3Ghost": (1, True),
    "C3TR": (1, True),
    "C3k2": (5, True),
    "C2fCIB": (1, False),
    "A2C2f": (8, True),
    "C1": (99, False),
    "RepC3": (99, False),
    "ELAN1": (99, False),
    "RepNCSPELAN4": (99, False),
}
"""Blocks: index of the row argument that says whether a bottleneck adds its input (99: none), and the default."""
_POOLS = frozenset({"SPP", "SPPF", "SPPELAN"})
_HEADS = frozenset({"Detect"})
PASSING = frozenset({"nn.Upsample", "Concat"})
"""Layers that pass on the channels that they get."""
_SAME = frozenset({"AIFI"})
"""Further layers with as many channels as they get, and another number as their first argument."""
_UNSCALED: Mapping[str, Callable[[tuple[Any, ...]], int]] = {
    "HGStem": lambda args: int(args[1]),
    "HGBlock": lambda args: int(args[1]),
    "ResNetLayer": lambda args: int(args[1]) * (1 if args[3:] and args[3] else 4),
}
"""Output channels of layers that a scale does not change, from their row arguments."""


@dataclass(frozen=True)
class Layer:
    """One named layer.

    Attributes:
        name: Section and name, such as ``neck.up_p4``; an inserted layer is called ``neck.c2f_p3+EMA``.
        sources: The layers whose outputs it takes, by name.
        module: The class, as model YAMLs write it.
        args: Row arguments, as model YAMLs write them: before width and depth scaling.
        repeats: Repeats before depth scaling.
        note: Printed as a comment.
        swap: The label of the choice that put this layer here; empty for the base's own layers.
    """

    name: str
    sources: tuple[str, ...]
    module: str
    args: tuple[RowArg, ...]
    repeats: int = 1
    note: str = ""
    swap: str = ""

    @property
    def section(self) -> str:
        """The part of the name before the dot: ``backbone``, ``neck`` or ``head``."""
        return self.name.partition(".")[0]

    @property
    def kind(self) -> SlotKind | None:
        """The kind of slot that this layer is; None for layers that cannot be swapped (concatenations)."""
        if self.module in ("nn.Upsample", "nn.ConvTranspose2d"):
            return "up"
        if self.module in _CONVS or self.module in _HALVING:
            return "down" if self.slot_values["stride"] == 2 else "conv"
        if self.module in _BLOCKS:
            return "block"
        if self.module in _HEADS:
            return "head"
        return "pool" if self.module in _POOLS else None

    @property
    def slot_values(self) -> dict[str, Value]:
        """Values that a module in its place takes over, such as the stride; see `nas.ops.registry.FromSlot`."""
        if self.module == "nn.Upsample":
            return {"scale": _number(self.args[1])}
        if self.module == "nn.ConvTranspose2d":
            return {"scale": _number(self.args[2])}
        if self.module in _HALVING:
            return {"kernel": _HALVING[self.module], "stride": 2}
        if self.module in _CONVS:
            kernel, stride = (int(_number(a)) for a in [*self.args[1:3], 1, 1][:2])
            return {"kernel": kernel - (kernel % 2 == 0), "stride": stride}  # YOLOv5's 6x6 pads as a 5x5 does
        if self.module in _BLOCKS:
            place, default = _BLOCKS[self.module]
            return {"shortcut": bool(self.args[place]) if len(self.args) > place else default}
        return {}


@dataclass(frozen=True)
class NumberedRow:
    """A layer as a row of a model YAML: with numbers in place of names."""

    index: int
    source: int | tuple[int, ...]
    layer: Layer


@dataclass(frozen=True)
class LayerGraph:
    """An architecture: layers in order, and the constants that scale them.

    Attributes:
        base: Name of the base.
        title: The base's display name.
        nc: Number of classes in the YAML; a training replaces it by the dataset's.
        scales: Scale letter to depth, width and largest channel count; empty for a base of one size.
        layers: In order of execution.
        constants: Further settings of its YAML for the whole model, such as ``activation``.
    """

    base: str
    title: str
    nc: int
    scales: Mapping[str, tuple[float, float, int]]
    layers: tuple[Layer, ...]
    constants: tuple[tuple[str, RowArg], ...] = ()
    _index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {layer.name: i for i, layer in enumerate(self.layers)})

    @property
    def default_scale(self) -> str:
        """The first scale letter; empty for a base of one size."""
        return next(iter(self.scales), "")

    def has_size(self, letter: str, depth: object, width: object) -> bool:
        """Return whether a scale makes the model that this depth and width make without a limit of channels."""
        own_depth, own_width, most = self.scales[letter]
        widest = max((_widest(layer) for layer in self.layers), default=0)
        return (own_depth, own_width) == (depth, width) and most >= widest

    @property
    def names(self) -> tuple[str, ...]:
        """Layer names in order."""
        return tuple(self._index)

    def __getitem__(self, name: str) -> Layer:
        """Return a layer.

        Raises:
            SpaceError: There is none of that name.
        """
        if name not in self._index:
            raise SpaceError(f"{self.base} has no layer {name!r}{did_you_mean(name, self._index)}")
        return self.layers[self._index[name]]

    def guide_of(self, name: str) -> str:
        """Return the layer that can guide a module in `name`'s place; empty if there is none.

        It is the other source of the concatenation that takes `name`'s output: what is concatenated has one size. It
        has to come before `name`.
        """
        for layer in self.layers:
            others = [s for s in layer.sources if s != name]
            if layer.module == "Concat" and name in layer.sources and len(others) == 1:
                (guide,) = others
                if guide != IMAGE and self._index[guide] < self._index[name]:
                    return guide
        return ""

    def inputs(self, name: str) -> tuple[str, ...]:
        """Return what a layer takes, in order, with what `PASSING` layers pass on in their place."""
        return tuple(leaf for source in self[name].sources for leaf in self._leaves(source))

    def _leaves(self, source: str) -> tuple[str, ...]:
        return self.inputs(source) if source != IMAGE and self[source].module in PASSING else (source,)

    def readers(self, name: str) -> tuple[Layer, ...]:
        """Return the layers that take a layer's output, by themselves or through `PASSING` layers."""
        return tuple(x for x in self.layers if x.module not in PASSING and name in self.inputs(x.name))

    def channels(self, name: str, scale: str) -> int:
        """Return the number of output channels of a base's layer at a scale, as ``parse_model`` computes it."""
        if name == IMAGE:
            return 3
        layer = self[name]
        own = layer.args[0] if layer.args else None
        if layer.module in _UNSCALED:
            return _UNSCALED[layer.module](layer.args)
        if layer.module in PASSING or layer.module in _SAME or type(own) is not int:
            return sum(self.channels(source, scale) for source in layer.sources)
        return self.scaled(own, scale)

    def scaled(self, count: int, scale: str) -> int:
        """Return the channels at a scale of a row that has `count`."""
        _, width, most = self.scales.get(scale, (1.0, 1.0, count))
        return 8 * math.ceil(min(count, most) * width / 8)

    def narrow(self, name: str, share: float, scale: str, label: str) -> LayerGraph:
        """Return the graph with a share of a layer's output channels at a scale, in multiples of 8.

        Raises:
            SpaceError: That changes nothing.
        """
        layer, before = self[name], self.channels(name, scale)
        wanted = max(8, 8 * math.floor(before * share / 8 + 0.5))
        if wanted >= before:
            raise SpaceError(f"{name}: {label} leaves all of its {before} channels, in multiples of 8: use `keep`")
        _, width, _ = self.scales.get(scale, (1.0, 1.0, 0))
        given = math.floor(wanted / width)
        given -= given == self.nc  # parse_model does not scale channels that are as many as the classes
        return self.swap(name, layer.module, (given, *layer.args[1:]), label)

    def swap(
        self,
        name: str,
        module: str,
        args: tuple[RowArg, ...],
        label: str,
        guide: str = "",
        repeats: int | None = None,
    ) -> LayerGraph:
        """Return the graph with another module in a layer's place; name and inputs stay.

        Args:
            name: The layer.
            module: The class that takes its place.
            args: Its row arguments.
            label: The choice's label.
            guide: A layer whose output it takes in addition to its input; empty for none.
            repeats: Repeats before depth scaling; None for the layer's own.
        """
        old = self[name]
        sources = (*old.sources, guide) if guide else old.sources
        new = replace(old, sources=sources, module=module, args=args, swap=label, repeats=repeats or old.repeats)
        return replace(self, layers=tuple(new if layer.name == name else layer for layer in self.layers))

    def insert(
        self, name: str, module: str, args: tuple[RowArg, ...], label: str, repeats: int | None = None
    ) -> LayerGraph:
        """Return the graph with a new layer after `name`; layers that took `name`'s output take the new layer's."""
        self[name]
        new = Layer(f"{name}+{module}", (name,), module, args, repeats or 1, swap=label)
        layers: list[Layer] = []
        for layer in self.layers:
            if layer.name == name:
                layers += [layer, new]
            else:
                layers.append(replace(layer, sources=tuple(new.name if s == name else s for s in layer.sources)))
        return replace(self, layers=tuple(layers))

    def rows(self) -> tuple[NumberedRow, ...]:
        """Return the layers as numbered rows: -1 for a first input from the row before, else the row's number."""
        rows = []
        for i, layer in enumerate(self.layers):
            numbers = tuple(
                -1 if s == IMAGE or (place == 0 and self._index[s] == i - 1) else self._index[s]
                for place, s in enumerate(layer.sources)
            )
            rows.append(NumberedRow(i, numbers[0] if len(numbers) == 1 else numbers, layer))
        return tuple(rows)


def with_letter(name: str, letter: str) -> str:
    """Return a base's name at a scale: ``yolov8-p2`` at n is ``yolov8n-p2``, ``yolov10n`` stays as it is.

    Ultralytics looks for the letter after the number; the names of RT-DETR's YAMLs, each of one scale, have it.
    """
    if name.startswith("rtdetr"):
        return name
    match = re.match(r"(yolo[a-z]?\d+)(.*)", name, re.IGNORECASE)
    head, tail = (match[1], match[2]) if match else (name, "")
    return name if letter and tail.startswith(letter) else f"{head}{letter}{tail}"


def letter_in(file: str) -> str:
    """Return the scale letter in a file name, where Ultralytics looks for it; empty if there is none."""
    match = re.search(r"yolo(?:e-)?v?\d+([nslmx])", re.split(r"[/\\]", file)[-1])
    return match[1] if match else ""


def _widest(layer: Layer) -> int:
    """Return the output channels of a layer's row, 0 if it has none."""
    first = layer.args[0] if layer.args else 0
    return first if layer.module != "Concat" and isinstance(first, int) else 0


def _number(value: RowArg) -> int | float:
    """Return a row argument that has to be a number.

    Raises:
        SpaceError: It is something else.
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise SpaceError(f"expected a number, not {value!r}")
    return value


def role_of(module: str, args: tuple[RowArg, ...]) -> SlotKind | None:
    """Return the kind of slot that a row of a file would be; None for other layers and for arguments of other types."""
    try:
        return Layer("", (), module, args).kind if args else None
    except SpaceError:
        return None
