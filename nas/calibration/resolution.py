"""Merit of a score: how well it distinguishes variants.

The figure of merit is the variance between variants over the variance of the error of one run, which gives the number
of runs that it takes to order two variants. The functions work on arrays of scores with one row per variant and one
column per seed. A failed run is NaN and excludes its variant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]
"""A 95 % interval."""

TAILS = (0.025, 0.975)
"""Probabilities below and above such an interval."""


@dataclass(frozen=True)
class Merit:
    """Merit of one score of one proxy, in the unit of the score.

    Attributes:
        variants: Number of variants.
        seeds: Number of runs of each.
        mean: Mean of all scores.
        error: Standard deviation of the error of one score, when variants are compared under the same seed.
        error_unpaired: The same without pairing: the pooled standard deviation of a variant over seeds.
        spread: Standard deviation between variants, without the contribution of the error.
        ratio: Figure of merit: variance between variants over that of the error; infinite without error.
        reliability: Fraction of the variance of one score that is between variants.
        error_interval: 95 % interval of `error`.
        ratio_interval: 95 % interval of `ratio`.
    """

    variants: int
    seeds: int
    mean: float
    error: float
    error_unpaired: float
    spread: float
    ratio: float
    reliability: float
    error_interval: Interval
    ratio_interval: Interval

    def resolution(self, seeds: float = 1, confidence: float = 0.9) -> float:
        """Return the smallest true difference of two variants whose sign is right with a given probability.

        Args:
            seeds: Runs of each variant, under the same seeds.
            confidence: The probability, above 0.5 and below 1.
        """
        return _z(confidence) * math.sqrt(2 * self.error**2 / seeds)

    def seeds_for(self, difference: float, confidence: float = 0.9) -> float:
        """Return the number of runs of each variant that resolves a difference: the inverse of `resolution`.

        It is not rounded; below 1, one run is better than needed.

        Raises:
            ValueError: The difference is not positive.
        """
        if difference <= 0:
            raise ValueError(f"a difference to resolve is above 0, not {difference}")
        return 2 * (_z(confidence) * self.error / difference) ** 2


def _z(confidence: float) -> float:
    if not 0.5 < confidence < 1:
        raise ValueError(f"a confidence is above 0.5 and below 1, not {confidence}")
    return NormalDist().inv_cdf(confidence)


def merit(y: np.ndarray) -> Merit:
    """Measure how well a score distinguishes variants.

    The model is the two-way layout without replication, ``y_vs = mu + a_v + b_s + e_vs`` (Scheffé, The Analysis of
    Variance, 1959, chapters 4 and 7). The seed's effect ``b_s`` is shared by all variants, so pairing by seed removes
    it. With mean squares ``MS_v`` and ``MS_e``, error² is ``MS_e`` and spread² is ``(MS_v - MS_e) / S``, at least 0.
    The interval of the ratio is the exact one from F, for normal effects; that of the error is from chi².

    Args:
        y: Scores, (variants, seeds), the baseline among them.

    Raises:
        ValueError: Fewer than 3 variants without NaN, or fewer than 2 seeds, are left.
    """
    from scipy import stats  # here, because it takes a second to import

    y = drop_incomplete(y)[0]
    variants, seeds = y.shape
    if seeds < 2:
        raise ValueError(f"an error needs at least 2 seeds of each variant, not {seeds}")
    rounding = (16 * np.finfo(float).eps * float(np.abs(y).max())) ** 2
    rows, columns = y.mean(1, keepdims=True), y.mean(0, keepdims=True)
    df_v, df_e = variants - 1, (variants - 1) * (seeds - 1)
    ms_v = _without(rounding, seeds * float(rows.var(ddof=1)))
    ms_e = _without(rounding, float(((y - rows - columns + y.mean()) ** 2).sum()) / df_e)
    within = _without(rounding, float(y.var(axis=1, ddof=1).mean()))
    spread2 = max(0.0, (ms_v - ms_e) / seeds)
    low, high = np.asarray(stats.f.ppf(TAILS, df_v, df_e)).tolist()
    chi_low, chi_high = np.asarray(stats.chi2.ppf(TAILS, df_e)).tolist()
    f = _over(ms_v, ms_e)
    return Merit(
        variants=variants,
        seeds=seeds,
        mean=float(y.mean()),
        error=math.sqrt(ms_e),
        error_unpaired=math.sqrt(within),
        spread=math.sqrt(spread2),
        ratio=_over(spread2, ms_e),
        reliability=spread2 / (spread2 + ms_e) if spread2 else 0.0,
        error_interval=(math.sqrt(df_e * ms_e / chi_high), math.sqrt(df_e * ms_e / chi_low)),
        ratio_interval=(max(0.0, (f / high - 1) / seeds), max(0.0, (f / low - 1) / seeds)),
    )


def attainable(full: np.ndarray) -> float | None:
    """Return the correlation with the mean of full training that a perfect proxy could reach.

    The mean of F seeds is itself in error, which weakens every correlation with it by ``sqrt(R)``, where
    ``R = spread² / (spread² + error² / F)`` is its reliability (Spearman, The Proof and Measurement of Association
    between Two Things, 1904). The error is the paired one: an effect that a seed has on all variants alike does not
    change their order. The formula is one of linear correlation, and close for that of ranks.

    Args:
        full: Scores of full training, (variants, seeds F).

    Returns:
        None with one seed.
    """
    if full.shape[1] < 2:
        return None
    m = merit(full)
    return math.sqrt(m.spread**2 / (m.spread**2 + m.error**2 / m.seeds)) if m.spread else 0.0


def in_map_units(score: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, float]:
    """Scale a score, such as a loss, to the unit of mAP, so that its differences can be compared with those of mAP.

    Args:
        score: Of one proxy, (variants, seeds).
        reference: mAP50-95 of the same variants, (variants, seeds of it). Variants with NaN in either are left out.

    Returns:
        The scaled scores and the factor: the ratio of the spreads of variants, or 1 where either of them is 0.
    """
    kept_score, kept_reference = drop_incomplete(score, reference)
    spread, aim = merit(kept_score).spread, merit(kept_reference).spread
    factor = aim / spread if spread and aim else 1.0
    return score * factor, factor


def drop_incomplete(*arrays: np.ndarray) -> list[np.ndarray]:
    """Return (variants, seeds) arrays as floats, without the variants that have NaN or infinity in any of them."""
    floats = [np.asarray(a, dtype=float) for a in arrays]
    if any(a.ndim != 2 or a.shape[1] == 0 or len(a) != len(floats[0]) for a in floats):
        raise ValueError(f"scores are (variants, seeds) of the same variants, not {[a.shape for a in floats]}")
    kept = ~np.any([(~np.isfinite(a)).any(1) for a in floats], axis=0)
    if kept.sum() < 3:
        raise ValueError(f"at least 3 variants without failed runs are needed, not {kept.sum()} (of {kept.size})")
    return [a[kept] for a in floats]


def _without(rounding: float, square: float) -> float:
    return square if square > rounding else 0.0


def _over(a: float, b: float) -> float:
    return a / b if b else math.inf if a else 0.0
