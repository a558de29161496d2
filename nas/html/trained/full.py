"""Full trainings: their ranking, differences with intervals, learning curves, and what the proxy said of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas.full.ranking import FullRow, proxy_agreement
from nas.full.run import FullRun
from nas.full.table import full_notes, ranking_cells
from nas.html.section import DELTA, MAP, RESULT, Figure, Section, View, axis, rounded
from nas.html.sections.front import SIZES, SYMBOLS
from nas.html.source import VERDICTS, Source, plotly_text
from nas.ranking.verdict import LEAST_SEEDS

_LEFT_OUT = ("#", "model")
"""Columns of the terminal that the page does without."""
_TEXTS = ("swaps", "verdict")
_LONGEST = 44


def full(source: Source) -> Section | None:
    """Return the section on the newest full trainings that are comparable; None for a study without any."""
    rows = source.full
    if not rows:
        return None
    s, runs = source.settings, source.full_runs
    agreed = source.attempt("agreement with full training", lambda: proxy_agreement(source.study, runs))
    figures = [figure for figure in (_differences(rows), _curves(rows), _proxies(source, rows)) if figure]
    first = rows[0].run
    lead = [
        (
            "Models that were trained as a user would, scored by the host’s own validation: these results rank above "
            f"the proxy’s. {first.settings[0].upper()}{first.settings[1:]}."
        )
    ]
    return Section(
        id="full",
        title="Full trainings",
        lead=lead,
        figures=figures,
        template=RESULT,
        values=_table(rows),
        notes=full_notes(rows, runs, agreed, s.data or "the demo data"),
    )


def full_kind(row: FullRow) -> str:
    """Return the key of a row in `VERDICTS`; one seed has no verdict."""
    if row.run.kind == "baseline":
        return "base"
    if len(row.runs) < LEAST_SEEDS:
        return "single"
    return row.verdict if row.verdict in ("better", "worse") else "unsure"


def _table(rows: Sequence[FullRow]) -> dict[str, Any]:
    """Return the ranking, as the terminal has it."""
    columns, cells = ranking_cells(rows)
    kept = [k for k, name in enumerate(columns) if name not in _LEFT_OUT]
    kept = [k for k in kept if any(line[k] for line in cells)]
    names = [columns[k] for k in kept]
    lines = []
    for row, line in zip(rows, cells, strict=True):
        kind = full_kind(row)
        lines.append({"cells": [line[k] for k in kept], "kind": kind, "sign": VERDICTS[kind][0], "inner": False})
    texts = [names.index(name) for name in _TEXTS if name in names]
    return {"columns": names, "lines": lines, "texts": texts, "verdict": names.index("verdict")}


def _short(run: FullRun) -> str:
    text = run.title if len(run.title) <= _LONGEST else f"{run.title[: _LONGEST - 1]}…"
    return plotly_text(text)


def _differences(rows: Sequence[FullRow]) -> Figure | None:
    """Return the forest plot of the differences to the baseline; None without any."""
    shown = [row for row in reversed(rows) if row.comparison.delta is not None and row.run.kind != "baseline"]
    if not shown:
        return None
    traces: list[dict[str, Any]] = []
    for kind in ("single", "unsure", "worse", "better"):
        own = [(y, row) for y, row in enumerate(shown) if full_kind(row) == kind]
        if not own:
            continue
        deltas = [row.comparison.delta or 0.0 for _, row in own]
        ends = [row.comparison.interval or (d, d) for d, (_, row) in zip(deltas, own, strict=True)]
        reach: dict[str, Any] = {"type": "data", "symmetric": False, "thickness": 2, "width": 0, "color": f"${kind}"}
        reach["array"] = rounded([high - d for (_, high), d in zip(ends, deltas, strict=True)])
        reach["arrayminus"] = rounded([d - low for (low, _), d in zip(ends, deltas, strict=True)])
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": VERDICTS[kind][1], "x": rounded(deltas),
                "y": [y for y, _ in own],
                "error_x": reach,
                "marker": {"symbol": SYMBOLS[kind], "size": SIZES[kind], "color": f"${kind}"},
                "text": [plotly_text(row.run.title) for _, row in own],
                "hovertemplate": "%{text}: %{x:+.4f}<extra>%{fullData.name}</extra>",
            }
        )  # fmt: skip
    layout = {
        "xaxis": axis("Δ mAP50-95 to the baseline under the same seeds, with 95 % interval", DELTA, zeroline=True),
        "yaxis": {
            "tickvals": list(range(len(shown))), "ticktext": [_short(row.run) for row in shown],
            "range": [-0.6, len(shown) - 0.4], "ticks": "",
        },
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
    }  # fmt: skip
    title = "Difference of mAP50-95 to the baseline after full training"
    return Figure("full-differences", title, [View("", traces)], layout=layout, height=120 + 30 * len(shown))


def _curves(rows: Sequence[FullRow]) -> Figure | None:
    """Return the learning curves of each model with the baseline's; None where nothing has two validated epochs."""
    base = next((row for row in rows if row.run.kind == "baseline"), None)
    others = [row for row in rows if row is not base and any(_validated(run) for run in row.runs)]
    shared = [run for run in base.runs if _validated(run)] if base else []
    if not others and not shared:
        return None
    views = [
        View(row.run.title[:90], [_curve(run, "variant", k == 0) for k, run in enumerate(_long(row.runs))])
        for row in others
    ]
    return Figure(
        "full-curves",
        "mAP50-95 on the validation images after each epoch of full training; a line for each seed",
        views or [View("", [])],
        traces=[_curve(run, "baseline", k == 0) for k, run in enumerate(shared)],
        styles={"baseline": _style("baseline", "$base", "dash"), "variant": _style("model", "$accent", "solid")},
        layout={
            "xaxis": axis("epoch"),
            "yaxis": axis("mAP50-95", MAP),
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        },
        choose="Model",
        height=380,
    )


def _validated(run: FullRun) -> bool:
    """Return whether a run has a curve: epochs that the host did not validate have no score."""
    return sum(epoch.map > 0 for epoch in run.curve) > 1


def _long(runs: Sequence[FullRun]) -> list[FullRun]:
    return [run for run in runs if _validated(run)]


def _style(name: str, colour: str, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": name, "legendgroup": name,
        "line": {"color": colour, "width": 2, "dash": dash},
        "hovertemplate": "%{meta}, epoch %{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def _curve(run: FullRun, style: str, in_legend: bool) -> dict[str, Any]:
    seen = [(epoch.epoch, epoch.map) for epoch in run.curve if epoch.map > 0]
    body = {"style": style, "x": [number for number, _ in seen], "y": rounded([value for _, value in seen], 4)}
    return {**body, "meta": f"seed {run.seed}", **({} if in_legend else {"showlegend": False})}


def _proxies(source: Source, rows: Sequence[FullRow]) -> Figure | None:
    """Return the proxy's score against full training, of models that have both; None with fewer than two."""
    proxies = {row.trial.variant.id: row.trial.map for row in source.rows}
    both = [row for row in rows if row.run.of_space and not row.run.distilled and row.run.model in proxies]
    if len(both) < 2:
        return None
    kinds = [full_kind(row) for row in both]
    dots = {
        "type": "scatter", "mode": "markers", "x": rounded([proxies[row.run.model] for row in both]),
        "y": rounded([row.map for row in both]), "text": [plotly_text(row.run.title) for row in both],
        "hovertemplate": "%{text}<br>proxy %{x:.4f}, full training %{y:.4f}<extra></extra>",
        "marker": {
            "size": 10, "color": [f"${kind}" for kind in kinds],
            "symbol": ["diamond" if kind == "base" else SYMBOLS[kind] for kind in kinds],
        },
    }  # fmt: skip
    layout = {
        "xaxis": axis("mAP50-95 of the proxy", MAP),
        "yaxis": axis("mAP50-95 of full training", MAP),
        "showlegend": False,
    }
    title = "What the proxy said, against full training"
    return Figure("full-proxies", title, [View("", [dots])], layout=layout, height=380)
