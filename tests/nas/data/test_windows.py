"""Windows: what they hold, what is labelled in them, what is painted over, and which are fixed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nas.data.windows import PAINT, PER_IMAGE, draw_box, draw_window, fixed_windows, move_points, paint_ignored, see

SHAPE = (200, 300)


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


@pytest.mark.parametrize(
    "box", [(0, 0, 40, 30), (250.5, 150.25, 300, 200), (100, 80, 163.5, 143.5), (10, 150, 12, 152)]
)
def test_a_window_holds_the_whole_box_that_fits(box):
    draw, places = random.Random(0), set()
    for _ in range(200):
        x, y, side = draw_window(np.array(box), SHAPE, 64, draw.randint)
        assert x <= box[0]
        assert y <= box[1]
        assert box[2] <= x + side <= SHAPE[1]
        assert box[3] <= y + side <= SHAPE[0]
        places.add((x, y))
    assert len(places) > 100 or box[0] != 10


def test_a_window_lies_within_a_larger_box():
    draw = random.Random(0)
    for _ in range(100):
        x, y, side = draw_window(np.array((50, 20, 250, 180)), SHAPE, 64, draw.randint)
        assert x >= 50
        assert x + side <= 250
        assert y >= 20
        assert y + side <= 180


def test_without_a_box_a_window_is_anywhere():
    draw = random.Random(0)
    assert draw_box(boxes(), draw.randint) is None
    drawn = [draw_window(None, SHAPE, 64, draw.randint) for _ in range(2000)]
    assert (min(p[0] for p in drawn), max(p[0] for p in drawn)) == (0, SHAPE[1] - 64)
    assert (min(p[1] for p in drawn), max(p[1] for p in drawn)) == (0, SHAPE[0] - 64)


def test_a_window_spans_a_shorter_side():
    draw = random.Random(0)
    assert draw_window(np.array((5, 5, 20, 20)), (40, 300), 64, draw.randint)[1] == 0
    assert draw_window(None, (40, 50), 64, draw.randint) == (0, 0, 64)


def test_a_box_is_kept_clipped_or_ignored_by_what_is_seen_of_it():
    given = boxes((10, 10, 30, 30), (44, 0, 84, 20), (56, 40, 96, 60), (200, 100, 220, 120))
    clipped, labelled = see(given, (0, 0, 80), SHAPE)
    assert labelled.tolist() == [True, True, False, False]  # whole, 0.9, 0.6 and nothing
    assert clipped[:3].tolist() == [[10, 10, 30, 30], [44, 0, 80, 20], [56, 40, 80, 60]]
    shifted, labelled = see(given, (50, 0, 80), SHAPE)
    assert labelled.tolist() == [False, True, True, False]
    assert shifted[2].tolist() == [6, 40, 46, 60]


def test_a_window_ends_where_the_image_ends():
    clipped, labelled = see(boxes((0, 0, 50, 40)), (0, 0, 64), (40, 50))
    assert clipped.tolist() == [[0, 0, 50, 40]]
    assert labelled.all()


def test_ignored_objects_are_painted_and_labelled_ones_are_not():
    window = np.zeros((20, 20, 3), dtype=np.uint8)
    clipped = boxes((0, 0, 10, 10), (5.5, 5.5, 12, 12))
    paint_ignored(window, clipped, np.array([True, False]))
    assert (window[:10, :10] == 0).all()  # also where both overlap
    assert (window[10:12, 5:12] == PAINT).all()
    assert int((window == PAINT).sum()) == 3 * (7 * 7 - 5 * 5)
    whole = np.zeros((20, 20, 3), dtype=np.uint8)
    paint_ignored(whole, clipped, np.array([True, True]))
    assert not whole.any()


def test_fixed_windows_hold_objects_and_are_the_same_each_time():
    given = boxes(*((x, y, x + 10, y + 10) for x in range(5, 280, 40) for y in range(5, 180, 40)))
    places = fixed_windows(given, SHAPE, 64, 3)
    assert len(places) == PER_IMAGE
    assert places == fixed_windows(given, SHAPE, 64, 3)
    assert any(fixed_windows(given, SHAPE, 64, k) != places for k in range(10))
    assert all(see(given, place, SHAPE)[1].any() for place in places)
    assert all(x + side <= SHAPE[1] and y + side <= SHAPE[0] for x, y, side in places)


def test_an_image_without_objects_has_one_window_of_background():
    assert len(fixed_windows(boxes(), SHAPE, 64, 0)) == 1
    assert fixed_windows(boxes(), (40, 50), 64, 0) == [(0, 0, 64)]


def test_the_grid_covers_the_image():
    covered = np.zeros(SHAPE, dtype=bool)
    for x in range(0, 300, 10):
        for y in range(0, 200, 10):
            for a, b, side in fixed_windows(boxes((x, y, x + 1, y + 1)), SHAPE, 64, 0):
                covered[b : b + side, a : a + side] = True
    assert covered.all()


def test_points_are_shares_of_the_window_and_those_outside_on_its_border():
    points = np.array([[[0.25, 0.5], [0.0, 0.0], [0.5, 1.0]]], dtype=np.float32)
    moved, inside = move_points(points, (50, 80, 100), SHAPE)
    assert moved.tolist() == [[[0.25, pytest.approx(0.2)], [0, 0], [1, 1]]]
    assert inside.tolist() == [[True, False, False]]
    at_the_end, inside = move_points(points[:, :1], (50, 80, 300), SHAPE)  # 250 x 120 pixels are left of the image
    assert at_the_end.tolist() == [[[pytest.approx(0.1), pytest.approx(1 / 6)]]]
    assert inside.all()
