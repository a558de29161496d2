"""The plot of a calibration: each proxy against full training, and its cost. The only file that uses Matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nas.calibration.choose import ProxyMerit
from nas.calibration.rank_agreement import Agreement
from nas.calibration.resolution import merit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that colour-blind readers can distinguish (Okabe and Ito, Color Universal Design, 2008).
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#8C8C8C"
_DPI = 150
_WIDTH, _PANEL, _LINE, _COLUMNS = 8.0, 2.55, 0.26, 3  # the first three in inches
_TITLE, _NAME = 28, 34  # characters a line


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
    """Write the plot of a calibration, a PNG 1200 pixels wide.

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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [r for r in reports if points.get(r.label)]
    columns = max(1, min(_COLUMNS, len(shown)))
    rows = math.ceil(len(shown) / columns)
    lines = sum(1 + _wrapped(r.label, _NAME).count("\n") for r in reports)
    heights = [rows * _PANEL] * bool(rows) + [0.8 + _LINE * max(lines, 2)]
    figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for place, report in enumerate(shown):
        axes = parts[0].add_subplot(rows, columns, place + 1)
        _scatter(axes, report, points[report.label], baseline, report.label == chosen)
    if shown:
        parts[0].supxlabel(f"full training: {reference}", fontsize=8)
        handles, labels = max((a.get_legend_handles_labels() for a in parts[0].axes), key=lambda found: len(found[1]))
        parts[0].legend(handles, labels, loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    _bars(parts[-1].add_subplot(), reports, chosen, difference)
    figure.savefig(path, format="png")


def _scatter(
    axes: Axes,
    report: ProxyMerit,
    points: Sequence[tuple[str, float, float, float, float]],
    baseline: str,
    is_chosen: bool,
) -> None:
    for own, colour, marker, size, label in ((False, _BLUE, "o", 4, "variant"), (True, _ORANGE, "D", 5.5, "baseline")):
        part = [p for p in points if (p[0] == baseline) == own]
        if not part:
            continue
        _, x, x_error, y, y_error = zip(*part, strict=True)
        axes.errorbar(
            x,
            y,
            y_error,
            x_error,
            marker,
            color=colour,
            ms=size,
            elinewidth=0.8,
            alpha=0.85,
            label=label,
            zorder=2 + own,
        )
    title = f"{_wrapped(report.label, _TITLE)}\nSpearman {_with_interval(report.agreement)}"
    axes.set_title(title, fontsize=8, fontweight="bold" if is_chosen else "normal")
    axes.set_ylabel(f"proxy: {report.score}", fontsize=8)
    axes.locator_params(nbins=4)
    _plain(axes)


def _bars(axes: Axes, reports: Sequence[ProxyMerit], chosen: str | None, difference: float) -> None:
    ordered = sorted(reports, key=lambda r: -r.price(difference))
    minutes = [max(r.price(difference), 1e-3) for r in ordered]  # a log scale has no 0
    places = range(len(ordered))
    colours = [_BLUE if r.label == chosen or chosen is None else _GREY for r in ordered]
    bars = axes.barh(places, minutes, 0.6, color=colours)
    axes.set_yticks(places, [_wrapped(r.label, _NAME) for r in ordered])
    axes.bar_label(bars, [_price(r, difference) for r in ordered], padding=3, fontsize=8)
    middle, half = (len(ordered) - 1) / 2, max(len(ordered), 2) / 2 + 0.1
    axes.set_ylim(middle - half, middle + half)
    axes.set_xscale("log")
    low = math.floor(math.log10(min(minutes) / 2))
    # The labels next to the bars need 3 tenths of the width.
    axes.set_xlim(10**low, 10 ** max(low + 1.1, (math.log10(max(minutes)) - 0.3 * low) / 0.7))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_title(f"CPU minutes a variant to resolve {difference:g} mAP50-95 (right sign in 9 of 10)", fontsize=9)
    _plain(axes)
    for text, report in zip(axes.get_yticklabels(), ordered, strict=True):
        text.set_fontweight("bold" if report.label == chosen else "normal")


def _price(report: ProxyMerit, difference: float) -> str:
    runs = max(1.0, report.merit.seeds_for(difference))
    return f"{report.price(difference):.3g} min ({runs:.3g} run{'s' if runs > 1 else ''})"


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7.5)


def _wrapped(text: str, width: int) -> str:
    """Return the text in at most two lines, with the middle of a longer one removed."""
    lines = textwrap.wrap(text, width)
    return "\n".join(lines if len(lines) <= 2 else [lines[0], "… " + text[2 - width :].lstrip()])


def _with_interval(agreement: Agreement) -> str:
    interval = agreement.spearman_interval
    return f"{agreement.spearman:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
