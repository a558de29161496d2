"""Rank agreement between the order of variants by a proxy and by full training."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from nas.calibration.resolution import TAILS, Interval, drop_incomplete


@dataclass(frozen=True)
class Agreement:
    """Rank agreement of a proxy with full training, with 95 % bootstrap intervals.

    Attributes:
        n: Number of variants.
        spearman: Spearman's rank correlation, with mean ranks for ties.
        kendall: Kendall's tau-b.
        top3_recall: Share of the three best by full training among the three best by proxy; ties share a place.
        top_decile_kendall: Kendall's tau-b among the best tenth by full training, rounded up; None for fewer than 4
            variants.
        spearman_interval: Interval of `spearman`; None, as the others, if too few bootstrap draws have an order.
        kendall_interval: Interval of `kendall`.
        top3_recall_interval: Interval of `top3_recall`.
        top_decile_kendall_interval: Interval of `top_decile_kendall`.
    """

    n: int
    spearman: float
    kendall: float
    top3_recall: float
    top_decile_kendall: float | None
    spearman_interval: Interval | None = None
    kendall_interval: Interval | None = None
    top3_recall_interval: Interval | None = None
    top_decile_kendall_interval: Interval | None = None


@dataclass(frozen=True)
class PartialAgreement:
    """Rank agreement at equal cost, with 95 % bootstrap intervals.

    Attributes:
        spearman: Partial Spearman's rank correlation; NaN if the cost gives either order.
        kendall: Partial Kendall's tau-b; the same.
        spearman_interval: Interval of `spearman`; None if too few bootstrap draws have one.
        kendall_interval: Interval of `kendall`.
    """

    spearman: float
    kendall: float
    spearman_interval: Interval | None = None
    kendall_interval: Interval | None = None


def agreement(
    proxy: np.ndarray, full: np.ndarray, *, mean_of_seeds: bool = False, draws: int = 2000, seed: int = 0
) -> Agreement:
    """Measure the rank agreement of a proxy with the mean of full training over its seeds.

    By default it is that of one run: computed for each seed of the proxy, then averaged. A seed under which all
    variants have the same score counts as 0. The intervals come from resampling variants and the proxy's seeds with
    replacement; draws of fewer than 3 different variants are skipped.

    Args:
        proxy: Scores, (variants, seeds); more is better. Variants with NaN in either array are ignored.
        full: Scores of full training of the same variants, (variants, seeds of full training).
        mean_of_seeds: Use the mean of all the proxy's seeds as its score.
        draws: Number of bootstrap draws.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Fewer than 3 variants remain, or all have the same score in full training.
    """
    proxy, full = drop_incomplete(proxy, full)
    truth = full.mean(1)
    if np.ptp(truth) == 0:
        raise ValueError("full training gives every variant the same score: there is no order to agree with")
    rng = np.random.default_rng(seed)
    variants, seeds = proxy.shape
    pick = rng.integers(variants, size=(draws, 1, variants))
    x = proxy.T[rng.integers(seeds, size=(draws, seeds, 1)), pick]
    points = proxy.T
    if mean_of_seeds:
        x, points = x.mean(1, keepdims=True), points.mean(0, keepdims=True)
    return _agreement(points, np.broadcast_to(truth, points.shape), x, np.broadcast_to(truth[pick], x.shape), pick)


def ceiling(full: np.ndarray, *, draws: int = 2000, seed: int = 0) -> Agreement | None:
    """Measure the agreement of full training with itself: one seed against another, the mean over ordered pairs.

    The intervals come from resampling variants.

    Args:
        full: Scores of full training, (variants, seeds). Variants with NaN are ignored.
        draws: Number of bootstrap draws.
        seed: Seed of the bootstrap.

    Returns:
        None with one seed.

    Raises:
        ValueError: Fewer than 3 variants remain.
    """
    (full,) = drop_incomplete(full)
    variants, seeds = full.shape
    if seeds < 2:
        return None
    pick = np.random.default_rng(seed).integers(variants, size=(draws, 1, variants))
    one, other = np.nonzero(~np.eye(seeds, dtype=bool))
    x, y = full.T[one], full.T[other]
    pairs = np.arange(len(one))[:, None]
    return _agreement(x, y, x[pairs, pick], y[pairs, pick], pick)


def at_equal_cost(
    proxy: np.ndarray, full: np.ndarray, cost: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> PartialAgreement:
    """Measure the rank agreement of one run of a proxy with the mean of full training at equal cost.

    Where sizes vary, cost alone orders models almost as full training does, so only what is left says something of a
    proxy. It is the correlation of ranks without what ranks of the cost explain (Kendall, Partial Rank Correlation,
    Biometrika 32, 1942; the same formula serves Spearman's).

    It is computed for each seed of the proxy, then averaged, and its intervals come from resampling variants and
    seeds, as those of `agreement`.

    Args:
        proxy: Scores, (variants, seeds); variants with NaN in any array are ignored.
        full: Scores of full training, (variants, seeds of full training).
        cost: Cost of each variant.
        draws: Number of bootstrap draws.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Fewer than 3 variants remain.
    """
    proxy, full, costs = drop_incomplete(proxy, full, cost[:, None])
    truth, cost = full.mean(1), costs[:, 0]
    variants, seeds = proxy.shape
    rng = np.random.default_rng(seed)
    pick = rng.integers(variants, size=(draws, 1, variants))
    x = proxy.T[rng.integers(seeds, size=(draws, seeds, 1)), pick]
    values = _mean(_partial(proxy.T, truth[None], cost[None]))
    step = max(1, 500_000 // (seeds * variants**2))
    parts = (slice(i, i + step) for i in range(0, draws, step))
    drawn = np.concatenate([_mean(_partial(x[part], truth[pick[part]], cost[pick[part]])) for part in parts], axis=1)
    intervals: list[Interval | None] = []
    for kept in (column[np.isfinite(column)] for column in drawn):
        low_high = np.quantile(kept, TAILS) if 2 * len(kept) > draws else None
        intervals.append(None if low_high is None else (float(low_high[0]), float(low_high[1])))
    return PartialAgreement(float(values[0]), float(values[1]), *intervals)


def _partial(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return partial Spearman and Kendall of x (..., seeds, V) and y without z (..., 1, V), stacked first; or NaN."""
    xy, xz, yz = correlations(x, y), correlations(x, z), correlations(y, z)
    xz, yz = (np.where(np.ptp(z, -1) == 0, 0.0, a) for a in (xz, yz))  # equal costs explain nothing
    left = (1 - xz**2) * (1 - yz**2)
    return np.asarray(np.divide(xy - xz * yz, np.sqrt(left), out=np.full(xy.shape, np.nan), where=left > 1e-9))


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over seeds, the last axis, of those that are numbers; NaN if none is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of all NaN
        return np.asarray(np.nanmean(values, axis=-1))


def _agreement(x: np.ndarray, y: np.ndarray, xs: np.ndarray, ys: np.ndarray, pick: np.ndarray) -> Agreement:
    """Summarise pairs of orders x, y (pairs, variants), and their bootstrap draws xs, ys (draws, pairs, variants).

    Statistics are means over pairs. `pick` (draws, 1, variants) holds the drawn variants.
    """
    values = np.nan_to_num(_statistics(x, y)).mean(0)
    step = max(1, 500_000 // (xs.shape[1] * xs.shape[2] ** 2))
    drawn = np.concatenate([_statistics(xs[i : i + step], ys[i : i + step]) for i in range(0, len(xs), step)])
    ordered = np.sort(pick[:, 0], axis=1)
    enough = (np.diff(ordered, axis=1) > 0).sum(1) >= 2
    intervals: list[Interval | None] = []
    for column in drawn.transpose(2, 0, 1):
        kept = np.nan_to_num(column[enough & ~np.isnan(column).all(1)]).mean(1)
        low_high = np.quantile(kept, TAILS) if 2 * len(kept) > len(xs) else None
        intervals.append(None if low_high is None else (float(low_high[0]), float(low_high[1])))
    few = _decile(x.shape[1]) < 4
    return Agreement(
        n=x.shape[1],
        spearman=float(values[0]),
        kendall=float(values[1]),
        top3_recall=float(values[2]),
        top_decile_kendall=None if few else float(values[3]),
        spearman_interval=intervals[0],
        kendall_interval=intervals[1],
        top3_recall_interval=intervals[2],
        top_decile_kendall_interval=None if few else intervals[3],
    )


def _decile(variants: int) -> int:
    return -(-variants // 10)


def _statistics(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Spearman, Kendall, top-3 recall and top-decile Kendall of orders x and y (..., variants), stacked last.

    They are NaN if an order is constant.
    """
    sx, sy = _signs(x), _signs(y)
    spearman, kendall = _correlations(sx, sy)
    recall = np.minimum(_in_top3(sx), _in_top3(sy)).sum(-1) / 3
    best = np.argsort(-y, axis=-1, kind="stable")[..., : _decile(y.shape[-1])]
    top = _cosine(_signs(np.take_along_axis(x, best, -1)), _signs(np.take_along_axis(y, best, -1)), 2)
    return np.stack([spearman, kendall, recall, top], -1)


def correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Spearman and Kendall's tau-b of orders x and y (..., variants), stacked first; NaN if one is constant."""
    return np.stack(_correlations(_signs(x), _signs(y)))


def _correlations(sx: np.ndarray, sy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Spearman and Kendall's tau-b from the (..., V, V) signs of two orders."""
    # The row sums of the signs are twice the mean ranks, less a constant.
    return _cosine(sx.sum(-1), sy.sum(-1), 1), _cosine(sx, sy, 2)


def _signs(a: np.ndarray) -> np.ndarray:
    """Return the sign of every difference, (..., V, V): 1 if the value of the row is above that of the column."""
    return np.asarray(np.sign(a[..., :, None] - a[..., None, :]))


def _cosine(a: np.ndarray, b: np.ndarray, axes: int) -> np.ndarray:
    """Return the cosine of the angle between a and b over their last axes; NaN if one is all 0."""
    over = tuple(range(-axes, 0))
    norm = np.sqrt((a * a).sum(over) * (b * b).sum(over))
    return np.asarray(np.divide((a * b).sum(over), norm, out=np.full(norm.shape, np.nan), where=norm > 0))


def _in_top3(signs: np.ndarray) -> np.ndarray:
    """Return the probability of each variant to be in the top 3, with ties broken at random; from (..., V, V) signs."""
    above, tied = (signs < 0).sum(-1), (signs == 0).sum(-1)
    return np.asarray(np.clip((3 - above) / tied, 0, 1))
