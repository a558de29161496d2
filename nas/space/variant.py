"""A variant: which layers of a base are swapped for what.

The id depends on the swaps alone, not on the space that offered them: a tied swap, the same swaps made one by one, and
the same ``--swap`` options give the same id on every machine.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nas.errors import SpaceError
from nas.ops import registry
from nas.ops.registry import Value
from nas.space.bases import load_base
from nas.space.graph import Layer, LayerGraph, RowArg, with_letter

KEEP = "keep"
"""The choice that leaves a layer as it is."""
NONE = "none"
"""The choice that inserts nothing."""
AFTER = "after "
"""What the key of an insertion slot starts with."""

_LABEL = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(?:\((.*)\))?\s*", re.DOTALL)


@dataclass(frozen=True)
class Choice:
    """A module with the arguments that differ from its defaults. Made by `make_choice` or `parse_choice`."""

    module: str
    args: tuple[tuple[str, Value], ...] = ()

    @property
    def label(self) -> str:
        """Plain text, such as ``CARAFE(c_mid=64,k_up=5)``."""
        inner = ",".join(f"{k}={format_value(v)}" for k, v in self.args)
        return f"{self.module}({inner})" if inner else self.module


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


def make_choice(module: str, args: Mapping[str, object]) -> Choice:
    """Check a module and its arguments against the registry.

    Raises:
        SpaceError: The module or an argument is unknown, or a value is out of bounds.
    """
    try:
        return Choice(module, tuple(registry.get(module).check_args(args).items()))
    except ValueError as error:
        raise SpaceError(str(error)) from None


def parse_choice(text: str) -> Choice:
    """Read a label such as ``CARAFE(k_up=7)``.

    Raises:
        SpaceError: The text is no label, or names what the registry does not have.
    """
    match = _LABEL.fullmatch(text)
    if not match:
        raise SpaceError(f"cannot read the choice {text!r}: expected MODULE or MODULE(argument=value,...)")
    args: dict[str, object] = {}
    for part in filter(None, (p.strip() for p in (match[2] or "").split(","))):
        key, equals, value = part.partition("=")
        if not equals or not value.strip():
            raise SpaceError(f"cannot read {part!r} in the choice {text!r}: expected argument=value")
        args[key.strip()] = parse_value(value.strip())
    return make_choice(match[1], args)


@dataclass(frozen=True)
class Variant:
    """One architecture: a base, a scale, and the layers that are not the base's own.

    Attributes:
        base: Name of the base, such as ``yolov8``.
        scale: Scale letter; empty for a base of one size.
        swaps: Slot (a layer's name, or ``after NAME``) and label of its choice, sorted by slot, without kept layers.
    """

    base: str
    scale: str
    swaps: tuple[tuple[str, str], ...] = ()

    @property
    def canonical(self) -> str:
        """The text that identifies the variant: sorted ``slot=choice`` lines, base and scale."""
        return "\n".join(
            [*(f"{slot}={choice}" for slot, choice in self.swaps), f"base={self.base}", f"scale={self.scale}"]
        )

    @property
    def id(self) -> str:
        """The first 8 hex digits of the SHA-256 of `canonical`."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """The name of its files; the host reads the scale letter from it."""
        return f"{with_letter(self.base, self.scale)}-{self.id}"

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is swapped."""
        return not self.swaps

    @property
    def modules(self) -> tuple[str, ...]:
        """The registered modules that it uses, sorted."""
        return tuple(sorted({parse_choice(label).module for _, label in self.swaps}))

    @property
    def added(self) -> tuple[str, ...]:
        """Those of `modules` that Ultralytics does not have: they need registration."""
        return tuple(name for name in self.modules if not registry.get(name).native)

    def with_scale(self, scale: str) -> Variant:
        """Return the same swaps at another scale."""
        check_scale(load_base(self.base), scale)
        return replace(self, scale=scale)

    def describe(self) -> str:
        """Return the swaps in one line; layers that are swapped alike are named together."""
        return describe_swaps(self.swaps)

    def graph(self) -> LayerGraph:
        """Return the base's graph with the swaps made.

        Raises:
            SpaceError: A slot does not exist, or a module does not fit its slot.
        """
        base = load_base(self.base)
        graph = base
        # Insertions come last: whoever takes the output of a layer, a guided module too, then takes the inserted one's.
        for slot, label in sorted(self.swaps, key=lambda swap: swap[0].startswith(AFTER)):
            choice = parse_choice(label)
            name = slot.removeprefix(AFTER)
            inserted = slot.startswith(AFTER)
            problem = misfit(base, name, choice, inserted=inserted)
            if problem:
                raise SpaceError(f"{slot}: {problem}")
            args = row_args(base[name], choice)
            if inserted:
                graph = graph.insert(name, choice.module, args, label)
            else:
                guide = base.guide_of(name) if registry.get(choice.module).rule == "guided" else ""
                graph = graph.swap(name, choice.module, args, label, guide)
        return graph


def make_variant(base: str, scale: str, swaps: Mapping[str, str]) -> Variant:
    """Return the variant of checked swaps; `keep` and `none` are dropped.

    Raises:
        SpaceError: Unknown base, scale, slot or module, or a module that does not fit.
    """
    graph = load_base(base)
    check_scale(graph, scale)
    kept = ((slot, label) for slot, label in swaps.items() if label not in (KEEP, NONE))
    variant = Variant(base, scale, tuple(sorted((slot, parse_choice(label).label) for slot, label in kept)))
    variant.graph()
    return variant


def parse_swaps(base: str, scale: str, texts: Iterable[str]) -> Variant:
    """Return the variant of ``SLOT=CHOICE`` texts; a slot may be a glob such as ``neck.c2f_*``; a later text wins.

    Raises:
        SpaceError: A text cannot be read, or a slot or choice is wrong.
    """
    graph = load_base(base)
    swaps: dict[str, str] = {}
    for text in texts:
        slot, equals, label = text.partition("=")
        if not equals or not slot.strip() or not label.strip():
            raise SpaceError(f"cannot read the swap {text!r}: expected SLOT=CHOICE, such as neck.up_p4=CARAFE")
        for name in match_slots(graph, slot.strip()):
            swaps[name] = label.strip()
    return make_variant(base, scale, swaps)


def match_slots(graph: LayerGraph, key: str) -> tuple[str, ...]:
    """Return the slots that a key names, in order of the layers: a name, a glob, or either behind ``after ``.

    Raises:
        SpaceError: It names no layer.
    """
    prefix = AFTER if key.startswith(AFTER) else ""
    pattern = key.removeprefix(AFTER).strip()
    found = [name for name in graph.names if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        if any(c in pattern for c in "*?["):
            raise SpaceError(f"{key!r} matches no layer of {graph.base}; its layers: {', '.join(graph.names)}")
        graph[pattern]
    return tuple(prefix + name for name in found)


def check_scale(graph: LayerGraph, scale: str) -> None:
    """Raise SpaceError unless the base has the scale."""
    if not graph.scales and scale:
        raise SpaceError(f"{graph.base} has one size and no scales: leave the scale {scale!r} out")
    if graph.scales and scale not in graph.scales:
        raise SpaceError(f"{graph.base} has no scale {scale!r}; its scales: {', '.join(graph.scales)}")


def misfit(graph: LayerGraph, name: str, choice: Choice, *, inserted: bool) -> str:
    """Say why a module cannot go into a layer's place (or behind it) in a base; empty if it can."""
    layer = graph[name]
    entry = registry.get(choice.module)
    kinds = ", ".join(sorted(entry.kinds))
    if inserted and layer.section == "head":
        return "nothing can stand behind a head"
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
    if entry.fits and not entry.fits(layer.slot_values):
        return f"{choice.module} does not fit {layer.slot_values}: {entry.requires}"
    if entry.rule == "guided" and not graph.guide_of(name):
        return (
            f"{choice.module} needs a guide, a second map of its output's size: the other source of a Concat that "
            f"takes {name} and one layer before it; there is none"
        )
    if choice.module == layer.module and row_args(layer, choice) == layer.args:
        return f"{choice.label} is what stands there; `{KEEP}` says so"
    return ""


def _fitting(kind: str) -> str:
    """Return the modules that fit a kind of slot, in words."""
    return ", ".join(e.name for e in registry.entries().values() if kind in e.kinds)


def row_args(layer: Layer, choice: Choice) -> tuple[RowArg, ...]:
    """Return a choice's arguments as the row of a model YAML: output channels first, unless they are the input's."""
    entry = registry.get(choice.module)
    own = entry.row_args(layer.slot_values, dict(choice.args))
    return tuple(own) if entry.rule in ("same", "guided") else (layer.args[0], *own)


def describe_swaps(swaps: Iterable[tuple[str, str]]) -> str:
    """Return slots and choices in one line; slots with the same choice are named together."""
    by_choice: dict[str, list[str]] = {}
    for slot, label in swaps:
        by_choice.setdefault(label, []).append(slot)
    return "  ".join(f"{_together(slots)}={label}" for label, slots in by_choice.items()) or "baseline"


def _together(slots: list[str]) -> str:
    """Return slots in one word: what they share, then what differs in braces."""
    if len(slots) == 1:
        return slots[0]
    sections: dict[str, list[str]] = {}
    for slot in slots:
        head, _, tail = slot.rpartition(".")
        sections.setdefault(head, []).append(tail)
    return "+".join(f"{h}.{t[0]}" if len(t) == 1 else f"{h}.{{{','.join(t)}}}" for h, t in sections.items())
