"""Learning curves: a chosen variant with the baseline under the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas.html.section import MAP, Figure, Section, View, axis, rounded
from nas.html.source import Source, short
from nas.study.trial import Trial

_MOST = 1000


def curves(source: Source) -> Section | None:
    """Return the section; None where no variant was validated after more than one epoch."""
    if source.base is None:
        return None
    winner = source.winner
    rows = [row for row in source.rows if not row.trial.variant.is_baseline]
    if winner in rows:
        rows = [winner, *(row for row in rows if row is not winner)]
    views = []
    for row in rows[:_MOST]:
        seeds = [run for run in row.runs if _epochs(run) > 1]
        if seeds:
            views.append(View(short(row, 90), [_curve(run, "variant", k == 0) for k, run in enumerate(seeds)]))
    if not views:
        return None
    figure = Figure(
        "curves",
        "mAP50-95 by epoch of a variant and of the baseline",
        views,
        traces=[_curve(run, "baseline", k == 0) for k, run in enumerate(source.base.runs) if _epochs(run) > 1],
        styles={"baseline": _style("baseline", "$base", "dash"), "variant": _style("variant", "$accent", "solid")},
        layout={
            "xaxis": axis("epoch", dtick=1 if _longest(source) <= 12 else None),
            "yaxis": axis("mAP50-95", MAP),
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        },
        choose="Variant",
        height=380,
    )
    lead = ["mAP50-95 on the validation images after each epoch; a line for each seed, the baseline’s dashed."]
    return Section("curves", "How they learn", lead, [figure])


def _epochs(run: Trial) -> int:
    return sum(score.validation is not None for score in run.curve)


def _longest(source: Source) -> int:
    return max((run.curve[-1].epoch for row in source.rows for run in row.runs if run.curve), default=0)


def _style(name: str, colour: str, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "legendgroup": name,
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"size": 5, "color": colour},
        "hovertemplate": "%{meta}, epoch %{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
    }


def _curve(run: Trial, style: str, in_legend: bool) -> dict[str, Any]:
    seen: Sequence[tuple[int, float]] = [(s.epoch, s.validation.map) for s in run.curve if s.validation]
    body = {"style": style, "x": [epoch for epoch, _ in seen], "y": rounded([value for _, value in seen], 4)}
    return {**body, "meta": f"seed {run.seed}", **({} if in_legend else {"showlegend": False})}
