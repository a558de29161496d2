"""Draw a ranking as a forest plot: the difference of each variant to the baseline, with its interval and verdict.

    nas rank STUDY --csv > ranking.csv
    python benchmarks/ranking_picture.py ranking.csv -o ranking.svg

`nas report` has this plot too, to look at on a screen. Without arguments the README's picture is drawn,
docs/images/bccd-trained.svg, from studies/results/bccd-trained/ranking.csv. The picture's metadata hold the SHA-256 of
the table, so that a test can see whether the two belong together.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.html.scale import Scale, scale_of
from nas.svg import Picture, marks

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "studies" / "results" / "bccd-trained" / "ranking.csv"
PICTURE = ROOT / "docs" / "images" / "bccd-trained.svg"

STYLES = {
    "better": ("blue", "up", "better"),
    "worse": ("orange", "down", "worse"),
    "cannot tell": ("grey", "circle", "cannot tell from the baseline"),
    "1 seed": ("grey", "diamond", "1 seed: no verdict"),
}
"""Colour, mark and legend of each verdict; with one seed the mark is hollow."""
WIDTH, LEFT, RIGHT = 960.0, 330.0, 820.0
"""Width of the picture, and the ends of the axis, in pixels."""
TOP, LINE = 92.0, 24.0
"""Room above the first line, and the height of a line."""


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


def draw(rows: Sequence[Row], baseline: dict[str, str]) -> Picture:
    """Return the forest plot: a line for each variant, best first, and the baseline as the line at zero."""
    bottom = TOP + LINE * len(rows)
    picture = Picture(WIDTH, bottom + 52, "Difference of each variant to the baseline, with its 95 % interval")
    scale = scale_of([row.delta for row in rows], [row.interval for row in rows if row.interval])

    def at(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * scale.at(value) / 100

    legend(picture, rows)
    for x, head, align in ((24.0, "swaps", "start"), (872.0, "seeds", "end"), (WIDTH - 24, "Δ GFLOPs", "end")):
        picture.text(x, TOP - 14, head, colour="soft", align=align)
    picture.text(at(0.0), TOP - 14, "baseline", colour="soft", align="middle")
    for tick in scale.ticks(6):
        picture.line(at(tick), TOP - 6, at(tick), bottom, "grid")
        text = "0" if not tick else f"{tick:+g}".replace("-", "−")
        picture.text(at(tick), bottom + 18, text, colour="soft", align="middle")
    picture.line(at(0.0), TOP - 6, at(0.0), bottom, "ink", 1.5)
    for place, row in enumerate(rows):
        line(picture, TOP + LINE * (place + 0.5), row, scale, at(row.delta))
    reference = f"{float(baseline['map50_95']):.3f}, {float(baseline['gflops']):.2f} GFLOPs"
    words = f"Δ mAP50-95 to the baseline ({reference}), with 95 % interval"
    picture.text((LEFT + RIGHT) / 2, bottom + 40, words, colour="soft", align="middle")
    return picture


def line(picture: Picture, y: float, row: Row, scale: Scale, x: float) -> None:
    """Draw a variant."""
    colour, mark, _ = STYLES[row.verdict]
    slot, _, label = row.swaps.partition("=")
    text = f"{slot}={label}" if label else slot
    picture.text(24, y + 4, text if len(text) < 47 else f"{text[:46]}…")
    if row.interval:
        low, high = (LEFT + (RIGHT - LEFT) * scale.at(end) / 100 for end in row.interval)
        picture.line(low, y, high, y, colour, 1.4 if row.verdict == "1 seed" else 2.2)
    picture.add(marks(mark, x, y, colour, hollow=row.verdict == "1 seed"))
    picture.text(872, y + 4, str(row.seeds), align="end")
    picture.text(WIDTH - 24, y + 4, row.signed_gflops, align="end")


def legend(picture: Picture, rows: Sequence[Row]) -> None:
    """Draw the legend: the verdicts that occur."""
    x = 30.0
    for verdict, (colour, mark, words) in STYLES.items():
        if any(row.verdict == verdict for row in rows):
            picture.add(marks(mark, x, 30, colour, hollow=verdict == "1 seed", size=5.5))
            picture.text(x + 12, 34, words, size=13)
            x += 44 + 7.2 * len(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a table, draw it, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE, help="what `nas rank --csv` printed")
    parser.add_argument("-o", "--output", type=Path, default=PICTURE, help="the SVG file to write")
    options = parser.parse_args(arguments)
    picture = draw(*read(options.table))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(options.table.read_bytes()).hexdigest()
    options.output.write_text(picture.to_svg(f"sha256:{digest}"), encoding="utf-8")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
