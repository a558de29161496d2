"""Draw the front of a data set: mAP against GFLOPs, with the variants of every budget and the pruned baselines.

    python benchmarks/front.py bccd/data.yaml --out front.json
    python benchmarks/front_picture.py front.json -o front.svg

`nas report` has this plot too, to look at on a screen. Without arguments the README's picture is drawn,
docs/images/bccd-slim.svg, from studies/results/bccd-slim/front.json. The picture's metadata hold the SHA-256 of the
table, so that a test can see whether the two belong together.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from front import best_within

from nas.svg import Picture, ends_of, marks, round_ticks

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "studies" / "results" / "bccd-slim" / "front.json"
PICTURE = ROOT / "docs" / "images" / "bccd-slim.svg"
WIDTH, HEIGHT = 960.0, 460.0
"""Of the picture, in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 74.0, 930.0, 76.0, 400.0
"""Ends of the axes, in pixels."""
_BELOW = "GFLOPs at 640 px; bars: 95 % interval of the difference to the baseline"
Row = dict[str, Any]


class Plot:
    """The axes of a front: from GFLOPs and mAP to pixels."""

    def __init__(self, picture: Picture, gflops: Sequence[float], scores: Sequence[float]) -> None:
        self.picture = picture
        self.across, self.up = ends_of(gflops), ends_of(scores)

    def x(self, gflops: float) -> float:
        """Return the place of a cost."""
        low, high = self.across
        return LEFT + (RIGHT - LEFT) * (gflops - low) / (high - low)

    def y(self, score: float) -> float:
        """Return the place of a mAP."""
        low, high = self.up
        return BOTTOM - (BOTTOM - TOP) * (score - low) / (high - low)

    def axes(self) -> None:
        """Draw the grid with its values."""
        for tick in round_ticks(*self.up, 7):
            self.picture.line(LEFT, self.y(tick), RIGHT, self.y(tick), "grid")
            self.picture.text(LEFT - 10, self.y(tick) + 4, f"{tick:.2f}", colour="soft", align="end")
        for tick in round_ticks(*self.across, 9):
            self.picture.line(self.x(tick), BOTTOM, self.x(tick), BOTTOM + 5, "soft")
            self.picture.text(self.x(tick), BOTTOM + 21, f"{tick:g}", colour="soft", align="middle")
        self.picture.text((LEFT + RIGHT) / 2, BOTTOM + 44, _BELOW, colour="soft", align="middle")
        middle = (TOP + BOTTOM) / 2
        self.picture.text(22, middle, "mAP50-95", colour="soft", align="middle", turned=True)

    def bar(self, gflops: float, ends: tuple[float, float], colour: str, width: float) -> None:
        """Draw an interval."""
        self.picture.line(self.x(gflops), self.y(ends[0]), self.x(gflops), self.y(ends[1]), colour, width)

    def mark(self, kind: str, row: Row, colour: str, *, hollow: bool = False, size: float = 6.0) -> None:
        """Draw a model."""
        place = self.x(row["gflops"]), self.y(row["map50_95"])
        if kind == "square":
            x, y = place[0] - size, place[1] - size
            self.picture.box(x, y, 2 * size, 2 * size, colour)
        else:
            self.picture.add(marks(kind, *place, colour, hollow=hollow, size=size))


def interval_of(row: Row, base: Row) -> tuple[float, float] | None:
    """Return the interval of a model's mAP, given the baseline's: that of their difference."""
    ends = row["interval"] if "interval" in row else (row["interval_low"], row["interval_high"])
    if row["seeds"] < 2 or not ends or ends[0] is None:
        return None
    return base["map50_95"] + ends[0], base["map50_95"] + ends[1]


def draw(body: dict[str, Any]) -> Picture:
    """Return the picture of what `benchmarks/front.py` wrote."""
    ranking = body["ranking"]
    base = next(row for row in ranking["rows"] if row["verdict"] == "baseline")
    variants = [row for row in ranking["rows"] if row is not base]
    yardsticks = sorted(ranking.get("yardsticks", ()), key=lambda row: row["gflops"])
    several = [row for row in variants if row["seeds"] > 1]
    of_budgets = [best_within(budget, base, ranking)[1] for budget in body["budgets"]]
    chosen = {row["id"]: row for row in of_budgets if row}
    models = [base, *variants, *yardsticks]
    bars = [(row, ends) for row in (*several, *yardsticks) if (ends := interval_of(row, base))]
    # A variant of one seed that has learnt little is no reason for a wide axis.
    shown = [row["map50_95"] for row in (base, *yardsticks, *several)] + [end for _, ends in bars for end in ends]
    picture = Picture(WIDTH, HEIGHT, "mAP against GFLOPs: variants, pruned baselines, and the baseline")
    plot = Plot(picture, [row["gflops"] for row in models], shown)
    plot.axes()
    legend(picture)
    line = [*yardsticks, base]
    for one, other in itertools.pairwise(line):
        x, y = plot.x(one["gflops"]), plot.y(one["map50_95"])
        picture.line(x, y, plot.x(other["gflops"]), plot.y(other["map50_95"]), "orange", 1.5)
    for row, ends in bars:
        plot.bar(row["gflops"], ends, "orange" if row in yardsticks else "blue", 1.8)
    for row in variants:
        if row not in several and row["map50_95"] >= min(shown):
            plot.mark("diamond", row, "grey", hollow=True, size=5)
    for row in yardsticks:
        plot.mark("square", row, "orange", size=5)
    for row in several:
        plot.mark("circle", row, "blue")
    for row in chosen.values():
        words = f"{row['delta_gflops_percent']:.0f} %: Δ {row['delta_map50_95']:+.4f}".replace("-", "−")
        picture.text(plot.x(row["gflops"]), TOP - 8, words, size=13, align="middle", bold=True)
    plot.mark("diamond", base, "ink", size=8)
    return picture


def legend(picture: Picture) -> None:
    """Say what the marks are."""
    x = LEFT
    for kind, colour, words in (
        ("diamond", "ink", "baseline"),
        ("circle", "blue", "variant, several seeds"),
        ("hollow", "grey", "variant, 1 seed"),
        ("square", "orange", "baseline pruned to a smaller width"),
    ):
        if kind == "square":
            picture.box(x, 25, 10, 10, colour)
        else:
            hollow = kind == "hollow"
            picture.add(marks("diamond" if hollow else kind, x + 5, 30, colour, hollow=hollow, size=5.5))
        picture.text(x + 18, 34, words, size=13)
        x += 48 + 7.0 * len(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a front, draw it, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE, help="what benchmarks/front.py wrote")
    parser.add_argument("-o", "--output", type=Path, default=PICTURE, help="the SVG file to write")
    options = parser.parse_args(arguments)
    picture = draw(json.loads(options.table.read_text(encoding="utf-8")))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(options.table.read_bytes()).hexdigest()
    options.output.write_text(picture.to_svg(f"sha256:{digest}"), encoding="utf-8")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
