"""Rank agreement with both kinds of full training, that of the GFLOPs alone, and what is left of it at equal GFLOPs.

Larger models are often better, so a proxy may agree with full training only because both follow the cost, which is
known without any training. The partial rank correlation leaves out what the cost explains of both orders (Kendall,
Partial Rank Correlation, Biometrika 32, 1942); the same formula serves Spearman's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from nas.calibration.rank_agreement import Agreement, agreement, correlations
from nas.calibration.resolution import TAILS, Interval, drop_incomplete
from nas.errors import NasError
from nas.space.variant import Variant

COST = "GFLOPs alone"
"""Name of the order by cost: more GFLOPs are better."""


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


@dataclass(frozen=True)
class CostRow:
    """How far one order of the variants agrees with one kind of full training.

    Attributes:
        order: Name of the order: a proxy, another kind of full training, or `COST`.
        score: Its score; empty for `COST`.
        full: Name of the kind of full training.
        agreement: That of one run of it.
        partial: The same at equal GFLOPs; None for `COST`.
    """

    order: str
    score: str
    full: str
    agreement: Agreement
    partial: PartialAgreement | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; NaN is None."""
        body = asdict(self)
        if self.partial:
            body["partial"] = {k: None if v != v else v for k, v in asdict(self.partial).items()}
        return body


@cache
def gflops_of(variant: Variant) -> float:
    """Return the GFLOPs of a variant; NaN if it cannot be built."""
    from nas.model.cost import gflops_and_params  # it imports torch, which reports do not need

    try:
        return gflops_and_params(variant)[0]
    except NasError:
        return float("nan")


def cost_rows(
    orders: Mapping[tuple[str, str], np.ndarray], full: Mapping[str, np.ndarray], gflops: np.ndarray
) -> tuple[CostRow, ...]:
    """Return the agreement of the cost and of each order with each kind of full training.

    Args:
        orders: Name and score of an order to its values, (variants, seeds).
        full: Name of a kind of full training to its values, (variants, seeds); an order of that name is left out.
        gflops: Of the variants.

    Raises:
        ValueError: Fewer than 3 variants have all runs.
    """
    rows = []
    for name, judged in full.items():
        rows.append(CostRow(COST, "", name, agreement(gflops[:, None], judged), None))
        for (order, score), values in orders.items():
            if order != name:
                partial = at_equal_cost(values, judged, gflops)
                rows.append(CostRow(order, score, name, agreement(values, judged), partial))
    return tuple(rows)


def at_equal_cost(
    proxy: np.ndarray, full: np.ndarray, cost: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> PartialAgreement:
    """Measure the partial rank agreement of one run of a proxy with the mean of full training.

    It is computed for each seed of the proxy, then averaged, and its intervals come from resampling variants and
    seeds, as those of `nas.calibration.rank_agreement.agreement`.

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
    left = (1 - xz**2) * (1 - yz**2)
    return np.asarray(np.divide(xy - xz * yz, np.sqrt(left), out=np.full(xy.shape, np.nan), where=left > 1e-9))


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over seeds, the last axis, of those that are numbers; NaN if none is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of all NaN
        return np.asarray(np.nanmean(values, axis=-1))
