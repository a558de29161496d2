"""Choices: a module with its arguments for a slot, as labels such as ``CARAFE(k_up=7)``, and where each fits.

A choice is a registered module, ``host:NAME``: any class that the installed Ultralytics can build from a row
(`nas.fork.row_text`), or ``Narrow(0.75)``: the layer itself with a share of its output channels.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from nas.errors import SpaceError
from nas.fork.installed import host_version
from nas.fork.names import host_has, host_names
from nas.fork.row_text import CHANNELS, HOST, HostRow, make_host_row, parse_host_row
from nas.ops import registry
from nas.ops.registry import Value
from nas.space.graph import IMAGE, Layer, LayerGraph, RowArg

KEEP = "keep"
"""The choice that leaves a layer as it is."""
NONE = "none"
"""The choice that inserts nothing."""
AFTER = "after "
"""Prefix of the key of an insertion slot."""
NARROW = "Narrow"
"""The choice of the layer's own class with a share of its output channels, and of its readers' input channels."""

NARROWED = ("Conv", "C2f", "SPPF")
"""Layers that can have fewer output channels: they start from the channels that their readers need most."""
TAKE_BY_CONV = ("Conv", "C2f", "C3", "C3k2", "C3k2Block", "GhostConv", "SCDown")
"""Layers that can have fewer input channels: convolutions alone take their input, and no other size follows it."""

_OF_HEADS = ("end2end", "reg_max")
"""Constants of a base by which Ultralytics builds another ``Detect``: without NMS, or without distributions."""

_SHARE = re.compile(r"\s*Narrow\(\s*(0?\.\d{1,4})\s*\)\s*")
_LABEL = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(?:\((.*)\))?\s*", re.DOTALL)


@dataclass(frozen=True)
class Choice:
    """A module with the arguments that differ from its defaults. Made by `make_choice` or `parse_choice`.

    Attributes:
        module: The registered module, or ``host:NAME``.
        args: Arguments of a registered module.
        row: The class of the host and its arguments; None for a registered module.
    """

    module: str
    args: tuple[tuple[str, Value], ...] = ()
    row: HostRow | None = None

    @property
    def label(self) -> str:
        """Plain text, such as ``CARAFE(c_mid=64,k_up=5)``."""
        if self.row:
            return self.row.label
        if self.share is not None:
            return f"{NARROW}({self.share:g})"
        inner = ",".join(f"{k}={format_value(v)}" for k, v in self.args)
        return f"{self.module}({inner})" if inner else self.module

    @property
    def share(self) -> float | None:
        """The share of its output channels that a layer has by `NARROW`; None for every other choice."""
        return float(dict(self.args)["share"]) if self.module == NARROW else None


def format_value(value: Value) -> str:
    """Return a value as labels and YAMLs write it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def parse_value(text: str) -> Value:
    """Return the value that `format_value` wrote."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def host_choice(row: HostRow) -> Choice:
    """Return the choice of a class of the host."""
    return Choice(f"{HOST}{row.name}", row=row)


def make_choice(module: str, args: Mapping[str, object] | list[object]) -> Choice:
    """Check a module and its arguments against the registry; those of a host's class are a list, as in its row.

    Raises:
        SpaceError: The module or an argument is unknown, or a value is out of bounds.
    """
    try:
        if module.startswith(HOST):
            return host_choice(make_host_row(module.removeprefix(HOST).strip(), args))
        if module == NARROW:
            raise ValueError(f"{module}: expected a share of the layer's output channels, written Narrow(0.75)")
        if isinstance(args, list):
            raise ValueError(f"{module}: expected arguments by name, such as {{{module}: {{argument: value}}}}")
        return Choice(module, tuple(registry.get(module).check_args(args).items()))
    except ValueError as error:
        raise SpaceError(str(error)) from None


def parse_choice(text: str) -> Choice:
    """Read a label such as ``CARAFE(k_up=7)``.

    Raises:
        SpaceError: The text is no label, or names what the registry does not have.
    """
    if text.lstrip().startswith(HOST):
        try:
            return host_choice(parse_host_row(text))
        except ValueError as error:
            raise SpaceError(str(error)) from None
    if (found := _SHARE.fullmatch(text)) and float(found[1]):
        return Choice(NARROW, (("share", float(found[1])),))
    match = _LABEL.fullmatch(text)
    if match and match[1] == NARROW:
        raise SpaceError(f"{text.strip()}: expected a share of the layer's output channels below 1, as Narrow(0.75)")
    if not match:
        raise SpaceError(f"cannot read the choice {text!r}: expected MODULE or MODULE(argument=value,...)")
    args: dict[str, object] = {}
    for part in filter(None, (p.strip() for p in (match[2] or "").split(","))):
        key, equals, value = part.partition("=")
        if not equals or not value.strip():
            raise SpaceError(f"cannot read {part!r} in the choice {text!r}: expected argument=value")
        args[key.strip()] = parse_value(value.strip())
    return make_choice(match[1], args)


def misfit(graph: LayerGraph, name: str, choice: Choice, *, inserted: bool) -> str:
    """Return why a module cannot replace a layer of a base, or be inserted after it; empty if it can."""
    layer = graph[name]
    if choice.row:
        return _host_misfit(layer, choice.row, inserted=inserted)
    if choice.share is not None:
        return _narrow_misfit(graph, layer, inserted=inserted)
    entry = registry.get(choice.module)
    kinds = ", ".join(sorted(entry.kinds))
    if inserted and layer.section == "head":
        return "nothing can be inserted after a head"
    if inserted and entry.rule == "guided":
        return f"{choice.module} cannot be inserted: it takes two inputs, and fits slots of kind {kinds}"
    if inserted and (entry.rule != "same" or any(isinstance(p, registry.FromSlot) for p in entry.params)):
        return (
            f"{choice.module} cannot be inserted: it takes its sizes from a layer that it replaces, of kind {kinds}; "
            f"what fits: {_fitting('attention')}"
        )
    if inserted and "attention" not in entry.kinds:
        return f"{choice.module} cannot be inserted: it fits slots of kind {kinds}; what fits: {_fitting('attention')}"
    if inserted:
        return ""
    if layer.kind is None:
        return f"{layer.module} cannot be swapped; what can: {', '.join(n for n in graph.names if graph[n].kind)}"
    if layer.kind not in entry.kinds:
        return (
            f"{choice.module} fits slots of kind {kinds}, this one is {layer.kind}; what fits: {_fitting(layer.kind)}"
        )
    if layer.kind == "head" and (own := [f"{key}: {value}" for key, value in graph.constants if key in _OF_HEADS]):
        return f"{choice.module} does not fit the head of {graph.base} ({', '.join(own)}): expected Detect as YOLOv8's"
    if entry.fits and not entry.fits(layer.slot_values):
        return f"{choice.module} does not fit {layer.slot_values}: {entry.requires}"
    if entry.rule == "guided" and not graph.guide_of(name):
        return (
            f"{choice.module} needs a guide, a second map of its output's size: the other source of a Concat that "
            f"takes {name} and one layer before it; there is none"
        )
    if choice.module == layer.module and _is_as_it_is(layer, choice):
        return f"{choice.label} is the layer as it is; use `{KEEP}`"
    return ""


def _narrow_misfit(graph: LayerGraph, layer: Layer, *, inserted: bool) -> str:
    if inserted:
        return f"{NARROW} cannot be inserted: it is a layer with fewer output channels"
    if layer.module not in NARROWED or not has_channels(layer):
        return f"{NARROW} fits {', '.join(NARROWED)}, this layer is {layer.module}"
    return reader_misfit(graph, (layer.name,))


def narrow_choice(graph: LayerGraph, layer: Layer, args: tuple[RowArg, ...]) -> Choice | None:
    """Return the choice by which a layer has a row's arguments at the default scale; None if no `NARROW` gives them."""
    if layer.module not in NARROWED or not args or args[1:] != layer.args[1:] or type(args[0]) is not int:
        return None
    share = graph.scaled(args[0], graph.default_scale) / graph.channels(layer.name, graph.default_scale)
    choice = Choice(NARROW, (("share", round(share, 4)),))
    return choice if 0 < share < 1 and not misfit(graph, layer.name, choice, inserted=False) else None


def reader_misfit(graph: LayerGraph, narrow: Collection[str]) -> str:
    """Return why the layers that read these cannot have fewer input channels; empty if they can."""
    for name in narrow:
        for reader in graph.readers(name):
            if reader.module not in TAKE_BY_CONV:
                return (
                    f"{name} cannot have fewer output channels: {reader.name} takes them, and is {reader.module}; "
                    f"input channels can be fewer in {', '.join(TAKE_BY_CONV)}"
                )
            inputs = (graph[source] for source in graph.inputs(reader.name) if source != IMAGE)
            if other := next((x for x in inputs if not x.swap and x.kind is None), None):
                return (
                    f"{name} cannot have fewer output channels: {reader.name} takes {other.name} too, and the output "
                    f"channels of {other.module} are not known"
                )
    return ""


def _is_as_it_is(layer: Layer, choice: Choice) -> bool:
    """Return whether a choice of the layer's own class changes nothing: rows may leave out what has its default."""
    given = row_args(layer, choice)
    same = given == layer.args or (given[: len(layer.args)] == layer.args and given == row_args(layer, _bare(choice)))
    return same and repeats_of(layer, choice) in (None, layer.repeats)


def _bare(choice: Choice) -> Choice:
    return Choice(choice.module)


def repeats_of(layer: Layer, choice: Choice) -> int | None:
    """Return the repeats that a choice's row has in a layer's place; None for those of the layer."""
    if choice.row:
        return choice.row.repeats
    if choice.share is not None:
        return None
    entry = registry.get(choice.module)
    if entry.rule != "block":
        return 1 if layer.repeats != 1 else None
    return int(dict(choice.args).get(registry.REPEATS.name, 0)) or None


def _fitting(kind: str) -> str:
    """Return the names of the modules that fit a kind of slot, for a message."""
    return ", ".join(e.name for e in registry.entries().values() if kind in e.kinds)


def missing_from_host(choice: Choice) -> str:
    """Return that the installed Ultralytics lacks a choice's class, and what is near; empty if it has it."""
    if not choice.row or host_has(choice.row.name):
        return ""
    near = registry.did_you_mean(choice.row.name, host_names())
    return f"{host_version()} has no class {choice.row.name!r} that a model YAML can name{near}"


def _host_misfit(layer: Layer, row: HostRow, *, inserted: bool) -> str:
    """Return why a class of the host cannot take a place; whether it keeps the output's shape, only building shows."""
    if layer.section == "head":
        return "nothing can be inserted after a head" if inserted else f"{layer.module} is the head: it stays"
    if inserted and row.args and CHANNELS in row.args:
        return f"{row.label}: `{CHANNELS}` are those of a layer that is replaced; an inserted row has its own arguments"
    if not inserted and (row.name, _filled(layer, row), row.repeats or layer.repeats) == (
        layer.module,
        layer.args,
        layer.repeats,
    ):
        return f"{row.label} is the layer as it is; use `{KEEP}`"
    if not inserted and row.args and CHANNELS in row.args and not has_channels(layer):
        return f"{row.label}: {layer.module} has no output channels in its row that `{CHANNELS}` could stand for"
    return ""


def has_channels(layer: Layer) -> bool:
    """Return whether the first argument of a layer's row is its number of output channels."""
    return bool(layer.args) and layer.module not in ("nn.Upsample", "Concat") and type(layer.args[0]) is int


def _filled(layer: Layer, row: HostRow) -> tuple[RowArg, ...]:
    if row.args is None:
        return layer.args if has_channels(layer) else ()
    return tuple(layer.args[0] if a == CHANNELS and has_channels(layer) else a for a in row.args)


def row_args(layer: Layer, choice: Choice, *, inserted: bool = False) -> tuple[RowArg, ...]:
    """Return the arguments of a choice as in a model YAML: output channels first, unless they equal the input's."""
    if choice.row:
        return choice.row.args or () if inserted else _filled(layer, choice.row)
    entry = registry.get(choice.module)
    own = entry.row_args(layer.slot_values, dict(choice.args))
    return tuple(own) if entry.rule in ("same", "guided") else (layer.args[0], *own)
