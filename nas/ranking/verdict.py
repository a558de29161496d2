"""Verdicts: significance tests of variants against the baseline.

The data are differences of scores under the same seed. Their standard deviation varies between variants by a factor of
ten (a module that starts as an exact copy hardly moves, another has its own distillation), so one pooled error would
call noisy variants different; and two or three seeds alone estimate it poorly. Hence the moderated t-statistic (Smyth,
Linear Models and Empirical Bayes Methods for Assessing Differential Expression, 2004, section 3): a variant's own
variance is averaged with that of the others, which counts as `PRIOR_DEGREES` degrees of freedom. The variant itself is
not among the others, so that nothing is counted twice.

Verdicts are corrected by Holm's step-down procedure (A Simple Sequentially Rejective Multiple Test Procedure, 1979)
over all compared variants, with further seeds or not: that corrects for the selection of those that had scored well.
Intervals are those of single variants, without correction.

This is arithmetic over arrays, without trials or trainings. SciPy is imported where there is an error to compare with:
it takes longer to import than a ranking with one seed a variant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.study.objective import Prior

LEVEL = 0.05
"""Family-wise error rate: the probability of any verdict if no variant differs from the baseline."""
PRIOR_DEGREES = 2.0
"""Degrees of freedom of the variance of the others; by the spread of variances of one proxy (docs/verdicts.md)."""
LEAST_SEEDS = 2
"""The fewest paired seeds that give a verdict."""


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline.

    Attributes:
        seeds: Number of paired seeds.
        delta: Mean difference; None without a common seed.
        error: Standard error of `delta`; None if it is unknown.
        degrees: Degrees of freedom of that.
        interval: 95 % interval of `delta`.
        p: Probability of such a difference without a true one, corrected for all that were compared; None with fewer
            than `LEAST_SEEDS` seeds.
        verdict: ``better``, ``worse`` or ``cannot tell``.
        shrunk: `delta` shrunk towards the mean of all, which removes selection bias; None if `shrink` does not apply.
    """

    seeds: int
    delta: float | None
    error: float | None = None
    degrees: float = 0.0
    interval: tuple[float, float] | None = None
    p: float | None = None
    verdict: str = "cannot tell"
    shrunk: float | None = None


def compare(differences: Sequence[Sequence[float]], prior: Prior | None = None) -> list[Comparison]:
    """Compare variants with the baseline.

    Args:
        differences: Of each variant, its score minus the baseline's under the same seed, one a seed.
        prior: The error that a calibration measured. It is ignored if these seeds clearly have a larger one (F-test).

    Returns:
        In the same order.
    """
    counts = np.array([len(d) for d in differences], dtype=float)
    means = np.array([sum(d) / len(d) if d else math.nan for d in differences])
    squares = np.array([_squares(d) for d in differences])
    errors, degrees = moderated(squares, np.maximum(counts - 1, 0), prior)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = errors / np.sqrt(counts)
    known = (degrees > 0) & (counts > 0)
    p, reach = np.full(len(counts), np.nan), np.zeros(len(counts))
    if known.any():
        from scipy import special

        p[known] = 2 * special.stdtr(degrees[known], -np.abs(means[known]) / errors[known])
        reach[known] = _t(degrees[known]) * errors[known]
    tested = known & (counts >= LEAST_SEEDS)
    corrected = holm(np.where(tested, p, 1.0)[counts > 0])
    at = np.cumsum(counts > 0) - 1
    shrunk = dict(zip(np.flatnonzero(known).tolist(), shrink(means[known], errors[known] ** 2), strict=False))
    found = []
    for i, (n, mean) in enumerate(zip(counts, means, strict=True)):
        if not n:
            found.append(Comparison(0, None))
            continue
        one = Comparison(int(n), float(mean), shrunk=shrunk.get(i))
        if known[i]:
            interval = (float(mean - reach[i]), float(mean + reach[i]))
            one = replace(one, error=float(errors[i]), degrees=float(degrees[i]), interval=interval)
        if tested[i]:
            chance = float(corrected[at[i]])
            verdict = "cannot tell" if chance >= LEVEL else "better" if mean > 0 else "worse"
            one = replace(one, p=chance, verdict=verdict)
        found.append(one)
    return found


def chance_below(comparison: Comparison) -> float:
    """Return the one-sided p-value that the difference is below zero; 1 if the error is unknown."""
    if comparison.delta is None or comparison.error is None:
        return 1.0
    from scipy import special

    return float(special.stdtr(comparison.degrees, comparison.delta / comparison.error))


def moderated(squares: np.ndarray, degrees: np.ndarray, prior: Prior | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard deviation of one difference of each variant, and its degrees of freedom.

    Args:
        squares: Sum of squared deviations from each variant's own mean.
        degrees: Degrees of freedom of those: seeds less one.
        prior: As in `compare`.

    Returns:
        Standard deviations, NaN with 0 degrees of freedom: seeds that change nothing at all give no error.
    """
    every, of_every = float(squares.sum()), float(degrees.sum())
    if prior and of_every:
        from scipy import special

        if every / of_every > prior.sd**2 * special.fdtri(of_every, prior.degrees, 1 - LEVEL):
            prior = None
    known, of_known = (prior.sd**2 * prior.degrees, prior.degrees) if prior else (0.0, 0.0)
    others = np.maximum(every - squares, 0.0) + known
    of_others = of_every - degrees + of_known
    weight = np.minimum(PRIOR_DEGREES, of_others / 2)  # a variance of few degrees of freedom cannot count for more
    with np.errstate(divide="ignore", invalid="ignore"):
        shared = np.where(of_others > 0, others / of_others, 0.0)
        variance = (weight * shared + squares) / (weight + degrees)
    known = (weight + degrees > 0) & (variance > 0)
    return np.where(known, np.sqrt(np.where(known, variance, 1.0)), np.nan), np.where(known, weight + degrees, 0.0)


def holm(p: np.ndarray) -> np.ndarray:
    """Return probabilities corrected by Holm's procedure: the smallest times their number, the next times one less."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def shrink(effects: np.ndarray, variances: np.ndarray) -> list[float]:
    """Return effects shrunk towards their mean, by as much as their errors have spread them.

    Effects are modelled as normal around a common mean, each measured with its own error. The variance between them is
    DerSimonian and Laird's moment estimate (Meta-Analysis in Clinical Trials, 1986); the posterior means are those of
    Efron and Morris (Data Analysis Using Stein's Estimator, 1975), which need no correction for selection. Errors are
    assumed to be independent; the baseline's share in them is common to all, so that this shrinks a little too much.

    Returns:
        Nothing for fewer than 3 effects: the variance between two cannot be separated from their errors.
    """
    if len(effects) < 3:
        return []
    weights = 1 / variances
    mean = weights @ effects / weights.sum()
    heterogeneity = weights @ (effects - mean) ** 2 - (len(effects) - 1)
    between = max(0.0, heterogeneity / (weights.sum() - (weights**2).sum() / weights.sum()))
    weights = 1 / (variances + between)
    mean = weights @ effects / weights.sum()
    kept = between / (between + variances)
    return [float(x) for x in mean + kept * (effects - mean)]


def interval_of_mean(scores: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over seeds, from these alone (Student's t); None for fewer than two."""
    n = len(scores)
    if n < 2:
        return None
    mean, reach = sum(scores) / n, float(_t(np.array(n - 1.0))) * math.sqrt(_squares(scores) / (n - 1) / n)
    return (mean - reach, mean + reach)


def _t(degrees: np.ndarray) -> np.ndarray:
    """Return the half-width of a 95 % interval in standard errors."""
    from scipy import special

    return np.asarray(special.stdtrit(np.maximum(degrees, 1e-9), 0.975))


def _squares(values: Sequence[float]) -> float:
    """Return the sum of squared deviations from the mean; 0 if they are rounding errors."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    total = sum((v - mean) ** 2 for v in values)
    rounding = (16 * np.finfo(float).eps * max(1.0, *(abs(v) for v in values))) ** 2
    return total if total > rounding else 0.0
