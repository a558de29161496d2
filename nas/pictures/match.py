"""Found, missed and false boxes of an image, and how much two models differ on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.data.sizes import Array, pairwise_iou

IOU = 0.5
"""Least IoU of a detection with a label of the same class that it counts as found by, as in mAP50."""


@dataclass(frozen=True)
class Matched:
    """What a model makes of an image.

    Attributes:
        hits: Label to the detection that finds it, both as indices.
        missed: Labels that no detection finds.
        false: Detections that find no label, second ones of a label included.
    """

    hits: dict[int, int]
    missed: tuple[int, ...]
    false: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of found labels, missed labels and false detections."""
        return len(self.hits), len(self.missed), len(self.false)


def match(labels: Array, detections: Array) -> Matched:
    """Match detections with labels, the most confident first, each with the free label that it overlaps most.

    Args:
        labels: Class and corners of each label, (labels, 5), in pixels.
        detections: Class, confidence and corners of each detection, (detections, 6).
    """
    iou = pairwise_iou(detections[:, 2:], labels[:, 1:])
    iou[detections[:, :1] != labels[None, :, 0]] = 0.0
    hits: dict[int, int] = {}
    for d in np.argsort(-detections[:, 1], kind="stable"):
        free = [k for k in range(len(labels)) if k not in hits and iou[d, k] >= IOU]
        if free:
            hits[max(free, key=lambda k: float(iou[d, k]))] = int(d)
    used = set(hits.values())
    missed = tuple(k for k in range(len(labels)) if k not in hits)
    return Matched(dict(sorted(hits.items())), missed, tuple(d for d in range(len(detections)) if d not in used))


def difference(one: Matched, theirs: Array, other: Matched, others: Array) -> int:
    """Return how much two models differ on an image: labels that one alone finds, and false boxes of one alone.

    Args:
        one: What the first model makes of it.
        theirs: Its detections, (detections, 6).
        other: What the second makes of it.
        others: Its detections.
    """
    labels = len(one.hits.keys() ^ other.hits.keys())
    false = match(theirs[list(one.false)][:, [0, 2, 3, 4, 5]], others[list(other.false)])
    return labels + len(false.missed) + len(false.false)
