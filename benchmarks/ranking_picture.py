"""Draw a ranking as a forest plot: the difference of each variant to the baseline, with its interval and verdict.

    nas rank STUDY --csv > ranking.csv
    python benchmarks/ranking_picture.py ranking.csv -o ranking.png

Without arguments it draws the README's picture, docs/images/bccd-trained.png, from
studies/results/bccd-trained/ranking.csv. One version of Matplotlib writes the same bytes each time. The picture's
metadata hold the SHA-256 of the table, so that a test can see whether the two belong together.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "studies" / "results" / "bccd-trained" / "ranking.csv"
PICTURE = ROOT / "docs" / "images" / "bccd-trained.png"

STYLES = {
    "better": ("#1a7f37", "^", "#1a7f37", "better"),
    "worse": ("#cf222e", "v", "#cf222e", "worse"),
    "cannot tell": ("#0550ae", "o", "#0550ae", "cannot tell from the baseline"),
    "1 seed": ("#8c959f", "D", "white", "1 seed: no verdict"),
}
"""Colour, marker, its filling and the legend of each verdict."""

LABEL_INCHES = 0.0755
"""Width of a letter of the labels, which are in a font of one width."""


@dataclass(frozen=True)
class Row:
    """A variant of the ranking."""

    swaps: str
    delta: float
    interval: tuple[float, float] | None
    verdict: str
    seeds: int
    gflops_percent: float

    @property
    def signed_gflops(self) -> str:
        """The change of GFLOPs with its sign; no sign where it rounds to zero."""
        text = f"{self.gflops_percent:+.1f}"
        return "0.0 %" if float(text) == 0 else f"{text.replace('-', '−')} %"


def read(table: Path) -> tuple[list[Row], dict[str, str]]:
    """Return the variants of a table that `nas rank --csv` wrote, best first, and the row of its baseline."""
    with table.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    (baseline,) = [line for line in lines if line["verdict"] == "baseline"]
    rows = []
    for line in lines:
        if line is baseline:
            continue
        seeds = int(line["seeds"])
        ends = line["interval_low"], line["interval_high"]
        rows.append(
            Row(
                swaps=line["swaps"],
                delta=float(line["delta_map50_95"]),
                interval=(float(ends[0]), float(ends[1])) if all(ends) else None,
                verdict=line["verdict"] if seeds > 1 else "1 seed",  # one seed has an interval, but never a verdict
                seeds=seeds,
                gflops_percent=float(line["delta_gflops_percent"]),
            )
        )
    return rows, baseline


def empty_plot(rows: Sequence[Row]) -> tuple[Figure, Axes]:
    """Return a figure with room for the longest label on the left and two columns of numbers on the right."""
    left = 0.3 + LABEL_INCHES * max(len(row.swaps) for row in rows)
    width, height = left + 5.2 + 1.5, 1.4 + 0.235 * len(rows)
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left / width, 0.6 / height, 1 - 1.5 / width, 1 - 0.4 / height)
    axes = figure.add_subplot()
    axes.set_ylim(len(rows) - 0.4, -1.6)
    axes.set_yticks(range(len(rows)), [row.swaps for row in rows], fontsize=9, family="DejaVu Sans Mono")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#d0d7de", linewidth=0.8)
    axes.grid(axis="y", color="#eaeef2", linewidth=0.8)
    axes.margins(x=0.08)
    axes.set_axisbelow(True)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    return figure, axes


def draw(rows: Sequence[Row], baseline: dict[str, str]) -> Figure:
    """Return the forest plot: a line for each variant, best first, and the baseline as the line at zero."""
    figure, axes = empty_plot(rows)

    def column(x: float, head: str, cells: Sequence[str]) -> None:
        for y, cell in ((-1.1, head), *enumerate(cells)):
            weight = "bold" if cell is head else "normal"
            axes.text(x, y, cell, transform=axes.get_yaxis_transform(), va="center", ha="right", size=9, weight=weight)

    column(1.09, "seeds", [str(row.seeds) for row in rows])
    column(1.27, "Δ GFLOPs", [row.signed_gflops for row in rows])
    axes.plot((0, 0), (-0.6, len(rows)), color="#24292f", linewidth=1.2, zorder=1)
    axes.text(0, -1.1, "baseline", va="center", ha="center", size=9, weight="bold")
    for y, row in enumerate(rows):
        color, marker, face, _ = STYLES[row.verdict]
        if row.interval:
            axes.plot(row.interval, (y, y), color=color, linewidth=2.2, solid_capstyle="butt", zorder=2)
        axes.plot(row.delta, y, marker, color=color, markerfacecolor=face, markersize=5.5, zorder=3)
    reference = f"{float(baseline['map50_95']):.3f}, {float(baseline['gflops']):.2f} GFLOPs"
    axes.set_xlabel(f"Δ mAP50-95 to the baseline ({reference}), with 95 % interval", fontsize=9.5)
    figure.legend(handles=legend_of(rows), loc="upper center", ncols=len(STYLES), frameon=False, fontsize=9.5)
    return figure


def legend_of(rows: Sequence[Row]) -> list[Line2D]:
    """Return the legend's entries: the verdicts that occur."""
    return [
        Line2D([], [], color=color, marker=marker, markerfacecolor=face, linewidth=2.2, label=label)
        for verdict, (color, marker, face, label) in STYLES.items()
        if any(row.verdict == verdict for row in rows)
    ]


def source_note(digest: str) -> PngInfo:
    """Return the metadata that name the table by its SHA-256."""
    note = PngInfo()
    note.add_text("Source", f"sha256:{digest}")
    return note


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a table, draw it, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE, help="what `nas rank --csv` printed")
    parser.add_argument("-o", "--output", type=Path, default=PICTURE, help="the PNG file to write")
    options = parser.parse_args(arguments)
    figure = draw(*read(options.table))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(options.table.read_bytes()).hexdigest()
    figure.canvas.draw()
    image = (
        Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB").quantize(128, Image.Quantize.FASTOCTREE)
    )
    image.save(options.output, format="PNG", optimize=True, pnginfo=source_note(digest))
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
