"""The polygon of a mask is the mask again, by an even-odd fill of its own."""

from __future__ import annotations

import numpy as np
import pytest

from nas.data.demo_labels import outline


def filled(points: list[tuple[int, int]], shape: tuple[int, int]) -> np.ndarray:
    """Return which centres of pixels a polygon encloses: an odd number of borders is on their right."""
    ys, xs = np.mgrid[: shape[0], : shape[1]] + 0.5
    odd = np.zeros(shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if y0 != y1:
            crossed = (ys > min(y0, y1)) & (ys < max(y0, y1))
            odd ^= crossed & (x0 + (ys - y0) / (y1 - y0) * (x1 - x0) > xs)
    return odd


@pytest.mark.parametrize("seed", range(20))
def test_any_mask_comes_back(seed):
    """With holes, several parts, and pixels that touch at their corners only."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 14), rng.integers(1, 14))) < rng.random()
    points = outline(mask)
    assert (filled(points, mask.shape) == mask).all()
    assert bool(points) == bool(mask.any())


def test_a_square_has_four_corners():
    mask = np.zeros((5, 6), dtype=bool)
    mask[1:4, 2:5] = True
    assert sorted(outline(mask)) == [(2, 1), (2, 4), (5, 1), (5, 4)]


def test_a_hole_is_left_out():
    mask = np.ones((4, 4), dtype=bool)
    mask[1:3, 1:3] = False
    points = outline(mask)
    assert (filled(points, (4, 4)) == mask).all()
    assert len(points) == 10  # four corners each, and the line that joins them ends twice at both
