"""Variant to text: the model YAML, the registration branch, the files around them.

Rendering is pure: the same variant gives the same bytes, with no date and no path in them; only where the installed
Ultralytics has another class of a module's name, the module is written with a prefix. It is the only way from a
variant to a model: `nas.model.host` builds what is rendered here. Python computes, the templates print.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias, get_args

import jinja2

from nas.fork.names import yaml_name
from nas.fork.row_text import HOST, format_arg
from nas.ops import registry
from nas.own.files import files_of
from nas.space.bases import task_of_base
from nas.space.graph import LayerGraph, NumberedRow, RowArg, letter_in, with_letter
from nas.space.variant import Variant
from nas.version import __version__

Dispatch: TypeAlias = Literal["tuple", "set", "frozenset"]
"""Type of the lists of modules in parse_model, by release."""

ANCHOR = "        elif m is Concat:\n"
"""The line of Ultralytics' parse_model before which the branch goes; unique in every release from 8.0.0 to 8.4.190."""


@dataclass(frozen=True)
class ModelFiles:
    """The rendered files of one variant.

    Attributes:
        name: Stem of the file names, such as ``yolov8n-1a2b3c4d``.
        yaml: The model YAML.
        snippet: How to register its modules by hand, or that it needs no registration.
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
        summaries: Scale letter to one line on its cost, printed after the scale's constants.

    Raises:
        SpaceError: The variant does not fit its base.
    """
    graph = variant.graph()
    context = {
        "name": variant.name,
        "title": with_letter(graph.title, variant.scale),
        "scale": variant.scale,
        "version": __version__,
        "swaps": variant.swaps,
        "summary_of_swaps": count_swaps(variant),
        "files": files_of(variant.modules),
        "nc": graph.nc,
        "task": task_of_base(variant.base),
        "constants": [(key, _value(value)) for key, value in graph.constants],
        "summary": "" if graph.scales else (summaries or {}).get("", ""),
        "scales": [_scale(letter, graph, (summaries or {}).get(letter, "")) for letter in _letters(variant, graph)],
        "parts": _parts(graph),
    }
    return ModelFiles(
        variant.name,
        environment().get_template("model.yaml.j2").render(context),
        render_snippet(variant),
        environment().get_template("train.py.j2").render(context),
    )


def render_branch(modules: Iterable[str], dispatch: Dispatch = "frozenset") -> str:
    """Return the branch of parse_model that computes the channels of registered modules; empty if it needs none.

    Args:
        modules: Their names.
        dispatch: How the lists of modules are written; any of them works in every release.

    Raises:
        ValueError: A module is not registered.
    """
    rules: dict[str, list[str]] = {rule: [] for rule in get_args(registry.ChannelRule)}
    names = sorted({name for name in modules if not registry.get(name).native})
    for name in names:
        rules[registry.get(name).rule].append(yaml_name(name))
    if not names:
        return ""
    lists = {rule: _members(members, dispatch) for rule, members in rules.items()}
    context = {"version": __version__, "names": ", ".join(names), **lists}
    return environment().get_template("branch.py.j2").render(context)


def render_snippet(variant: Variant) -> str:
    """Return instructions to register a variant's modules by hand."""
    modules = variant.added
    if not modules:
        what = "is the stock model" if variant.is_baseline else "is made of Ultralytics' own modules"
        return f"{variant.name} {what}: it needs no registration.\n"
    return (
        environment()
        .get_template("snippet.txt.j2")
        .render(
            name=variant.name,
            version=__version__,
            imports=[f"from {registry.get(m).source} import {imported(m)}" for m in modules],
            anchor=ANCHOR.strip(),
            branch=render_branch(modules),
        )
    )


def imported(module: str) -> str:
    """Return a registered module as an import names it: ``CARAFE``, or ``CARAFE as NasCARAFE``."""
    name = yaml_name(module)
    return module if name == module else f"{module} as {name}"


def _members(names: list[str], dispatch: Dispatch) -> str:
    """Return modules as Python would test for them; empty for none."""
    text = ", ".join(names)
    if dispatch == "tuple" and len(names) == 1:
        text += ","
    before, after = {"tuple": ("(", ")"), "set": ("{", "}"), "frozenset": ("frozenset({", "})")}[dispatch]
    return f"{before}{text}{after}" if names else ""


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


def count_swaps(variant: Variant) -> str:
    """Return how many layers are swapped, or the width of a yardstick, in words."""
    if variant.width is not None:
        return f"every layer at width {variant.width:g}"
    swaps = len(variant.swaps)
    return "baseline" if not swaps else "1 layer swapped" if swaps == 1 else f"{swaps} layers swapped"


def _letters(variant: Variant, graph: LayerGraph) -> list[str]:
    """Return the scale letters; the variant's first where the host cannot read it from the file name."""
    first = [variant.scale] if variant.scale and letter_in(f"{variant.name}.yaml") != variant.scale else []
    return list(dict.fromkeys([*first, *graph.scales]))


def _scale(letter: str, graph: LayerGraph, summary: str) -> dict[str, str]:
    """Return one scale's constants as the host writes them."""
    depth, width, channels = graph.scales[letter]
    comment = f" # {with_letter(graph.title, letter)} summary: {summary}" if summary else ""
    return {"letter": letter, "constants": f"[{depth:.2f}, {width:.2f}, {channels}]", "comment": comment}


def _parts(graph: LayerGraph) -> list[dict[str, object]]:
    """Return the rows in the two lists that model YAMLs have: ``backbone``, and ``head`` for all the rest."""
    rows: dict[str, list[NumberedRow]] = {"backbone": [], "head": []}
    for row in graph.rows():
        rows["backbone" if row.layer.section == "backbone" else "head"].append(row)
    return [
        {"key": key, "first": key == "backbone", "rows": [{"text": _text(r), "comment": _comment(r)} for r in part]}
        for key, part in rows.items()
    ]


def _text(row: NumberedRow) -> str:
    """Return a row as the host writes it: [from, repeats, module, args]."""
    source = row.source if isinstance(row.source, int) else f"[{', '.join(map(str, row.source))}]"
    args = ", ".join(_value(a) for a in row.layer.args)
    layer = row.layer
    ours = layer.swap and not layer.swap.startswith(HOST)
    return f"[{source}, {layer.repeats}, {yaml_name(layer.module) if ours else layer.module}, [{args}]]"


def _value(value: RowArg, *, nested: bool = False) -> str:
    """Return an argument as YAML; text is quoted, but for `nc`, which the host looks up.

    The host reads text as Python where it can (``None``, ``1e-05``), but not within a list.
    """
    if value is None:
        return "null" if nested else "None"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_value(v, nested=True) for v in value)}]"
    if isinstance(value, str):
        return value if value == "nc" else json.dumps(value, ensure_ascii=False)  # YAML reads JSON's quoting
    return format_arg(value) if nested else repr(value)


def _comment(row: NumberedRow) -> str:
    """Return a row's comment: number, name, and what it is or was."""
    notes = [row.layer.note] if row.layer.note else []
    if row.layer.swap:
        notes.append(f"swapped: {row.layer.swap}")
    return f"{row.index} {row.layer.name}" + (f" ({'; '.join(notes)})" if notes else "")
