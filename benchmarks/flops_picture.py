"""Draw what some swaps cost, and what Ultralytics' counter says that they cost: docs/images/flops.svg.

    python benchmarks/flops_picture.py

Costs are computed, nothing is measured: the picture is the same on every machine, and a test draws it again.
"""

from __future__ import annotations

from pathlib import Path

from nas.svg import Picture, round_ticks

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "flops.svg"
SWAPS = (
    ("neck.down_*", "DynamicConv"), ("neck.c2f_*", "C2f_DCNv4"), ("neck.up_*", "DySample"), ("neck.up_*", "CARAFE"),
)  # fmt: skip
WIDTH, LEFT, RIGHT, TOP, STEP, BAR = 960.0, 250.0, 900.0, 62.0, 52.0, 16.0
"""Of the picture; ends of the axis, place of the first swap, distance between two, height of a bar, in pixels."""


def costs() -> list[tuple[str, float, float]]:
    """Return swaps of YOLOv8n: name, change of the GFLOPs, and of those that Ultralytics' counter sees."""
    from nas.model.cost import costed
    from nas.space.space_file import load_space

    space = load_space("quick")
    _, base = costed(space.variant(space.baseline()))
    found = []
    for slot, label in SWAPS:
        _, cost = costed(space.variant({**space.baseline(), slot: label}))
        found.append((f"{slot}={label}", cost.gflops - base.gflops, cost.stock_gflops - base.stock_gflops))
    return found


def draw() -> str:
    """Return the picture."""
    rows = costs()
    values = [value for _, *pair in rows for value in pair]
    low, high = min(values) - 0.07, max(values) + 0.07
    bottom = TOP + STEP * len(rows)

    def x(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (value - low) / (high - low)

    picture = Picture(WIDTH, bottom + 46, "GFLOPs that swaps add to YOLOv8n: counted here, and by Ultralytics' counter")
    for place, colour, words in ((LEFT, "blue", "counted here"), (LEFT + 150, "grey", "Ultralytics' counter")):
        picture.box(place, 18, 14, 14, colour)
        picture.text(place + 20, 30, words, colour="soft")
    for tick in round_ticks(low, high, 8):
        picture.line(x(tick), TOP - 12, x(tick), bottom, "soft" if tick == 0 else "grid", 1.5 if tick == 0 else 1)
        picture.text(x(tick), bottom + 16, f"{tick:+.1f}" if tick else "0", colour="soft", align="middle")
    picture.text((LEFT + RIGHT) / 2, bottom + 36, "GFLOPs against YOLOv8n, at 640 px", colour="soft", align="middle")
    for k, (name, *pair) in enumerate(rows):
        picture.text(LEFT - 12, TOP + STEP * k + BAR + 4, name, align="end")
        for line, (value, colour) in enumerate(zip(pair, ("blue", "grey"), strict=True)):
            y = TOP + STEP * k + line * (BAR + 2)
            start, end = sorted((x(0), x(value)))
            picture.box(start, y, max(end - start, 1), BAR, colour)
            after = value >= 0
            place = end + 8 if after else start - 8
            picture.text(place, y + BAR - 3, f"{value:+.3f}", colour="soft", align="start" if after else "end")
    return picture.to_svg()


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE)
