"""The picture of a calibration: each proxy against full training, and its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nas.calibration.choose import ProxyMerit
from nas.calibration.rank_agreement import Agreement
from nas.calibration.resolution import merit
from nas.svg import Picture, ends_of, marks, round_ticks

_WIDTH, _MARGIN, _COLUMNS = 960.0, 24.0, 3
_PANEL, _HEAD, _FOOT, _LEFT = 200.0, 44.0, 34.0, 62.0
"""Height of a panel's axes, and the room above, below and left of them, in pixels."""
_NAMES, _LINE = 230.0, 28.0
"""Width of the names of the bars, and the height of one."""


class Point(NamedTuple):
    """One variant in one proxy's panel.

    Attributes:
        variant: Its name.
        full: Mean mAP50-95 of full training.
        full_error: Its standard error; 0 if unknown.
        score: Mean score of the proxy.
        score_error: Its standard error; 0 if unknown.
    """

    variant: str
    full: float
    full_error: float
    score: float
    score_error: float


def panel_points(variants: Sequence[str], full: np.ndarray, proxy: np.ndarray) -> list[Point]:
    """Return the points of one panel, without variants that have failed runs.

    The standard errors are the paired ones of `merit`, because an effect of a seed on all variants does not move points
    against each other. They are 0 with one seed.

    Args:
        variants: Names.
        full: Scores of full training, (variants, seeds of it).
        proxy: Scores of the proxy, (variants, seeds).
    """
    kept = np.isfinite(full).all(1) & np.isfinite(proxy).all(1)
    errors = [merit(a[kept]).error / math.sqrt(a.shape[1]) if a.shape[1] > 1 else 0.0 for a in (full, proxy)]
    return [
        Point(name, float(x), errors[0], float(y), errors[1])
        for name, x, y in zip(
            np.asarray(variants, dtype=object)[kept], full[kept].mean(1), proxy[kept].mean(1), strict=True
        )
    ]


def plot_calibration(
    path: Path,
    reports: Sequence[ProxyMerit],
    points: Mapping[str, Sequence[tuple[str, float, float, float, float]]],
    *,
    baseline: str = "baseline",
    chosen: str | None = None,
    difference: float = 0.005,
    reference: str = "mAP50-95",
) -> None:
    """Write the picture of a calibration, an SVG 960 pixels wide.

    The upper part has a panel per proxy: its mean score of each variant against the mean of full training, with
    standard errors, and the Spearman of one run. The lower part has a bar per proxy: the CPU minutes per variant to
    resolve a difference, at least one run, the cheapest on top.

    Args:
        path: The file, which is overwritten.
        reports: At least one, in the order of the panels.
        points: `ProxyMerit.label` to points, with values in the order of `Point`; a report without any has only a bar.
        baseline: The variant that is highlighted.
        chosen: Label of the proxy that is highlighted.
        difference: mAP50-95 to resolve.
        reference: Description of the score of full training.

    Raises:
        ValueError: There are no reports.
    """
    if not reports:
        raise ValueError("there is no proxy to draw")
    shown = [r for r in reports if points.get(r.label)]
    columns = max(1, min(_COLUMNS, len(shown)))
    rows = math.ceil(len(shown) / columns)
    row, top = _HEAD + _PANEL + _FOOT, 40.0 if shown else 0.0
    height = top + rows * row + 24 + 56 + _LINE * len(reports) + 30
    picture = Picture(_WIDTH, height, "Each proxy against full training, and its cost")
    if shown:
        picture.text(_MARGIN, 25, "Score of the proxy against full training", size=15, bold=True)
        for x, own, words in ((_WIDTH - 190, False, "variant"), (_WIDTH - 110, True, "baseline")):
            picture.add(_mark(x, 20, own))
            picture.text(x + 11, 24, words, colour="soft")
    width = (_WIDTH - 2 * _MARGIN) / columns
    for place, report in enumerate(shown):
        x, y = _MARGIN + width * (place % columns), top + row * (place // columns)
        _panel(picture, (x, y, width), report, points[report.label], baseline, report.label == chosen)
    if shown:
        picture.text(_WIDTH / 2, top + rows * row + 12, f"full training: {reference}", colour="soft", align="middle")
    _bars(picture, top + rows * row + 24, reports, chosen, difference)
    path.write_text(picture.to_svg(), encoding="utf-8")


def _mark(x: float, y: float, is_baseline: bool) -> str:
    return marks("diamond", x, y, "orange", size=6) if is_baseline else marks("circle", x, y, "blue", size=4)


def _panel(
    picture: Picture,
    place: tuple[float, float, float],
    report: ProxyMerit,
    points: Sequence[tuple[str, float, float, float, float]],
    baseline: str,
    is_chosen: bool,
) -> None:
    """Draw one proxy at a place: the left and upper corner, and the width."""
    left, top, width = place
    x0, x1, y0, y1 = left + _LEFT, left + width - 12, top + _HEAD + _PANEL, top + _HEAD
    across = ends_of([v for _, x, e, _, _ in points for v in (x - e, x + e)])
    upwards = ends_of([v for _, _, _, y, e in points for v in (y - e, y + e)])

    def at(x: float, y: float) -> tuple[float, float]:
        u, v = (x - across[0]) / (across[1] - across[0]), (y - upwards[0]) / (upwards[1] - upwards[0])
        return x0 + u * (x1 - x0), y0 + v * (y1 - y0)

    picture.text(x0, top + 18, cut(report.label, width - _LEFT, 13), size=13, bold=is_chosen)
    agreement = f"Spearman {_with_interval(report.agreement)}" + (", chosen" if is_chosen else "")
    picture.text(x0, top + 35, agreement, colour="soft")
    for tick in round_ticks(*across, 4):
        x = at(tick, upwards[0])[0]
        picture.line(x, y0, x, y1, "grid")
        picture.text(x, y0 + 16, f"{tick:.4g}", colour="soft", size=11, align="middle")
    for tick in round_ticks(*upwards, 4):
        y = at(across[0], tick)[1]
        picture.line(x0, y, x1, y, "grid")
        picture.text(x0 - 6, y + 4, f"{tick:.4g}", colour="soft", size=11, align="end")
    picture.text(
        left + 10, (y0 + y1) / 2, f"proxy: {report.score}", colour="soft", size=11, align="middle", turned=True
    )
    for own in (False, True):
        for name, x, x_error, y, y_error in points:
            if (name == baseline) == own:
                colour = "orange" if own else "blue"
                picture.line(*at(x - x_error, y), *at(x + x_error, y), colour, 0.8)
                picture.line(*at(x, y - y_error), *at(x, y + y_error), colour, 0.8)
                picture.add(_mark(*at(x, y), own))


def _bars(picture: Picture, top: float, reports: Sequence[ProxyMerit], chosen: str | None, difference: float) -> None:
    """Draw the costs, on a logarithmic axis."""
    ordered = sorted(reports, key=lambda r: r.price(difference))
    minutes = [max(r.price(difference), 1e-3) for r in ordered]  # a logarithmic axis has no 0
    title = f"CPU minutes a variant to resolve {difference:g} mAP50-95 (right sign in 9 of 10)"
    picture.text(_MARGIN, top + 30, title, size=15, bold=True)
    x0, x1, y = _MARGIN + _NAMES, _WIDTH - _MARGIN - 150, top + 48
    low = math.floor(math.log10(min(minutes) / 2))
    high = max(low + 1.0, math.log10(max(minutes)))

    def at(value: float) -> float:
        return x0 + (math.log10(value) - low) / (high - low) * (x1 - x0)

    bottom = y + _LINE * len(ordered)
    for power in range(low, math.floor(high) + 1):
        picture.line(at(10.0**power), y, at(10.0**power), bottom, "grid")
        picture.text(at(10.0**power), bottom + 16, f"{10.0**power:g}", colour="soft", size=11, align="middle")
    for report, value in zip(ordered, minutes, strict=True):
        own = chosen in (None, report.label)
        picture.text(x0 - 8, y + 19, cut(report.label, _NAMES, 12), align="end", bold=report.label == chosen)
        picture.box(x0, y + 5, at(value) - x0, _LINE - 10, "blue" if own else "grey")
        picture.text(at(value) + 6, y + 19, _price(report, difference))
        y += _LINE


def _price(report: ProxyMerit, difference: float) -> str:
    runs = max(1.0, report.merit.seeds_for(difference))
    return f"{report.price(difference):.3g} min ({runs:.3g} run{'s' if runs > 1 else ''})"


def cut(text: str, width: float, size: float) -> str:
    """Return a text without its middle where it is wider than some pixels, by the mean width of a letter."""
    most = max(6, int(width / (0.56 * size)))
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def _with_interval(agreement: Agreement) -> str:
    interval = agreement.spearman_interval
    return f"{agreement.spearman:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
