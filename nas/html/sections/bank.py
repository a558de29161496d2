"""The bank: what distillation left over of each swap, against what became of it, and which layers matter."""

from __future__ import annotations

from typing import Any

from nas.bank.store import IDLE
from nas.html.section import DELTA, Figure, Section, View, axis, rounded
from nas.html.sections.front import SIZES, SYMBOLS
from nas.html.source import VERDICTS, Source, kind_of, plotly_text
from nas.report.bank_table import idle_words


def bank(source: Source) -> Section | None:
    """Return the section; None for a study without a bank."""
    facts = source.study.bank
    figures = [figure for figure in (_errors(source), _drops(facts)) if figure]
    if not figures:
        return None
    drops: dict[str, float] = facts.get("drops", {})
    idle = [slot for slot, drop in drops.items() if drop < IDLE]
    notes = idle_words(idle, source.settings)
    notes += [f"Kept out of the search: {swap}: {why}" for swap, why in facts.get("failures", {}).items()]
    lead = [
        (
            "Every swap is distilled from the trained baseline before a variant starts. Error: mean squared error of "
            "the layer’s output on the validation images, over its variance; 0 is a copy, 1 as good as the mean."
        )
    ]
    return Section("bank", "What the bank says", lead, figures, notes=notes)


def _errors(source: Source) -> Figure | None:
    """Return the figure of errors and differences; None where no trial has an error."""
    traces: list[dict[str, Any]] = []
    for kind in ("single", "unsure", "worse", "better"):
        own = [
            (source.place[row.trial.number], row)
            for row in source.rows
            if kind_of(row) == kind and row.trial.distillation is not None and row.delta_map is not None
        ]
        if own:
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "name": VERDICTS[kind][1],
                    "x": rounded([row.trial.distillation for _, row in own], 4),
                    "y": rounded([row.delta_map for _, row in own]),
                                        "marker": {
                        "symbol": SYMBOLS[kind], "color": f"${kind}",
                        "size": SIZES[kind],
                        "line": {"width": 1, "color": f"${kind}" if kind == "single" else "$paper"},
                    },
                    "rows": [i for i, _ in own],
                }
            )  # fmt: skip
    if not traces:
        return None
    layout = {
        "xaxis": axis("largest distillation error among the swaps"),
        "yaxis": axis("Δ mAP50-95 to the baseline", DELTA, zeroline=True),
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }
    title = "Error after distillation against the difference of mAP after training"
    return Figure("bank-errors", title, [View("", traces)], layout=layout, height=400)


def _drops(facts: Any) -> Figure | None:
    """Return the figure of what the baseline loses without each layer; None where it was not measured."""
    drops: dict[str, float] = facts.get("drops", {})
    if not drops:
        return None
    order = sorted(drops, key=lambda slot: drops[slot])
    bars = {
        "type": "bar", "orientation": "h", "y": [plotly_text(slot) for slot in order],
        "x": rounded([drops[slot] for slot in order], 4),
        "marker": {
            "color": ["$muted" if drops[slot] < IDLE else "$accent" for slot in order],
            "pattern": {"shape": ["/" if drops[slot] < IDLE else "" for slot in order], "fgcolor": "$paper"},
        },
        "text": [f"{drops[slot]:.3f}" for slot in order], "textposition": "outside", "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:.4f}<extra></extra>",
    }  # fmt: skip
    layout = {
        "xaxis": axis("mAP50-95 lost without the layer"),
        "yaxis": {"automargin": True, "ticks": "", "showgrid": False},
        "showlegend": False,
    }
    title = "What the baseline loses when a layer puts out its channel means; hatched: the layer idles"
    return Figure("bank-drops", title, [View("", [bars])], layout=layout, height=90 + 24 * len(order))
