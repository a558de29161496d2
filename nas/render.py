"""Variant to text: the model YAML, the registration branch, the files around them.

Rendering is pure: the same variant gives the same bytes, with no date and no path in them. It is the only way from a
variant to a model: what `nas.host` builds is what stands here. Python computes, the templates print.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import jinja2

import nas
from nas.graph import LayerGraph, Row, RowArg
from nas.ops import registry
from nas.variant import Variant

ANCHOR = "        elif m is Concat:\n"
"""The line of Ultralytics' parse_model before which the branch goes; unique in every release from 8.0.0 to 8.4.190."""


@dataclass(frozen=True)
class ModelFiles:
    """What is rendered for one variant.

    Attributes:
        name: Stem of the file names, such as ``yolov8n-1a2b3c4d``.
        yaml: The model YAML.
        snippet: How to register its modules by hand; says so where it needs none.
        train: A script that trains it.
    """

    name: str
    yaml: str
    snippet: str
    train: str


def render(variant: Variant, summaries: Mapping[str, str] | None = None) -> ModelFiles:
    """Return the files of a variant.

    Args:
        variant: What to render.
        summaries: Scale letter to one line on its cost, printed beside the scale's constants.

    Raises:
        SpaceError: The variant does not fit its base.
    """
    graph = variant.graph()
    context = {
        "name": variant.name,
        "title": graph.title,
        "scale": variant.scale,
        "version": nas.__version__,
        "swaps": variant.swaps,
        "summary_of_swaps": count_swaps(len(variant.swaps)),
        "nc": graph.nc,
        "scales": [_scale(letter, graph, (summaries or {}).get(letter, "")) for letter in graph.scales],
        "parts": _parts(graph),
    }
    return ModelFiles(
        variant.name,
        environment().get_template("model.yaml.j2").render(context),
        render_snippet(variant),
        environment().get_template("train.py.j2").render(context),
    )


def render_branch(modules: Iterable[str]) -> str:
    """Return the branch of parse_model that knows the channels of registered modules.

    It is empty for none, and for those that Ultralytics knows by itself.

    Raises:
        ValueError: A module is not registered.
    """
    rules: dict[str, list[str]] = {"same": [], "conv": [], "block": []}
    names = [name for name in sorted(set(modules)) if not registry.get(name).hosted]
    for name in names:
        rules[registry.get(name).rule].append(name)
    if not names:
        return ""
    lists = {rule: ", ".join(members) for rule, members in rules.items()}
    context = {"version": nas.__version__, "names": ", ".join(names), **lists}
    return environment().get_template("branch.py.j2").render(context)


def render_snippet(variant: Variant) -> str:
    """Return the text that tells how to register a variant's modules by hand."""
    modules = variant.registered
    if not modules:
        what = "swaps in Ultralytics' own modules" if variant.modules else "is the stock model"
        return f"{variant.name} {what}: it needs no registration.\n"
    return (
        environment()
        .get_template("snippet.txt.j2")
        .render(
            name=variant.name,
            version=nas.__version__,
            imports=[f"from {registry.get(m).cls.__module__} import {m}" for m in modules],
            anchor=ANCHOR.strip(),
            branch=render_branch(modules),
        )
    )


@cache
def environment() -> jinja2.Environment:
    """Return the one environment: strict, and bytes as the templates have them."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("nas.templates", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def count_swaps(swaps: int) -> str:
    """Return how many layers are swapped, in words."""
    return "baseline" if not swaps else "1 layer swapped" if swaps == 1 else f"{swaps} layers swapped"


def _scale(letter: str, graph: LayerGraph, summary: str) -> dict[str, str]:
    """Return one scale's constants as the host writes them."""
    depth, width, channels = graph.scales[letter]
    comment = f" # {graph.title}{letter} summary: {summary}" if summary else ""
    return {"letter": letter, "constants": f"[{depth:.2f}, {width:.2f}, {channels}]", "comment": comment}


def _parts(graph: LayerGraph) -> list[dict[str, object]]:
    """Return the rows in the two lists that model YAMLs have: ``backbone``, and ``head`` for all the rest."""
    rows: dict[str, list[Row]] = {"backbone": [], "head": []}
    for row in graph.rows():
        rows["backbone" if row.layer.section == "backbone" else "head"].append(row)
    return [
        {"key": key, "first": key == "backbone", "rows": [{"text": _text(r), "comment": _comment(r)} for r in part]}
        for key, part in rows.items()
    ]


def _text(row: Row) -> str:
    """Return a row as the host writes it: [from, repeats, module, args]."""
    source = row.source if isinstance(row.source, int) else f"[{', '.join(map(str, row.source))}]"
    args = ", ".join(_value(a) for a in row.layer.args)
    return f"[{source}, {row.layer.repeats}, {row.layer.module}, [{args}]]"


def _value(value: RowArg) -> str:
    """Return an argument as YAML; text is quoted, but for `nc`, which the host looks up."""
    if value is None:
        return "None"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return value if value == "nc" else f'"{value}"'
    return repr(value)


def _comment(row: Row) -> str:
    """Return a row's comment: number, name, and what it is or was."""
    notes = [row.layer.note] if row.layer.note else []
    if row.layer.swap:
        notes.append(f"swapped: {row.layer.swap}")
    return f"{row.index} {row.layer.name}" + (f" ({'; '.join(notes)})" if notes else "")
