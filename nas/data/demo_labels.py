"""The labels of the demo data, by task: exact, from the pixels of a shape that are seen.

An outline follows the borders of pixels. Filled by the even-odd rule, as OpenCV and Ultralytics fill polygons, it is
the mask again: parts that do not touch, and holes, are joined to the first outline by lines that lead there and back,
and so enclose nothing. A rotated box is the tight one at the angle that the shape is drawn at; where it would leave the
image, which Ultralytics refuses, the upright box. The key points are the centre of the box, and the middles of what is
seen highest, farthest right, lowest and farthest left: points that do not depend on a symmetry of the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nas.task.task import DETECT, OBB, POSE, SEGMENT

Mask: TypeAlias = npt.NDArray[np.bool_]
Point: TypeAlias = tuple[int, int]
"""x and y of a corner of a pixel."""
_ORDER = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Steps to the right, down, to the left and up: each turns right from the one before."""


class Shape(NamedTuple):
    """A shape of a scene.

    Attributes:
        kind: Its class.
        seen: Which pixels of the image it is seen at, (height, width).
        full: How many pixels it would cover on an endless canvas.
        turn: The rotation that it is drawn with: cosine and sine, both times the third.
    """

    kind: int
    seen: Mask
    full: int
    turn: tuple[int, int, int]


def _bounds(shape: Shape) -> tuple[int, int, int, int] | None:
    """Return x0, y0, x1 and y1 of what is seen of a shape, in pixels; None where most of it is hidden."""
    ys, xs = np.flatnonzero(shape.seen.any(axis=1)), np.flatnonzero(shape.seen.any(axis=0))
    if int(shape.seen.sum()) * 5 < shape.full * 2 or not len(xs):
        return None
    x0, x1, y0, y1 = int(xs[0]), int(xs[-1]) + 1, int(ys[0]), int(ys[-1]) + 1
    return (x0, y0, x1, y1) if min(x1 - x0, y1 - y0) >= 4 else None


def _row(kind: int, values: Iterable[float]) -> str:
    return f"{kind} " + " ".join(f"{value:.6f}" for value in values)


def _box(shape: Shape, bounds: tuple[int, int, int, int]) -> tuple[float, ...]:
    (height, width), (x0, y0, x1, y1) = shape.seen.shape, bounds
    return (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height


def _boxed(shape: Shape, bounds: tuple[int, int, int, int]) -> str:
    return _row(shape.kind, _box(shape, bounds))


def _outlined(shape: Shape, _bounds: tuple[int, int, int, int]) -> str:
    sides = shape.seen.shape[::-1]
    return _row(shape.kind, (value / side for p in outline(shape.seen) for value, side in zip(p, sides, strict=True)))


def _rotated(shape: Shape, bounds: tuple[int, int, int, int]) -> str:
    a, b, c = shape.turn
    along = [(x * a + y * b, y * a - x * b) for x, y in outline(shape.seen)]
    low, high = (tuple(pick(p[k] for p in along) for k in (0, 1)) for pick in (min, max))
    turned = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    corners = [((u * a - v * b) / c**2, (u * b + v * a) / c**2) for u, v in turned]
    height, width = shape.seen.shape
    if not all(0 <= x <= width and 0 <= y <= height for x, y in corners):
        x0, y0, x1, y1 = bounds
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return _row(shape.kind, (value for x, y in corners for value in (x / width, y / height)))


def _pointed(shape: Shape, bounds: tuple[int, int, int, int]) -> str:
    (height, width), (x0, y0, x1, y1), seen = shape.seen.shape, bounds, shape.seen
    rows = {y: np.flatnonzero(seen[y]) for y in (y0, y1 - 1)}
    columns = {x: np.flatnonzero(seen[:, x]) for x in (x0, x1 - 1)}
    points = [
        ((x0 + x1) / 2, (y0 + y1) / 2),
        (_middle(rows[y0]), y0 + 0.5),
        (x1 - 0.5, _middle(columns[x1 - 1])),
        (_middle(rows[y1 - 1]), y1 - 0.5),
        (x0 + 0.5, _middle(columns[x0])),
    ]
    found = [*_box(shape, bounds)]
    for x, y in points:
        found += [x / width, y / height, 2 if seen[int(y), int(x)] else 1]
    return _row(shape.kind, found)


def _middle(places: npt.NDArray[np.int64]) -> float:
    """Return the middle of a run of pixels, of the longest where there are several."""
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    longest = max(runs, key=len)
    return (int(longest[0]) + int(longest[-1]) + 1) / 2


_WRITERS: Mapping[str, Callable[[Shape, tuple[int, int, int, int]], str]] = {
    DETECT.name: _boxed,
    SEGMENT.name: _outlined,
    POSE.name: _pointed,
    OBB.name: _rotated,
}
FURTHER: Mapping[str, str] = {POSE.name: "kpt_shape: [5, 3]\nflip_idx: [0, 1, 4, 3, 2]\n"}
"""What the data.yaml of a task has besides its splits and names."""


def label(shape: Shape, task: str) -> str:
    """Return the label row of a shape for a task; empty where most of the shape is hidden."""
    bounds = _bounds(shape)
    return _WRITERS[task](shape, bounds) if bounds else ""


def outline(mask: Mask) -> list[Point]:
    """Return the corners of a polygon that encloses a mask (height, width); empty for an empty mask."""
    loops = _loops(mask)
    found = loops[0] if loops else []
    for loop in loops[1:]:
        i, j = min(
            ((i, j) for i in range(len(found)) for j in range(len(loop))),
            key=lambda pair: (_distance(found[pair[0]], loop[pair[1]]), pair),
        )
        found = [*found[: i + 1], *loop[j:], *loop[: j + 1], *found[i:]]
    return found


def _distance(a: Point, b: Point) -> int:
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2


def _loops(mask: Mask) -> list[list[Point]]:
    """Return the closed borders of a mask, each with the mask on its right, without corners on a straight line."""
    around = np.pad(mask, 1)
    inside = around[1:-1, 1:-1]
    steps: dict[Point, set[Point]] = {}
    for (dx, dy), beyond in zip(
        _ORDER, (around[:-2, 1:-1], around[1:-1, 2:], around[2:, 1:-1], around[1:-1, :-2]), strict=True
    ):
        for y, x in np.argwhere(inside & ~beyond).tolist():
            # The border above a pixel leads to the right, the one on its right down, and so on.
            start = (x + (dx < 0 or dy > 0), y + (dy < 0 or dx < 0))
            steps.setdefault(start, set()).add((dx, dy))
    loops = []
    while steps:
        at = first = min(steps)
        step = min(steps[at], key=_ORDER.index)
        loop: list[Point] = []
        while True:
            steps[at].discard(step)
            if not steps[at]:
                del steps[at]
            at = (at[0] + step[0], at[1] + step[1])
            if at == first:  # the first corner is the leftmost, and there the highest: no loop passes it twice
                break
            turn = _ORDER.index(step)
            # Right first: pixels that touch at a corner alone are in loops of their own.
            after = next(s for s in (_ORDER[(turn + k) % 4] for k in (1, 0, 3)) if s in steps[at])
            if after != step:
                loop.append(at)
            step = after
        loop.append(first)
        loops.append(loop)
    return loops
