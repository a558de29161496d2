"""mAP50-95 by size of object, as COCO defines it, from predictions and labels in pixels of the image.

A box of another size counts for nothing: a label outside of a range of areas is ignored, and so is a prediction that
matches one, or that matches none and is itself outside. AP is the mean precision at 101 recalls, averaged over IoU 0.5
to 0.95 and the classes that have such objects. (Lin et al., Microsoft COCO; https://cocodataset.org/#detection-eval)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
SIZES = ("small", "medium", "large")
"""COCO's sizes of objects: areas below 32² px, below 96² px, and above, in pixels of the image as it is stored."""
_RANGES: Mapping[str, tuple[float, float]] = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, math.inf),
}
_IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Seen:
    """One image.

    Attributes:
        labels: Class and corners (x1, y1, x2, y2) of each label, (labels, 5), in pixels.
        predictions: Class, confidence and corners of each prediction, (predictions, 6).
    """

    labels: Array
    predictions: Array


def map_by_size(images: Iterable[Seen]) -> dict[str, float | None]:
    """Return mAP50-95 by size of object (`SIZES`); None for a size that no label has."""
    every = list(images)
    return {size: map_in_range(every, *_RANGES[size]) for size in SIZES}


def map_in_range(images: Iterable[Seen], least: float, most: float) -> float | None:
    """Return the mAP50-95 of objects with an area from `least` to below `most`, px²; None if there are none."""
    every = list(images)
    classes = sorted({int(c) for image in every for c in image.labels[:, 0]})
    found = [ap for c in classes if (ap := _ap([_of_class(image, c) for image in every], least, most)) is not None]
    return float(np.mean(found)) if found else None


def _of_class(image: Seen, number: int) -> tuple[Array, Array]:
    """Return the boxes of the labels, (n, 4), and confidence and box of the predictions, (m, 5), of one class."""
    return image.labels[image.labels[:, 0] == number, 1:], image.predictions[image.predictions[:, 0] == number, 1:]


def _ap(images: list[tuple[Array, Array]], least: float, most: float) -> float | None:
    """Return the AP of one class over all IoU thresholds; None without a label in the range."""
    count = sum(int(_inside(labels, least, most).sum()) for labels, _ in images)
    if not count:
        return None
    parts = [_matched(labels, predictions, least, most) for labels, predictions in images if len(predictions)]
    if not parts:
        return 0.0
    confidence = np.concatenate([part[0] for part in parts])
    hit, ignored = (np.concatenate([part[k] for part in parts], axis=1) for k in (1, 2))
    order = np.argsort(-confidence, kind="stable")
    return float(np.mean([_area(h[order], i[order], count) for h, i in zip(hit, ignored, strict=True)]))


def _matched(labels: Array, predictions: Array, least: float, most: float) -> tuple[Array, Array, Array]:
    """Match the predictions of an image, the most confident first, at each IoU threshold.

    Returns:
        Confidence, (m,); whether each is a hit, and whether it counts for nothing, both (thresholds, m).
    """
    predictions = predictions[np.argsort(-predictions[:, 0], kind="stable")]
    counts = _inside(labels, least, most)
    order = np.argsort(~counts, kind="stable")  # a label in the range is preferred to one that is ignored
    labels, counts = labels[order], counts[order]
    iou = pairwise_iou(predictions[:, 1:], labels)
    outside = ~_inside(predictions[:, 1:], least, most)
    hit = np.zeros((len(_IOUS), len(predictions)))
    ignored = np.zeros_like(hit)
    for t, threshold in enumerate(_IOUS):
        free = np.ones(len(labels), dtype=bool)
        for p in range(len(predictions)):
            best = -1
            for kind in (counts, ~counts):
                able = np.where(free & kind & (iou[p] >= threshold), iou[p], -1.0)
                if len(able) and able.max() >= 0:
                    best = int(able.argmax())
                    break
            if best < 0:
                ignored[t, p] = outside[p]
                continue
            free[best] = False
            (hit if counts[best] else ignored)[t, p] = 1.0
    return predictions[:, 0], hit, ignored


def _area(hit: Array, ignored: Array, count: int) -> float:
    """Return the mean precision at 101 recalls."""
    hits = np.cumsum(hit)
    misses = np.cumsum((hit == 0) & (ignored == 0))
    recall = hits / count
    precision = hits / np.maximum(hits + misses, 1e-9)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.mean([precision[i] if i < len(precision) else 0.0 for i in at]))


def _inside(boxes: Array, least: float, most: float) -> npt.NDArray[np.bool_]:
    area = _areas(boxes)
    return np.asarray((area >= least) & (area < most))


def pairwise_iou(a: Array, b: Array) -> Array:
    """Return the IoU of all pairs of boxes, (a, b), of corners x1, y1, x2, y2."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(2)
    both = _areas(a)[:, None] + _areas(b)[None] - overlap
    return np.asarray(overlap / np.maximum(both, 1e-9))


def _areas(boxes: Array) -> Array:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
