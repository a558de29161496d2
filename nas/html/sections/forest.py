"""The forest plot: the difference of each variant to the baseline, with its interval and verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas.html.scale import Scale, scale_of
from nas.html.section import Section
from nas.html.source import VERDICTS, Source, kind_of, words_of
from nas.ranking.rank import RankRow
from nas.training.scores import signed

MARKS = {
    "better": "M0-6 6 5H-6Z",
    "worse": "M0 6 6-5H-6Z",
    "unsure": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z",
    "single": "M0-5 5 0 0 5-5 0Z",
}
"""Path of the mark of each kind of row, around the origin, in pixels."""


def forest(source: Source) -> Section | None:
    """Return the section; None without a variant to compare."""
    rows = [row for row in source.rows if row.delta_map is not None and not row.trial.variant.is_baseline]
    if not rows or source.base is None:
        return None
    resolution = resolution_of(source)
    scale = scale_of([row.delta_map or 0.0 for row in rows], [row.interval for row in rows if row.interval], resolution)
    kinds = [kind for kind in VERDICTS if any(kind_of(row) == kind for row in rows)]
    lead = [
        (
            "Each line is a variant in the order of the ranking: the difference of its mAP50-95 to the baseline’s "
            "under the same seeds, and the 95 % interval. Right of the line at zero is better."
        )
    ]
    if resolution:
        lead.append(
            f"Grey band: ±{resolution:.4f} mAP50-95, which one run of this proxy cannot resolve (the sign is right in "
            "fewer than 9 of 10 comparisons)."
        )
    base = source.base.trial
    return Section(
        id="forest",
        title="Which swaps change mAP",
        lead=lead,
        template="report_forest.html.j2",
        values={
            "lines": [line(row, scale, source.place[row.trial.number]) for row in rows],
            "ticks": [{"x": scale.at(t), "text": signed(t, _digits(scale))} for t in scale.ticks(5)],
            "grid": background(scale, resolution),
            "zero": scale.at(0.0),
            "legend": [{"kind": kind, "path": MARKS[kind], "text": VERDICTS[kind][2]} for kind in kinds],
            "axis": f"Δ mAP50-95 to the baseline ({base.map:.3f}, {base.gflops:.2f} GFLOPs)",
        },
    )


def resolution_of(source: Source) -> float:
    """Return the smallest difference that one run of the proxy resolves; 0 if it is not known for this study."""
    found = source.settings.calibrated
    value = found.get("resolution", 0.0) if found else 0.0
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0


def line(row: RankRow, scale: Scale, place: int) -> dict[str, Any]:
    """Return a line of the plot: what is printed and where, in percent of its width."""
    delta, kind = row.delta_map or 0.0, kind_of(row)
    body: dict[str, Any] = {
        "place": place, "kind": kind, "path": MARKS[kind], "sign": VERDICTS[kind][0], "word": VERDICTS[kind][1],
        "swaps": words_of(row.trial), "x": scale.at(delta), "delta": signed(delta, 4), "seeds": row.seeds,
        "gflops": "" if row.delta_gflops is None else signed(100 * row.delta_gflops, 1),
        "half": "", "low": None, "high": None, "cut_low": False, "cut_high": False, "floor": row.below_floor,
    }  # fmt: skip
    if row.interval:
        low, high = row.interval
        body |= {"half": f"{(high - low) / 2:.4f}", "low": scale.at(low), "high": scale.at(high)}
        body |= {"cut_low": not scale.holds(low), "cut_high": not scale.holds(high)}
        body["width"] = round(body["high"] - body["low"], 2)
    return body


def background(scale: Scale, band: float) -> str:
    """Return the CSS of a line's background: the band, and a line at each tick."""
    layers = [_layer("--ink", scale.at(0.0), "1.5px")]
    layers += [_layer("--grid", scale.at(t), "1px") for t in scale.ticks(5) if t]
    if band:
        a, b = scale.at(-band), scale.at(band)
        share = b - a
        at = 100 * a / (100 - share) if share < 100 else 0  # of what the band leaves free, which is how CSS counts
        layers.append(_layer("--band", at, f"{share:.4g}%"))
    return ",".join(layers)


def _layer(colour: str, at: float, width: str) -> str:
    """Return a layer of one colour: what is transparent in a part of a gradient is printed in black."""
    return f"linear-gradient(var({colour}) 0 0) {at:.4g}%/{width} 100% no-repeat"


def _digits(scale: Scale) -> int:
    ticks: Sequence[float] = scale.ticks(5)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 0.01
    return 2 if step >= 0.01 - 1e-9 else 3 if step >= 0.001 - 1e-9 else 4
