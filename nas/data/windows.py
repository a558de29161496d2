"""Windows: parts of an image that are cut out at the scale of the target, so that objects keep their size in pixels.

A training window holds an object: one box of the image is drawn, and the window lies at random around it. A box that
the window's border cuts is clipped to what is seen of it; where that is less than `SEEN`, it is ignored, and what is
seen of the object is painted over, so that it is neither an object nor background. Validation windows are fixed.
Outlines and rotated boxes are cut along the border, and key points outside of it are not labelled.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Boxes: TypeAlias = npt.NDArray[np.float64]
"""Rows of x1, y1, x2, y2."""
Box: TypeAlias = npt.NDArray[np.float64]
"""One of these rows."""
Place: TypeAlias = tuple[int, int, int]
"""A window: x and y of its upper left corner, and its side, in pixels. It ends where the image ends."""
SEEN = 0.75
"""Least share of a box's area within a window for the box to be labelled there.

A clipped box is then smaller than its object by 13 % at most (the square root of 0.75) and keeps its detection level.
With 0.4, a quarter of the boxes of bccd in windows of 224 px would change theirs (`nas.data.levels`).
"""
PAINT = 114
"""Grey value that ignored objects are painted with: the one that the host pads images with."""
PER_IMAGE = 3
"""Maximum number of validation windows of an image."""


def draw_box(boxes: Boxes, randint: Callable[[int, int], int]) -> int | None:
    """Draw the box that a training window shall hold, by its row; None where there is none."""
    return randint(0, len(boxes) - 1) if len(boxes) else None


def draw_window(held: Box | None, shape: tuple[int, int], side: int, randint: Callable[[int, int], int]) -> Place:
    """Draw a training window that holds a box, or as much of it as fits.

    Args:
        held: The box, in pixels; without one, the window is anywhere.
        shape: Height and width of the image.
        side: Of the window; along a shorter side of the image it spans the image.
        randint: Draws an integer between two bounds, both included, as `random.randint`.
    """
    corner = []
    for axis in (0, 1):
        last = max(0, shape[1 - axis] - side)
        low, high = 0, last
        if held is not None:
            ends = math.ceil(held[axis + 2]) - side, math.floor(held[axis])  # the window begins between them
            low, high = (min(max(bound, 0), last) for bound in sorted(ends))
        corner.append(randint(low, high))
    return corner[0], corner[1], side


def see(boxes: Boxes, place: Place, shape: tuple[int, int]) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """Return what a window shows of boxes, in its own pixels, and which of them are labelled there.

    Args:
        boxes: In pixels of the image.
        place: The window.
        shape: Height and width of the image.

    Returns:
        A clipped box for each box, without area where nothing is seen; and for each whether `SEEN` of it is seen.
    """
    x, y, side = place
    ends = np.array([min(side, shape[1] - x), min(side, shape[0] - y)] * 2, dtype=np.float64)
    clipped = np.minimum(np.maximum(boxes - np.array([x, y, x, y]), 0), ends)
    return clipped, _areas(clipped) >= SEEN * np.maximum(_areas(boxes), 1e-9)


def move_points(
    points: npt.NDArray[np.float32], place: Place, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return where points of an image are in a window, and which of them it shows.

    Those outside are moved to the nearest point of its border, as the host does in a mosaic: an outline of dense points
    is so cut along the border.

    Args:
        points: x and y as shares of the image, (..., 2).
        place: The window.
        shape: Height and width of the image.

    Returns:
        The points as shares of the window, (..., 2); and whether each is within it, (...).
    """
    x, y, side = place
    size = np.array([min(side, shape[1] - x), min(side, shape[0] - y)], dtype=np.float64)
    moved = points * np.array([shape[1], shape[0]]) - np.array([x, y])
    inside = ((moved >= 0) & (moved <= size)).all(-1)
    return (moved.clip(0, size) / size).astype(np.float32), inside


def paint_ignored(window: npt.NDArray[np.uint8], clipped: Boxes, labelled: npt.NDArray[np.bool_]) -> None:
    """Paint over what a window shows of ignored boxes, except within labelled ones.

    Args:
        window: Pixels (height, width, channels), which are changed.
        clipped: As `see` returns them.
        labelled: The same.
    """
    if labelled.all():
        return
    ignored = np.zeros(window.shape[:2], dtype=bool)
    for wanted in (False, True):
        for x1, y1, x2, y2 in clipped[labelled == wanted]:
            ignored[math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)] = not wanted
    window[ignored] = PAINT


def fixed_windows(boxes: Boxes, shape: tuple[int, int], side: int, index: int) -> list[Place]:
    """Return the validation windows of an image, always the same.

    They are drawn from a grid that covers the image: windows with a box first. An image in which no window shows a box
    has one, of background.

    Args:
        boxes: In pixels.
        shape: Height and width of the image.
        side: Of the windows.
        index: Of the image in its dataset.
    """
    columns, rows = (_starts(length, side) for length in (shape[1], shape[0]))
    grid = [(x, y, side) for y in rows for x in columns]
    random.Random(index).shuffle(grid)
    showing = [place for place in grid if see(boxes, place, shape)[1].any()]
    return sorted(showing[:PER_IMAGE] or grid[:1])


def _starts(length: int, side: int) -> list[int]:
    """Return where windows begin that cover a length, evenly spread."""
    count = math.ceil(length / side)
    return [round(k * (length - side) / (count - 1)) for k in range(count)] if count > 1 else [0]


def _areas(boxes: Boxes) -> npt.NDArray[np.float64]:
    areas: npt.NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas
