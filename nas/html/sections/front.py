"""The front: mAP against cost, with the variants that no other beats in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nas.html.section import MAP, Figure, Section, View, axis, rounded
from nas.html.source import VERDICTS, Source, kind_of, plotly_text, short
from nas.ranking.rank import RankRow
from nas.training.scores import signed

SYMBOLS = {"better": "triangle-up", "worse": "triangle-down", "unsure": "circle", "single": "diamond-open"}
SIZES = {"better": 12, "worse": 12, "unsure": 9, "single": 9}
"""Symbol of Plotly and its size in pixels, by kind of row; triangles look smaller than they are."""
_CROWD = 100
"""Points above which nothing is labelled but where one points at it."""
_LETTER, _LINE = 0.0068, 0.06
"""Width and height of a letter of a label, in shares of the figure's."""
Cost = Callable[[RankRow], float | None]
COSTS: Sequence[tuple[str, str, Cost]] = (
    ("GFLOPs", "GFLOPs at 640 px", lambda row: row.trial.gflops),
    ("parameters", "parameters in millions", lambda row: row.trial.params / 1e6 or None),
    ("latency", "latency of one image in ms", lambda row: row.trial.latency_ms),
)
"""Name of a cost, the title of its axis, and the cost of a row; None where it was not measured."""


def front(source: Source) -> Section | None:
    """Return the section; None with fewer than two variants."""
    if len(source.rows) < 2:
        return None
    views = []
    for name, title, cost in COSTS:
        if view := _view(source.rows, name, title, cost, _yardsticks(source, cost)):
            views.append(view)
    if not views:
        return None
    s = source.settings
    notes = [f"Latency: median of one image of {s.deployed_imgsz} px on {s.latency_on}."] if s.latency_on else []
    lead = ["The line joins the variants that no other beats in both: the Pareto front. Up and to the left is better."]
    if source.yardsticks:
        lead.append("Dotted: the yardstick, which is the baseline pruned to smaller widths. A swap has to be above it.")
    return Section(
        id="front",
        title="What mAP costs",
        lead=lead,
        figures=[
            Figure(
                "front",
                "mAP50-95 of each variant against its cost, with the Pareto front",
                views,
                layout={"yaxis": axis("mAP50-95", MAP), "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"}},
                choose="Cost",
                height=460,
            )
        ],
        notes=notes,
    )


def _view(
    rows: Sequence[RankRow], name: str, title: str, cost: Cost, yardsticks: Sequence[dict[str, Any]]
) -> View | None:
    """Return the figure for one cost; None if fewer than two variants have it, or all have the same."""
    points = [(i, row, value) for i, row in enumerate(rows) if (value := cost(row)) is not None]
    if len({round(value, 9) for _, _, value in points}) < 2:
        return None
    further = [pair for trace in yardsticks for pair in zip(trace["x"], trace["y"], strict=True)]
    traces: list[dict[str, Any]] = [_front_line(points, further), *yardsticks]
    for kind in ("single", "unsure", "worse", "better"):
        own = [p for p in points if kind_of(p[1]) == kind]
        if own:
            marker = {
                "symbol": SYMBOLS[kind],
                "size": SIZES[kind],
                "color": f"${kind}",
                "line": {"width": 1, "color": "$paper"},
            }
            if kind == "single":
                marker["line"] = {"width": 1.5, "color": f"${kind}"}
            traces.append({**_points(own, VERDICTS[kind][1]), "marker": marker})
    base = [p for p in points if kind_of(p[1]) == "base"]
    if base:
        mark = {"symbol": "diamond", "size": 12, "color": "$base", "line": {"width": 1, "color": "$paper"}}
        traces.append({**_points(base, "baseline"), "marker": mark})
    return View(name, traces, {"xaxis": axis(title)})


def _points(points: Sequence[tuple[int, RankRow, float]], name: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": rounded([value for _, _, value in points]),
        "y": rounded([row.trial.map for _, row, _ in points]),
        "rows": [i for i, _, _ in points],
    }


def _front_line(
    points: Sequence[tuple[int, RankRow, float]], further: Sequence[tuple[float, float]] = ()
) -> dict[str, Any]:
    """Return the line of the front by this cost, with the names of its variants where there is room for them.

    Args:
        points: Place, row and cost of each variant.
        further: Other points of the figure, for which it is as wide and high as it is.
    """
    kept: list[tuple[int, RankRow, float]] = []
    for point in sorted(points, key=lambda p: (p[2], -p[1].trial.map)):
        if not kept or point[1].trial.map > kept[-1][1].trial.map:
            kept.append(point)
    x = [*(value for _, _, value in points), *(value for value, _ in further)]
    y = [*(row.trial.map for _, row, _ in points), *(value for _, value in further)]
    places = [
        ((value - min(x)) / (max(x) - min(x)), (row.trial.map - min(y)) / ((max(y) - min(y)) or 1.0))
        for _, row, value in kept
    ]
    names = [short(row, 34) for _, row, _ in kept]
    sides = free_sides(places, [len(name) for name in names])
    if len(points) > _CROWD:  # labels would lie on other points
        sides = [""] * len(sides)
    return {
        "type": "scatter",
        "mode": "lines+text",
        "name": "front",
        "line": {"color": "$accent", "width": 2, "shape": "hv"},
        "x": rounded([value for _, _, value in kept]),
        "y": rounded([row.trial.map for _, row, _ in kept]),
        "text": [plotly_text(name) if side else "" for name, side in zip(names, sides, strict=True)],
        "textposition": [f"top {side or 'right'}" for side in sides],
        "textfont": {"size": 11, "color": "$ink", "shadow": "auto"},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }


def _yardsticks(source: Source, cost: Cost) -> list[dict[str, Any]]:
    """Return the curve from the smallest yardstick to the baseline; nothing where none has this cost."""
    rows = [(row, value) for row in source.yardsticks if (value := cost(row)) is not None]
    if not rows:
        return []
    if source.base is not None and (own := cost(source.base)) is not None:
        rows.append((source.base, own))
    rows.sort(key=lambda pair: pair[1])
    reach = [(row.map_interval[1] - row.map_interval[0]) / 2 if row.map_interval else 0.0 for row, _ in rows]
    bars = {"type": "data", "array": rounded(reach), "thickness": 1, "width": 3, "color": "$soft"}
    return [
        {
            "type": "scatter", "mode": "lines+markers", "name": "yardstick", "x": rounded([value for _, value in rows]),
            "y": rounded([row.trial.map for row, _ in rows]), "error_y": bars,
            "line": {"color": "$soft", "width": 1.5, "dash": "dot"},
            "marker": {"symbol": "square", "size": 7, "color": "$soft"},
            "text": [_yardstick_words(row) for row, _ in rows], "hovertemplate": "%{text}<extra></extra>",
        }
    ]  # fmt: skip


def _yardstick_words(row: RankRow) -> str:
    t = row.trial
    delta = "" if row.delta_map is None or t.variant.is_baseline else f"<br>Δ mAP {signed(row.delta_map, 4)}"
    name = "baseline" if t.variant.is_baseline else t.describe()
    return f"<b>{name}</b><br>mAP50-95 {t.map:.4f}, {t.gflops:.3f} GFLOPs, {t.params / 1e6:.3f} M parameters{delta}"


def free_sides(places: Sequence[tuple[float, float]], lengths: Sequence[int]) -> list[str]:
    """Return on which side of each point its label goes, ``left`` or ``right``; empty where it would cover another.

    Args:
        places: Points in shares of the figure's width and height.
        lengths: Letters of the labels.
    """
    taken: list[tuple[float, float, float]] = []
    sides = [""] * len(places)
    for i in sorted(range(len(places)), key=lambda i: -places[i][1]):
        x, y = places[i]
        for side in ("right", "left"):
            start = x if side == "right" else x - _LETTER * lengths[i]
            end = start + _LETTER * lengths[i]
            free = all(end < a or b < start or abs(y - at) > _LINE for a, b, at in taken)
            if free and start > -0.05 and end < 1.02:
                taken.append((start, end, y))
                sides[i] = side
                break
    return sides
