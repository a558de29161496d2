"""Found, missed and false boxes, and the difference of two models on an image."""

from __future__ import annotations

import numpy as np

from nas.pictures.match import Matched, difference, match

LABELS = np.array([[0, 0, 0, 10, 10], [0, 20, 0, 30, 10], [1, 40, 0, 50, 10]], dtype=float)


def rows(*boxes) -> np.ndarray:
    return np.array(boxes, dtype=float).reshape(-1, 6)


def test_each_label_is_found_once_by_the_most_confident():
    found = match(LABELS, rows((0, 0.5, 0, 0, 10, 10), (0, 0.9, 1, 0, 11, 10), (1, 0.7, 40, 0, 50, 10)))
    assert found == Matched({0: 1, 2: 2}, missed=(1,), false=(0,))
    assert found.counts == (2, 1, 1)


def test_another_class_or_half_an_overlap_finds_nothing():
    # IoU of the second: 40 of 160.
    found = match(LABELS, rows((1, 0.9, 0, 0, 10, 10), (0, 0.9, 26, 0, 36, 10)))
    assert found == Matched({}, missed=(0, 1, 2), false=(0, 1))


def test_a_detection_takes_the_label_that_it_overlaps_most():
    labels = np.array([[0, 0, 0, 10, 10], [0, 3, 0, 13, 10]], dtype=float)
    assert match(labels, rows((0, 0.9, 3, 0, 13, 10), (0, 0.8, 0, 0, 10, 10))).hits == {0: 1, 1: 0}


def test_without_labels_or_detections():
    none = np.zeros((0, 5))
    assert match(none, rows((0, 0.9, 0, 0, 1, 1))).counts == (0, 0, 1)
    assert match(LABELS, rows()).counts == (0, 3, 0)
    assert match(none, rows()).counts == (0, 0, 0)


def test_the_difference_is_what_one_model_alone_finds_or_gets_wrong():
    first = rows((0, 0.9, 0, 0, 10, 10), (0, 0.9, 60, 60, 70, 70), (1, 0.6, 80, 80, 90, 90))
    second = rows((0, 0.5, 20, 0, 30, 10), (0, 0.8, 61, 60, 71, 70))
    one, other = match(LABELS, first), match(LABELS, second)
    assert (one.counts, other.counts) == ((1, 2, 2), (1, 2, 1))
    # Labels 0 and 1, and the false box of class 1; both have the false box at 60.
    assert difference(one, first, other, second) == 3
    assert difference(other, second, one, first) == 3
    assert difference(one, first, one, first) == 0
