"""AP by size of object, on cases with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nas.data.sizes import Seen, map_by_size, map_in_range


def seen(labels, predictions):
    return Seen(np.array(labels, float).reshape(-1, 5), np.array(predictions, float).reshape(-1, 6))


SMALL, MEDIUM, LARGE = (0, 0, 0, 20, 20), (0, 100, 100, 150, 150), (0, 200, 200, 400, 400)


def found(label, confidence=0.9):
    return (label[0], confidence, *label[1:])


def test_each_size_has_its_own_objects():
    image = seen([SMALL, MEDIUM], [found(SMALL)])
    assert map_by_size([image]) == {"small": pytest.approx(1.0), "medium": 0.0, "large": None}


def test_objects_of_other_sizes_count_for_nothing():
    # A confident hit on a large object, and a large box on nothing, are no errors among small objects.
    image = seen([SMALL, LARGE], [found(LARGE, 0.99), (0, 0.98, 500, 500, 800, 800), found(SMALL, 0.5)])
    by_size = map_by_size([image])
    assert by_size["small"] == pytest.approx(1.0)
    # Among large ones the box on nothing is one, below the hit.
    assert by_size["large"] == pytest.approx(1.0)
    image = seen([LARGE], [(0, 0.99, 500, 500, 800, 800), found(LARGE, 0.5)])
    assert map_by_size([image])["large"] == pytest.approx(0.5)


def test_a_label_is_found_once():
    image = seen([SMALL, (0, 40, 40, 60, 60)], [found(SMALL, 0.9), found(SMALL, 0.8), (0, 0.7, 40, 40, 60, 60)])
    # Precision 1 up to half of the recall, then 2/3: 51 of 101 recalls are at most 0.5.
    assert map_in_range([image], 0, math.inf) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_overlap_decides_by_threshold_and_class():
    image = seen([(0, 0, 0, 10, 10)], [(0, 0.9, 0, 0, 10, 7.2)])  # IoU 0.72: a hit at 5 of 10 thresholds
    assert map_in_range([image], 0, math.inf) == pytest.approx(0.5)
    assert map_in_range([seen([SMALL], [(1, 0.9, *SMALL[1:])])], 0, math.inf) == 0.0


def test_classes_are_averaged_and_empty_images_allowed():
    images = [seen([SMALL], [found(SMALL)]), seen([(1, 0, 0, 20, 20)], []), seen([], [])]
    assert map_in_range(images, 0, math.inf) == pytest.approx(0.5)
    assert map_in_range([seen([], [])], 0, math.inf) is None
