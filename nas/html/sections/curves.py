"""Learning curves: a chosen variant with the baseline under the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas.html.section import Figure, Section, View, axis, rounded
from nas.html.source import Source, plotly_text, short
from nas.study.trial import Trial

_MOST = 1000


def curves(source: Source) -> Section | None:
    """Return the section; None where no variant was validated after more than one epoch."""
    if source.base is None:
        return None
    winner = source.winner
    rows = [row for row in source.rows if not row.trial.variant.is_baseline]
    if winner in rows:
        rows = [winner, *(row for row in rows if row is not winner)]  # type: ignore[list-item]
    theirs = {run.seed: run for run in source.base.runs}
    views = []
    for row in rows[:_MOST]:
        seeds = [run for run in row.runs if _epochs(run) > 1]
        if not seeds:
            continue
        traces = [
            *(
                _curve(theirs[run.seed], "baseline", "$base", "dash", k == 0)
                for k, run in enumerate(seeds)
                if run.seed in theirs
            ),
            *(_curve(run, "variant", "$accent", "solid", k == 0) for k, run in enumerate(seeds)),
        ]
        views.append(View(short(row, 90), traces))
    if not views:
        return None
    figure = Figure(
        "curves",
        "mAP50-95 by epoch of a variant and of the baseline",
        views,
        layout={
            "xaxis": axis("epoch", dtick=1 if _longest(source) <= 12 else None),
            "yaxis": axis("mAP50-95"),
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


def _curve(run: Trial, name: str, colour: str, dash: str, in_legend: bool) -> dict[str, Any]:
    seen: Sequence[tuple[int, float]] = [(s.epoch, s.validation.map) for s in run.curve if s.validation]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "legendgroup": name,
        "showlegend": in_legend,
        "x": [epoch for epoch, _ in seen],
        "y": rounded([value for _, value in seen], 4),
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"size": 5, "color": colour},
        "hovertemplate": plotly_text(f"{name}, seed {run.seed}") + ", epoch %{x}: %{y:.4f}<extra></extra>",
    }
