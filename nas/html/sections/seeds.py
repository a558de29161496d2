"""Seeds: the difference to the baseline under each, and the check of the verdicts on the baseline itself."""

from __future__ import annotations

from nas.html.section import DELTA, Figure, Section, View, axis, rounded
from nas.html.source import Source, kind_of, plotly_text, short
from nas.ranking.aa_check import LEAST, run_aa_check
from nas.ranking.rank import RankRow
from nas.ranking.replicates import scores_by_seed
from nas.ranking.verdict import LEAST_SEEDS

_MOST = 40


def seeds(source: Source) -> Section | None:
    """Return the section; None where no variant has several seeds and the baseline has too few for the check."""
    if source.base is None:
        return None
    theirs = scores_by_seed(source.base.runs)
    rows = [row for row in source.rows if row.seeds >= LEAST_SEEDS and not row.trial.variant.is_baseline]
    rows = [row for row in rows if scores_by_seed(row.runs).keys() & theirs.keys()][:_MOST]
    figures = [_figure(rows, theirs)] if rows else []
    notes = []
    if len(theirs) >= LEAST:
        top = source.study.confirm
        checked = run_aa_check(list(theirs.values()), top.top or 3, max(top.seeds, LEAST_SEEDS))
        notes.append(checked.text)
    notes += [f"Seed {seed} is excluded: {why}" for seed, why in sorted(source.study.excluded_seeds.items())]
    if not figures and not notes:
        return None
    each = " Only the first 40 are shown." if len(rows) == _MOST else ""
    lead = [f"Δ mAP50-95 under each seed (points) and their mean (line), for variants with several seeds.{each}"]
    return Section("seeds", "How seeds differ", lead if rows else [], figures, notes=notes)


def _figure(rows: list[RankRow], theirs: dict[int, float]) -> Figure:
    shown = list(reversed(rows))
    points: list[tuple[int, float, str, str]] = []
    for y, row in enumerate(shown):
        own = scores_by_seed(row.runs)
        points += [(y, own[s] - theirs[s], f"seed {s}", f"${kind_of(row)}") for s in sorted(own.keys() & theirs.keys())]
    dots = {
        "type": "scatter", "mode": "markers", "showlegend": False,
        "x": rounded([x for _, x, _, _ in points]), "y": [y for y, *_ in points],
        "text": [text for _, _, text, _ in points], "hovertemplate": "%{text}: %{x:+.4f}<extra></extra>",
        "marker": {"size": 9, "opacity": 0.75, "color": [colour for *_, colour in points]},
    }  # fmt: skip
    means = {
        "type": "scatter", "mode": "markers", "showlegend": False,
        "x": rounded([row.delta_map for row in shown]), "y": list(range(len(shown))),
        "marker": {"symbol": "line-ns", "size": 16, "line": {"width": 2.5, "color": "$ink"}},
        "hovertemplate": "mean %{x:+.4f}<extra></extra>",
    }  # fmt: skip
    names = [plotly_text(short(row, 44)) for row in shown]
    layout = {
        "xaxis": axis("Δ mAP50-95 to the baseline", DELTA, zeroline=True),
        "yaxis": {
            "tickvals": list(range(len(shown))), "ticktext": names, "automargin": True,
            "range": [-0.6, len(shown) - 0.4], "ticks": "",
        },
    }  # fmt: skip
    title = "Difference of mAP50-95 to the baseline under each seed"
    return Figure("seeds", title, [View("", [dots, means])], layout=layout, height=110 + 28 * len(shown))
