"""The HTML page of a report: one file that needs no server and no network."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from nas.errors import OutputError, escaped
from nas.html.section import Section
from nas.html.sections import sections_of
from nas.html.source import VERDICTS, Source, kind_of, swaps_of
from nas.report.ranking_notes import conclusion
from nas.space.bases import shown_task
from nas.training.scores import signed
from nas.version import __version__

_CODE = re.compile(r"`([^`]+)`")
"""A command in a sentence."""
_COUNTS = (10, 30, 100, 300)
_PLOTLY = "<plotly>"
"""Stands for its script while words of the page are changed; in what users name, `<` is escaped."""
_FIRST = 30
"""Variants that are listed at first."""


@cache
def _environment() -> jinja2.Environment:
    """Return the environment of the page, which escapes whatever is printed."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("nas.templates", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    made.filters["minus"] = lambda text: str(text).replace("-", "\u2212")
    made.filters["code"] = lambda text: Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))
    return made


def study_page(source: Source, sections: Sequence[Section] | None = None) -> str:
    """Return the page of one study.

    Args:
        source: The study.
        sections: Its sections, where they have been made already.

    Raises:
        OutputError: Plotly is not installed.
    """
    sections = sections_of(source) if sections is None else sections
    answer, commands = answer_of(source)
    others = sum(not row.trial.variant.is_baseline for row in source.rows)
    counts = [n for n in _COUNTS if n < others]
    shown = {
        "counts": counts,
        "first": _FIRST if _FIRST in counts else 0,
        "total": others,
        "confirmed": any(kind_of(row) not in ("single", "base") for row in source.rows),
    }
    s = source.settings
    return page(
        title=source.name,
        eyebrow=f"{s.space.stock} on {Path(s.data).name or 'demo data'}, {now()}",
        answer=[answer],
        commands=commands,
        tiles=_tiles(source),
        warnings=warnings_of(source),
        sections=sections,
        rows=rows_of(source),
        shown=shown if others > 1 else None,
        said=shown_task(s.space.base).said,
    )


def page(
    *,
    title: str,
    eyebrow: str,
    answer: Sequence[str],
    commands: Sequence[str],
    tiles: Sequence[Mapping[str, str]],
    warnings: Sequence[str],
    sections: Sequence[Section],
    rows: Sequence[Mapping[str, Any]],
    shown: Mapping[str, Any] | None,
    said: Callable[[str], str] = str,
) -> str:
    """Return a page of these parts, whose words about mAP are as `said` returns them (`nas.task.task.Task.said`)."""
    figures = [figure.to_json() for section in sections for figure in section.figures]
    words = {kind: word for kind, (_, word, _) in VERDICTS.items()}
    text = _environment().get_template("report.html.j2").render(
        title=title, eyebrow=eyebrow, answer=answer, next=commands, tiles=tiles, warnings=warnings, sections=sections,
        filter=shown, version=__version__, css=_file("report.css"), script=_file("report.js"),
        payload=_json({"rows": rows, "figures": figures, "words": words}), plotly=_PLOTLY if figures else "",
        footer=f"SwapNAS {__version__}. This file holds everything it shows and loads nothing.",
    )  # fmt: skip
    return said(str(text)).replace(_PLOTLY, _plotly() if figures else "", 1)


def answer_of(source: Source) -> tuple[str, list[str]]:
    """Return the sentence of the answer, and the commands to run next."""
    text, *following = conclusion(source.study)
    commands = [line.removeprefix("Next:").strip() for line in following]
    return text, [line.split("   (")[0] for line in commands]


def warnings_of(source: Source) -> list[str]:
    """Return what a reader has to know first: that the study is running, and what could not be shown."""
    running = source.running
    lines = []
    if running:
        one = running == 1
        lines.append(
            f"A snapshot: {running} training{'' if one else 's'} had started and not ended when it was made, so the "
            "ranking may change."
        )
    return lines + [escaped(line) for line in source.problems]


def rows_of(source: Source) -> list[dict[str, Any]]:
    """Return what the page's filter has to know of each row of the ranking."""
    return [
        {
            "swaps": row.trial.describe(),
            "id": row.trial.variant.id,
            "map": round(row.trial.map, 5),
            "gflops": round(row.trial.gflops, 3),
            "params": round(row.trial.params / 1e6, 3),
            "kind": kind_of(row),
            "front": row.on_front,
            "delta": round(row.delta_map or 0.0, 5),
            "ends": list(row.interval) if row.interval and not row.trial.variant.is_baseline else [],
        }
        for row in source.rows
    ]


def _tiles(source: Source) -> list[dict[str, str]]:
    """Return the key numbers."""
    if source.base is None or source.winner is None:
        return []
    base, best = source.base.trial, source.winner
    metric = shown_task(source.settings.space.base).metric
    tiles = [
        _tile(f"Baseline {metric}", f"{base.map:.3f}", f"{base.gflops:.2f} GFLOPs, {base.params / 1e6:.2f} M params")
    ]
    if not best.trial.variant.is_baseline and best.delta_map is not None:
        kind = kind_of(best)
        modules = ", ".join(dict.fromkeys(label.partition("(")[0] for _, label in swaps_of(best.trial)))
        reach = f"±{(best.interval[1] - best.interval[0]) / 2:.4f}, " if best.interval else ""
        value = f"{VERDICTS[kind][0]} {signed(best.delta_map, 4)}"
        tiles.append(_tile(f"First: {modules}", value, f"{metric}, {reach}{VERDICTS[kind][1]}", kind))
        if best.delta_gflops is not None:
            tiles.append(
                _tile("Its GFLOPs", f"{signed(100 * best.delta_gflops, 1)} %", f"{best.trial.gflops:.2f} at 640 px")
            )
    others = sum(not row.trial.variant.is_baseline for row in source.rows)
    tiles.append(_tile("Variants", str(others), counts_of(source)))
    return tiles


def counts_of(source: Source) -> str:
    """Return how many variants have each verdict."""
    kinds = [kind_of(row) for row in source.rows]
    words = {kind: VERDICTS[kind][1] for kind in VERDICTS if kind in kinds and kind != "base"}
    return ", ".join(f"{kinds.count(kind)} {'with ' if kind == 'single' else ''}{word}" for kind, word in words.items())


def _tile(name: str, value: str, note: str, kind: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "note": note, "kind": kind}


def _json(body: Any) -> str:
    """Return JSON in which no browser finds an end of its script element."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _file(name: str) -> str:
    return resources.files("nas.templates").joinpath(name).read_text(encoding="utf-8").rstrip()


def _plotly() -> str:
    """Return Plotly's script, from the package of that name.

    Raises:
        OutputError: It is not installed, or brings no script.
    """
    spec = find_spec("plotly")
    script = Path(spec.origin or "").parent / "package_data" / "plotly.min.js" if spec else None
    if script is None or not script.is_file():
        raise OutputError("the figures need the package plotly, which is not installed: pip install plotly")
    return script.read_text(encoding="utf-8").replace("</script", "<\\/script").rstrip()


def now() -> str:
    """Return the time of the snapshot, in minutes."""
    return time.strftime("%Y-%m-%d %H:%M")
