"""Where the boxes of a dataset fall: shares of the detection levels P3, P4 and P5 by size in input pixels.

A YOLO detector splits its work among its levels by the size of objects in pixels of its input. A proxy on smaller
images asks about another network, unless its boxes fall alike. The size of a box is the square root of its area; below
32 px it counts for P3 (stride 8), from 96 px for P5 (stride 32), between them for P4: the usual rule of thumb. What a
trained network really does may differ; the bank measures it (`nas.bank.store.SwapBank.drops`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from nas.data.dataset import Dataset
from nas.data.validate import label_path
from nas.data.windows import Boxes, draw_box, draw_window, fixed_windows, see

LEVELS = ("P3", "P4", "P5")
BOUNDS = (32.0, 96.0)
"""Sizes in pixels that separate the levels."""
LEAST_BOX = 4.0
"""Size in pixels below which a box has no cell of its own, even with a P2 head."""
USED, IDLE = 0.05, 0.01
"""A level is used from the one share of boxes on, and idle below the other."""
MOST_IMAGES = 2000
"""Images that are read of each split; of more, a random sample."""
_WINDOWS = 1000
"""Approximate number of windows that are drawn to estimate shares."""
_SHOWN = 0.005
"""Least share of lost boxes that is named."""
_ROTATED = frozenset((5, 6, 7, 8))
"""Values of the EXIF orientation of an image that is turned by 90 degrees when it is decoded."""


@dataclass(frozen=True)
class Labelled:
    """An image's shape (height, width) in pixels, and its boxes as fractions: rows of x1, y1, x2, y2."""

    shape: tuple[int, int]
    boxes: Boxes

    def scaled(self, side: int) -> tuple[tuple[int, int], Boxes]:
        """Return shape and boxes in pixels after the long side is resized to `side`."""
        ratio = side / max(self.shape)
        height, width = (min(round(length * ratio), side) for length in self.shape)
        return (height, width), self.boxes * np.array([width, height, width, height])


@dataclass(frozen=True)
class Shares:
    """Shares of the boxes by level, in the order of `LEVELS`, and how many boxes they are of."""

    of: tuple[float, ...]
    boxes: int

    @property
    def words(self) -> str:
        """The shares in words."""
        lost = 1 - sum(self.of)
        shares = ", ".join(f"{level} {share:.0%}" for share, level in zip(self.of, LEVELS, strict=True))
        return shares + (f", {lost:.0%} too large to be seen" if lost >= _SHOWN else "")

    @property
    def by_level(self) -> dict[str, float]:
        """The shares by level, rounded."""
        return {level: round(share, 4) for level, share in zip(LEVELS, self.of, strict=True)}

    def distance(self, other: Shares) -> float:
        """Return the total variation distance, 0 to 1."""
        pairs = zip((*self.of, sum(self.of)), (*other.of, sum(other.of)), strict=True)  # the last: what is not lost
        return sum(abs(a - b) for a, b in pairs) / 2

    def idle_for(self, target: Shares) -> list[str]:
        """Return the levels that the target uses and that are idle here."""
        pairs = zip(LEVELS, self.of, target.of, strict=True)
        return [level for level, here, there in pairs if there >= USED and here < IDLE]


def read_labels(dataset: Dataset) -> tuple[list[Labelled], list[Labelled]]:
    """Return shapes and boxes of the training and the validation images of a checked dataset; a sample of very many.

    Those of classification have none.
    """
    if dataset.is_folder:
        return [], []
    splits = []
    points = any(key == "kpt_shape" for key, _ in dataset.further)
    with ThreadPool(8) as pool:
        for images in (dataset.train, dataset.val):
            chosen = sorted(random.Random(0).sample(images, MOST_IMAGES)) if len(images) > MOST_IMAGES else images
            splits.append(pool.map(partial(_labelled, points=points), chosen, chunksize=32))
    return splits[0], splits[1]


def _labelled(image: Path, points: bool) -> Labelled:
    with Image.open(image) as picture:
        width, height = picture.size
        if picture.getexif().get(274) in _ROTATED:
            width, height = height, width
    return Labelled((height, width), read_rows(image, points=points)[:, 1:])


def read_rows(image: Path, *, points: bool = False) -> Boxes:
    """Return the labels of an image of a checked dataset: rows of class, x1, y1, x2, y2, the last four as fractions.

    Args:
        image: Its file.
        points: Whether rows have a box and then key points; otherwise, longer rows are outlines or rotated boxes.
    """
    try:
        lines = Path(label_path(str(image))).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:  # an image of background
        lines = []
    rows = sorted({tuple(map(float, line.split())) for line in lines if line.strip()})
    found = np.array([(row[0], *_box(row[:5] if points else row)) for row in rows], dtype=np.float64).reshape(-1, 5)
    found[:, 1:] = found[:, 1:].clip(0, 1)
    return found


def _box(row: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the corners of a label row: a box, or an outline."""
    if len(row) == 5:
        _, x, y, width, height = row
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(row[1::2]), min(row[2::2]), max(row[1::2]), max(row[2::2])


def shares_of(sizes: npt.NDArray[np.float64], lost: int = 0) -> Shares:
    """Return the shares of boxes of these sizes in pixels; `lost` are further ones that cannot be seen."""
    count = len(sizes) + lost
    counts = np.bincount(np.searchsorted(BOUNDS, sizes, side="right"), minlength=len(LEVELS))
    return Shares(tuple(float(c) / max(1, count) for c in counts), len(sizes))


def whole_shares(images: Iterable[Labelled], side: int) -> Shares:
    """Return the shares where the long side of images is resized to `side` px."""
    return shares_of(np.concatenate([_sizes(image.scaled(side)[1]) for image in images]))


def too_small(images: Iterable[Labelled], side: int) -> float:
    """Return the share of boxes below `LEAST_BOX` where the long side of images is resized to `side` px."""
    sizes = np.concatenate([_sizes(image.scaled(side)[1]) for image in images])
    return float((sizes < LEAST_BOX).mean()) if len(sizes) else 0.0


def window_shares(images: Sequence[Labelled], side: int, scale: int) -> Shares:
    """Return the shares in training windows of `side` px, cut from images whose long side is `scale` px.

    They are drawn as in training, by a fixed seed. Boxes are clipped as in training too; a box that a window was drawn
    to hold, but cannot show, is lost: it counts for no level, and the shares add up to less than 1.
    """
    draw = random.Random(0)
    sizes, lost = [np.zeros(0)], 0
    for image in [*images] * max(1, _WINDOWS // max(1, len(images))):
        shape, boxes = image.scaled(scale)
        held = draw_box(boxes, draw.randint)
        place = draw_window(None if held is None else boxes[held], shape, side, draw.randint)
        clipped, labelled = see(boxes, place, shape)
        sizes.append(_sizes(clipped[labelled]))
        lost += held is not None and not labelled[held]
    return shares_of(np.concatenate(sizes), lost)


def seen_in_validation(images: Sequence[Labelled], side: int, scale: int) -> float:
    """Return the share of images with boxes of which the fixed validation windows show at least one."""
    shown = []
    for index, image in enumerate(images):
        shape, boxes = image.scaled(scale)
        if len(boxes):
            places = fixed_windows(boxes, shape, side, index)
            shown.append(any(see(boxes, place, shape)[1].any() for place in places))
    return sum(shown) / max(1, len(shown))


def _sizes(boxes: Boxes) -> npt.NDArray[np.float64]:
    """Return the square roots of the areas of boxes."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.sqrt(sides[:, 0] * sides[:, 1])
