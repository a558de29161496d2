"""Generates space files: everything that fits a base, or the swaps of an imported model."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Any

from nas.errors import SpaceError
from nas.model.render import environment
from nas.ops import registry
from nas.space.bases import base_argument, load_base
from nas.space.choice import AFTER, KEEP, NONE, Choice, misfit
from nas.space.graph import IMAGE, Layer, LayerGraph, with_letter
from nas.space.variant import Variant, check_scale

_COSTLY = 2
"""Level (binary logarithm of the stride) up to which slots are off by default, for swaps there cost the most."""


def starting_space(base: str, scale: str | None = None, modules: Iterable[str] = (), file: str = "my.yaml") -> str:
    """Return the text of a space file with every layer of a base that something fits.

    Args:
        base: Name of the base.
        scale: Scale letter; None for the base's first.
        modules: The modules to choose from; every registered one if empty.
        file: Name of the file, for its comments.

    Raises:
        SpaceError: Unknown base, scale or module, or nothing fits anywhere.
    """
    graph = load_base(base)
    letter = graph.default_scale if scale is None else scale
    check_scale(graph, letter)
    try:
        entries = [registry.get(name) for name in modules] or list(registry.entries().values())
    except ValueError as error:
        raise SpaceError(str(error)) from None
    fitting = {layer.name: tuple(_fitting(graph, layer, entries)) for layer in graph.layers}
    inserted = {AFTER + name: tuple(_insertable(graph, graph[name], entries)) for name in _ends(graph)}
    slots = [*_slots(graph, fitting), *(_slot(key, labels, NONE) for key, labels in inserted.items() if labels)]
    if not slots:
        raise SpaceError(f"nothing fits a layer of {base}: {', '.join(e.name for e in entries)}")
    return _text(graph, letter, slots, "every layer that a module fits. Take out what you do not want.", file)


def space_of(variant: Variant, file: str = "my.yaml") -> str:
    """Return the text of a space file with the swaps of a variant, each of which can be left out."""
    slots = [_slot(slot, (label,), NONE if slot.startswith(AFTER) else KEEP) for slot, label in variant.swaps]
    return _text(variant.graph(), variant.scale, slots, "which of these swaps are worth it?", file)


def _fitting(graph: LayerGraph, layer: Layer, entries: Sequence[registry.Entry]) -> list[str]:
    if layer.kind is None or layer.sources[0] == IMAGE or graph[layer.sources[0]].module == "nn.Identity":
        return []  # what takes the image has three channels, which few modules can divide
    others = [e.name for e in entries if e.name != layer.module]
    return [name for name in others if not misfit(graph, layer.name, Choice(name), inserted=False)]


def _insertable(graph: LayerGraph, layer: Layer, entries: Sequence[registry.Entry]) -> list[str]:
    return [e.name for e in entries if not misfit(graph, layer.name, Choice(e.name), inserted=True)]


def _ends(graph: LayerGraph) -> list[str]:
    """Return the layers after which attention is usually inserted: the last of the backbone, and the head's inputs."""
    last = [layer.name for layer in graph.layers if layer.section == "backbone"][-1:]
    return [*last, *graph.layers[-1].sources]


def _slots(graph: LayerGraph, fitting: dict[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    """Return one slot for each group of layers that match a glob and take the same modules; else one for each layer."""
    found: list[dict[str, Any]] = []
    done: set[str] = set()
    for name, labels in fitting.items():
        if not labels or name in done:
            continue
        stem = re.sub(r"_[pn]\d+(_\d+)?$", "", name)
        group = fnmatch.filter(graph.names, f"{stem}_*")
        together = len(group) > 1 and all(fitting[n] == labels and not _costly(n) for n in group)
        key = f"{stem}_*" if together else name
        comment = ""
        if _costly(name) and not any(s["comment"] for s in found):
            comment = "At the highest resolutions a swap costs the most and has the fewest channels: off by default."
        found.append(_slot(key, labels, KEEP, enabled=not _costly(name), comment=comment))
        done.update(group if together else [name])
    return found


def _costly(name: str) -> bool:
    level = re.search(r"_[pn](\d+)(_\d+)?$", name)
    return level is not None and int(level[1]) <= _COSTLY


def _slot(key: str, labels: Sequence[str], first: str, *, enabled: bool = True, comment: str = "") -> dict[str, Any]:
    choices = ", ".join([first, *(f'"{label}"' if "(" in label else label for label in labels)])
    return {"key": key, "choices": choices, "enabled": enabled, "comment": comment}


def _text(graph: LayerGraph, scale: str, slots: list[dict[str, Any]], intro: str, file: str) -> str:
    context = {
        "title": with_letter(graph.title, scale),
        "base": base_argument(graph.base),
        "scale": scale,
        "slots": slots,
        "intro": intro,
        "file": file,
    }
    return environment().get_template("space.yaml.j2").render(context)
