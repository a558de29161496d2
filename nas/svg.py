"""Static pictures as SVG, such as a README shows: a few shapes, text, and colours that follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

# Blue and orange can be told apart by colour-blind readers (Okabe and Ito, Color Universal Design, 2008).
COLOURS = {
    "ink": ("#15181c", "#e9ebee"), "soft": ("#545b66", "#a5adb8"), "grid": ("#e2e5ea", "#333a44"),
    "paper": ("#ffffff", "#14171b"), "blue": ("#0b63a8", "#5cb0f2"), "orange": ("#c24a06", "#f4934b"),
    "grey": ("#6b7380", "#9aa3b0"), "band": ("#e6e9ee", "#262c35"),
}  # fmt: skip
"""Name to the colour on light and on dark paper."""


def marks(kind: str, x: float, y: float, colour: str, *, hollow: bool = False, size: float = 5.0) -> str:
    """Return a mark at a place: ``up``, ``down``, ``diamond`` or ``circle``; its size is half its width in pixels."""
    s = size
    inside = f'fill="var(--paper)" stroke="var(--{colour})" stroke-width="1.6"' if hollow else f'fill="var(--{colour})"'
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s:g}" {inside}/>'
    shape = {
        "up": ((0, -s), (s, s * 0.8), (-s, s * 0.8)),
        "down": ((0, s), (s, -s * 0.8), (-s, -s * 0.8)),
        "diamond": ((0, -s), (s, 0), (0, s), (-s, 0)),
    }[kind]
    points = " ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in shape)
    return f'<polygon points="{points}" {inside}/>'


class Picture:
    """A picture of some width and height in pixels, to which shapes are added from back to front."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._parts: list[str] = []

    def add(self, *shapes: str) -> None:
        """Add SVG elements as they are."""
        self._parts.extend(shapes)

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> None:
        """Add a line."""
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self.add(f'<line {ends} stroke="var(--{colour})" stroke-width="{width:g}"/>')

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Add a filled rectangle."""
        place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
        self.add(f'<rect {place} fill="var(--{colour})"/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        colour: str = "ink",
        size: float = 12,
        align: str = "start",
        bold: bool = False,
        turned: bool = False,
    ) -> None:
        """Add a text whose baseline starts, ends or has its middle at a place."""
        more = (' font-weight="600"' if bold else "") + (f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else "")
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{align}" fill="var(--{colour})"{more}'
        self.add(f"<text {place}>{escape(text)}</text>")

    def to_svg(self, note: str = "") -> str:
        """Return the file, with a note in its metadata."""
        light, dark = ("".join(f"--{name}:{pair[k]};" for name, pair in COLOURS.items()) for k in (0, 1))
        fonts = 'font-family:-apple-system,"Segoe UI",Roboto,"Noto Sans",Arial,sans-serif'
        size = f'width="{self.width:g}" height="{self.height:g}" viewBox="0 0 {self.width:g} {self.height:g}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
                f"<title>{escape(self.title)}</title>",
                *([f"<metadata>{escape(note)}</metadata>"] if note else []),
                f"<style>svg{{{light}{fonts}}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>",
                '<rect width="100%" height="100%" fill="var(--paper)"/>',
                *self._parts,
                "</svg>\n",
            ]
        )


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round values from `low` to `high`, at most that many, one at least a step apart."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(step * k, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def ends_of(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis that holds values with some room around them."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room
