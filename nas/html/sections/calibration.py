"""The calibration: the proxy's scores against those of full training, and what GFLOPs alone would say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nas.calibration.rank_agreement import agreement
from nas.calibration.report import with_interval
from nas.calibration.result import calibration_file
from nas.files import from_plain, parse_json
from nas.html.section import MAP, Figure, Section, View, axis, rounded
from nas.html.source import Source, plotly_text
from nas.training.scores import SCORES

_FEWEST = 4
"""Variants of the calibration that the study has to know the GFLOPs of for a comparison."""


def calibration(source: Source) -> Section | None:
    """Return the section; None for a study whose proxy was not calibrated."""
    found = source.settings.calibrated
    if not found:
        return None
    interval = found.get("spearman_interval")
    spearman = with_interval(found["spearman"], tuple(interval) if interval else None)
    lead = [
        (
            f"Proxy {found['proxy']}, scored by {SCORES[found['score']].words}, calibrated with {found['on']}: "
            f"Spearman {spearman} with full training; it resolves {found['resolution']:.4f} mAP50-95 in one run."
        )
    ]
    if found.get("fingerprint") != source.settings.fingerprint:
        lead.append("It was calibrated on other data and may differ here.")
    where = (source.study.options or {}).get("proxy")
    body = source.attempt("points of the calibration", lambda: _read(str(where))) if where else None
    figures = [figure] if body and (figure := _figure(source, body, lead)) else []
    return Section("calibration", "How far the proxy can be trusted", lead, figures)


def _read(where: str) -> dict[str, Any]:
    """Return the content of a calibration's file; empty where it is not one."""
    try:
        return dict(parse_json(Path(calibration_file(where)).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return {}


def _figure(source: Source, body: dict[str, Any], lead: list[str]) -> Figure | None:
    """Return the scatter plots, one for each proxy; None for calibrations that are older than their points."""
    try:
        points = from_plain(dict[str, Any], body["points"], "points")
        full = {str(k): np.array(v, dtype=float) for k, v in points["full"].items()}
        names = {str(k): str(v) for k, v in body["variants"].items()}
        proxies = {
            str(name): (str(p["score"]), {str(k): np.array(v, dtype=float) for k, v in p["values"].items()})
            for name, p in points["proxies"].items()
        }
        chosen = str(body["chosen"]["proxy"])
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    first = [name for name in proxies if name == chosen] + [name for name in proxies if name != chosen]
    views = []
    for name in first:
        score, values = proxies[name]
        ids = [k for k in full if k in values and np.isfinite(full[k]).all() and np.isfinite(values[k]).all()]
        if len(ids) < 2:
            continue
        traces = [
            _scatter([i for i in ids if (names.get(i) == "baseline") == own], full, values, names, own)
            for own in (False, True)
        ]
        y = axis(f"proxy: {SCORES[score].words if score in SCORES else plotly_text(score)}")
        views.append(View(name, [t for t in traces if t["x"]], {"yaxis": y}))
    cost = {row.trial.variant.id: row.trial.gflops for row in source.rows}
    known = [k for k in full if k in cost and np.isfinite(full[k]).all()]
    if len(known) >= _FEWEST and views and np.ptp([full[k].mean() for k in known]) and np.ptp([cost[k] for k in known]):
        gflops = {k: np.array([cost[k]]) for k in known}
        alone = agreement(np.array([gflops[k] for k in known]), np.array([full[k] for k in known])).spearman
        lead.append(
            f"GFLOPs alone have a Spearman of {alone:.2f} with full training, over the {len(known)} of its variants "
            "that this study has too: a proxy is of use where it does better."
        )
        views.append(View("GFLOPs only", [_scatter(known, full, gflops, names, False)], {"yaxis": axis("GFLOPs")}))
    if not views:
        return None
    layout = {"xaxis": axis("full training: mAP50-95, mean of its seeds", MAP), "showlegend": False}
    title = "Score of the proxy against full training, for each variant of the calibration"
    return Figure("calibration", title, views, layout=layout, choose="Proxy", height=400)


def _scatter(
    ids: list[str], full: dict[str, Any], values: dict[str, Any], names: dict[str, str], baseline: bool
) -> dict[str, Any]:
    """Return a trace: the mean of each variant, with the standard error of the mean where there are several seeds."""

    def error(found: Any) -> float:
        return float(found.std(ddof=1) / len(found) ** 0.5) if len(found) > 1 else 0.0

    bars = {"type": "data", "thickness": 1, "width": 0, "color": "$muted"}
    mark = {"color": "$base" if baseline else "$accent", "size": 9, "symbol": "diamond" if baseline else "circle"}
    return {
        "type": "scatter", "mode": "markers", "name": "baseline" if baseline else "variant", "marker": mark,
        "x": rounded([float(full[k].mean()) for k in ids]), "y": rounded([float(values[k].mean()) for k in ids]),
        "error_x": {**bars, "array": rounded([error(full[k]) for k in ids])},
        "error_y": {**bars, "array": rounded([error(values[k]) for k in ids])},
        "text": [plotly_text(names.get(k, k)) for k in ids],
        "hovertemplate": "%{text}<br>%{x:.4f}, %{y:.4f}<extra></extra>",
    }  # fmt: skip
