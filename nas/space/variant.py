"""A variant: a base, a scale, and the swaps of its layers.

The id depends on the swaps alone, not on the space that they are from: a tied swap, the same swaps made one by one, and
the same ``--swap`` options give the same id on every machine.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nas.errors import SpaceError
from nas.fork.names import registered_name
from nas.ops import registry
from nas.space.bases import base_text, load_base
from nas.space.choice import (
    AFTER,
    KEEP,
    NARROW,
    NONE,
    has_channels,
    misfit,
    parse_choice,
    reader_misfit,
    repeats_of,
    row_args,
)
from nas.space.graph import LayerGraph, with_letter
from nas.space.safe_text import check_variant_text
from nas.task.task import SEGMENT, task_of_head

MODEL = "model"
"""The slot of a yardstick, which changes no layer: the width of the whole model."""
_GOLDEN = (math.sqrt(5) - 1) / 2
_WIDTH = re.compile(r"Width\((0?\.\d{1,6}|[1-9]\d?(?:\.\d{1,6})?)\)")


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

    def __post_init__(self) -> None:
        """Raise SpaceError for texts that are no names: studies of others bring them, and files are named by them."""
        check_variant_text(self.base, self.scale, self.swaps)

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
        return f"{self.stock}-{self.id}"

    @property
    def stock(self) -> str:
        """The name of the stock model that it is a variant of, such as ``yolov8n-seg``."""
        return with_letter(self.base, self.scale)

    @property
    def is_baseline(self) -> bool:
        """True without any swap."""
        return not self.swaps

    @property
    def width(self) -> float | None:
        """The width multiple of a yardstick: the stock model, narrower; None for every other variant."""
        return next((float(label[6:-1]) for slot, label in self.swaps if slot == MODEL), None)

    @property
    def modules(self) -> tuple[str, ...]:
        """The registered modules that it uses, sorted; those of the base too, where that is a file of the user."""
        found = (c for slot, label in self.swaps if slot != MODEL and (c := parse_choice(label)).share is None)
        own = [registered_name(layer.module) for layer in load_base(self.base).layers] if base_text(self.base) else []
        return tuple(sorted({*(choice.module for choice in found if not choice.row), *filter(None, own)}))

    @property
    def added(self) -> tuple[str, ...]:
        """Those of `modules` that Ultralytics lacks: they need registration."""
        return tuple(name for name in self.modules if not registry.get(name).native)

    @property
    def narrowed(self) -> tuple[str, ...]:
        """The layers that have a share of their output channels."""
        return tuple(slot for slot, label in self.swaps if label.startswith(f"{NARROW}("))

    @property
    def wide(self) -> Variant:
        """The variant with all output channels."""
        return replace(self, swaps=tuple(swap for swap in self.swaps if swap[0] not in self.narrowed))

    def with_scale(self, scale: str) -> Variant:
        """Return the same swaps at another scale."""
        check_scale(load_base(self.base), scale)
        if self.width is not None and scale != self.scale:
            raise SpaceError(f"{self.describe()} is a width of the scale {self.scale}: it has no other scale")
        return replace(self, scale=scale)

    def describe(self) -> str:
        """Return the swaps in one line; layers with the same swap are grouped."""
        return describe_swaps(self.swaps)

    def graph(self) -> LayerGraph:
        """Return the base's graph with the swaps.

        Raises:
            SpaceError: A slot does not exist, or a module does not fit its slot.
        """
        base = load_base(self.base)
        if self.width is not None:
            return _at_width(base, self)
        graph = base
        # Insertions come last: every consumer of a layer's output, guided modules too, then takes the inserted layer's.
        for slot, label in sorted(self.swaps, key=lambda swap: swap[0].startswith(AFTER)):
            choice = parse_choice(label)
            name = slot.removeprefix(AFTER)
            inserted = slot.startswith(AFTER)
            problem = misfit(base, name, choice, inserted=inserted)
            if problem:
                raise SpaceError(f"{slot}: {problem}")
            if choice.share is not None:
                graph = graph.narrow(name, choice.share, self.scale, label)
                continue
            args = row_args(base[name], choice, inserted=inserted)
            if choice.row and inserted:
                graph = graph.insert(name, choice.row.name, args, label, choice.row.repeats)
            elif choice.row:
                graph = graph.swap(name, choice.row.name, args, label, repeats=repeats_of(base[name], choice))
            elif inserted:
                graph = graph.insert(name, choice.module, args, label)
            else:
                guide = base.guide_of(name) if registry.get(choice.module).rule == "guided" else ""
                graph = graph.swap(name, choice.module, args, label, guide, repeats_of(base[name], choice))
        if problem := reader_misfit(graph, self.narrowed):
            raise SpaceError(problem)
        return graph


def make_variant(base: str, scale: str, swaps: Mapping[str, str]) -> Variant:
    """Return the variant of checked swaps; `keep` and `none` are dropped.

    Raises:
        SpaceError: Unknown base, scale, slot or module, or a module that does not fit.
    """
    graph = load_base(base)
    check_scale(graph, scale)
    kept = {slot: label for slot, label in swaps.items() if label not in (KEEP, NONE)}
    if MODEL in kept and not _WIDTH.fullmatch(kept[MODEL]):
        raise SpaceError(f"{MODEL}={kept[MODEL]}: expected a width multiple, such as {MODEL}=Width(0.2031)")
    labels = {slot: label if slot == MODEL else parse_choice(label).label for slot, label in kept.items()}
    variant = Variant(graph.base, scale, tuple(sorted(labels.items())))
    variant.graph()
    return variant


def parse_swaps(base: str, scale: str, texts: Iterable[str]) -> Variant:
    """Return the variant of ``SLOT=CHOICE`` texts; slots may be globs such as ``neck.c2f_*``; the last text wins.

    Raises:
        SpaceError: A text cannot be read, or a slot or choice is wrong.
    """
    graph = load_base(base)
    swaps: dict[str, str] = {}
    for text in texts:
        slot, equals, label = text.partition("=")
        if not equals or not slot.strip() or not label.strip():
            raise SpaceError(f"cannot read the swap {text!r}: expected SLOT=CHOICE, such as neck.up_p4=CARAFE")
        for name in (MODEL,) if slot.strip() == MODEL else match_slots(graph, slot.strip()):
            swaps[name] = label.strip()
    return make_variant(graph.base, scale, swaps)


def match_slots(graph: LayerGraph, key: str) -> tuple[str, ...]:
    """Return the slots that a key names, in order of the layers: a name or a glob, with or without ``after ``.

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


def make_yardstick(base: str, scale: str, width: float) -> Variant:
    """Return a base at another width multiple, of which four digits count.

    Raises:
        SpaceError: Unknown base or scale, or one size without a width multiple.
    """
    return make_variant(base, scale, {MODEL: f"Width({width:.4f})"})


def _at_width(base: LayerGraph, variant: Variant) -> LayerGraph:
    """Return a base at one scale alone, with the channels of a yardstick in its rows.

    Every row has its share of channels, rounded up or down to a multiple of 8. Rounded all in one direction, as
    Ultralytics does, the rows of one size would change at once, and the GFLOPs of YOLOv8n jump by up to 15 %; so each
    row rounds at another fraction, by the golden ratio, and the errors of all rows cancel.
    """
    if len(variant.swaps) > 1:
        raise SpaceError(f"{variant.describe()}: a width of the whole model goes with no other swap")
    if not variant.scale:
        raise SpaceError(f"{base.base} has one size and no width multiple, so it has no narrower model")
    depth, own, most = base.scales[variant.scale]
    assert variant.width is not None
    layers = []
    for i, layer in enumerate(base.layers):
        if has_channels(layer):
            wide = min(int(str(layer.args[0])), most)
            eighths = math.floor(wide * variant.width / 8 + (_GOLDEN * (i + 1)) % 1)
            channels = 8 * max(1, min(eighths, math.ceil(wide * own / 8)))
            layer = replace(layer, args=(channels, *layer.args[1:]))
        elif task_of_head(layer.module) is SEGMENT and layer.args[2:]:  # the channels of its prototypes of masks
            channels = 8 * max(1, round(min(int(str(layer.args[2])), most) * variant.width / 8))
            layer = replace(layer, args=(*layer.args[:2], channels, *layer.args[3:]))
        layers.append(layer)
    return replace(base, scales={variant.scale: (depth, 1.0, most)}, layers=tuple(layers))


def check_scale(graph: LayerGraph, scale: str) -> None:
    """Raise SpaceError unless the base has the scale."""
    if not graph.scales and scale:
        raise SpaceError(f"{graph.base} has one size and no scales: leave the scale {scale!r} out")
    if graph.scales and scale not in graph.scales:
        raise SpaceError(f"{graph.base} has no scale {scale!r}; its scales: {', '.join(graph.scales)}")


def describe_swaps(swaps: Iterable[tuple[str, str]]) -> str:
    """Return slots and choices in one line; slots with the same choice are grouped."""
    by_choice: dict[str, list[str]] = {}
    for slot, label in swaps:
        by_choice.setdefault(label, []).append(slot)
    return "  ".join(f"{_grouped(slots)}={label}" for label, slots in by_choice.items()) or "baseline"


def _grouped(slots: list[str]) -> str:
    """Return slots as one word: the common part, then the others in braces."""
    if len(slots) == 1:
        return slots[0]
    sections: dict[str, list[str]] = {}
    for slot in slots:
        head, _, tail = slot.rpartition(".")
        sections.setdefault(head, []).append(tail)
    return "+".join(f"{h}.{t[0]}" if len(t) == 1 else f"{h}.{{{','.join(t)}}}" for h, t in sections.items())
