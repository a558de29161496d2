"""Predict the mAP of a combination from the output scores of its swaps and from what has been trained.

The difference to the baseline is a weighted sum of the parts of the output score (the linear fit of Moons et al.,
"Distilling Optimal Neural Networks: Rapid Search in Diverse Spaces", DONNA, arXiv:2012.08859), plus an effect of each
swap, plus an interaction of each pair, plus an error that grows with the score. All have Gaussian priors: weights
around a typical loss of mAP per nat, effects and interactions around zero. So it predicts before anything has been
trained, and each training makes it more certain. Variances are averaged over a grid, weighted by the marginal
likelihood (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, chapter 2 and section 5.4). The mean is
linear in swaps and pairs, which the solver needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from nas.ranking.additive import Estimate
from nas.solver.facts import Swap, SwapFacts, all_swaps
from nas.space.search_space import Assignment, SearchSpace
from nas.study.objective import Array

_WEIGHTS = (0.003, 0.01, 0.03)
"""mAP50-95 that a nat of the score costs, and the standard deviation of that: 0.01 to 0.02 on two datasets for scores
around 1, less for larger ones."""
_PER_PART = 0.5
"""Standard deviation of the weight of one part around the common weight, over that of the common weight."""
_EFFECTS = (0.0003, 0.001, 0.003, 0.01)
"""Standard deviation of the effect of a swap, in mAP50-95."""
_PAIRS = (0.0, 0.25, 0.5, 1.0)
"""Standard deviation of an interaction over that of an effect."""
_ERRORS = (0.001, 0.002, 0.004, 0.008)
"""Standard deviation of a measured mAP50-95 where no calibration has measured it."""
_BEYOND = 0.3
"""Standard deviation of the error of a prediction over the predicted loss: losses do not add up for ever."""
_MOST = 300
"""Trainings that it is fitted to: the baseline's, and the latest others."""
_FOR_GRID = 120
"""Trainings that the variances are judged by."""
_LEAST_SHARE = 0.01
"""Weight below which a point of the grid is left out."""
_MOST_PAIRS = 60
"""Interactions, the largest, that a solver is given."""
_FLAT = 1.0
"""Prior standard deviation of the baseline's mAP50-95."""


_Training: TypeAlias = "tuple[Assignment, float, int]"
"""An assignment, its mAP50-95, and the number of seeds that this is the mean of."""


@dataclass(frozen=True)
class _Point:
    """A point of the grid: standard deviations, and the share that it has of the prediction."""

    weight: float
    effect: float
    pair: float
    error: float
    share: float = 0.0


class Prediction:
    """The posterior of the difference in mAP50-95 to the baseline, for any combination of swaps."""

    def __init__(
        self,
        space: SearchSpace,
        facts: SwapFacts,
        trained: Sequence[tuple[Assignment, float]],
        error: float | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Fit.

        Args:
            space: Whose active slots the assignments are of.
            facts: About its swaps; those without a score have an effect only.
            trained: Assignments and their mAP50-95, the baseline's among them, in the order of their trainings.
            error: Standard deviation of one mAP50-95, where a calibration measured it.
            seeds: Number of seeds that each mAP50-95 is the mean of, for its error is smaller; None is one.
        """
        self._swaps = all_swaps(space)
        self._column = {swap: i for i, swap in enumerate(self._swaps)}
        width = facts.width
        self._parts: Array = np.zeros((len(self._swaps), width))
        for swap, parts in facts.parts.items():
            if swap in self._column:
                self._parts[self._column[swap]] = parts
        every = [(a, value, n) for (a, value), n in zip(trained, seeds or itertools.repeat(1), strict=False)]
        latest = [*_baselines(every[:-_MOST], self._column), *every[-_MOST:]]
        self.trained = {swap for a, *_ in latest for swap in a.items() if swap in self._column}
        """Swaps of which a variant has been trained."""
        self._rows = self._encode([a for a, *_ in latest])
        self._maps: Array = np.array([value for _, value, _ in latest], dtype=float)
        self._seeds: Array = np.array([n for *_, n in latest], dtype=float)
        self._fit(error)

    def _encode(self, assignments: Sequence[Assignment]) -> Array:
        rows = np.zeros((len(assignments), len(self._swaps)))
        for row, assignment in zip(rows, assignments, strict=True):
            row[[self._column[pair] for pair in assignment.items() if pair in self._column]] = 1.0
        return rows

    def _fit(self, error: float | None) -> None:
        """Weigh the grid, and factorise the covariance at each point that counts."""
        grid = [
            _Point(weight, effect, pair * effect, noise)
            for weight, effect, pair, noise in itertools.product(
                _WEIGHTS, _EFFECTS, _PAIRS, _ERRORS if error is None else (max(error, 1e-6),)
            )
        ]
        if not len(self._maps):
            self._points = [_Point(p.weight, p.effect, p.pair, p.error, 1 / len(grid)) for p in grid]
            self._solved: list[tuple[Array, Array]] = [(np.zeros((0, 0)), np.zeros(0))] * len(grid)
            return
        some = np.unique(np.linspace(0, len(self._maps) - 1, min(len(self._maps), _FOR_GRID)).astype(int))
        evidence = np.array([self._solve(p, some)[2] for p in grid])
        shares = np.exp(evidence - evidence.max())
        shares /= shares.sum()
        kept = shares >= _LEAST_SHARE * shares.max()
        total = float(shares[kept].sum())
        self._points, self._solved = [], []
        for p, share, keep in zip(grid, shares, kept, strict=True):
            if keep:
                root, weights, _ = self._solve(p, np.arange(len(self._maps)))
                self._points.append(_Point(p.weight, p.effect, p.pair, p.error, float(share) / total))
                self._solved.append((root, weights))

    def _solve(self, p: _Point, chosen: np.typing.NDArray[np.int64]) -> tuple[Array, Array, float]:
        """Return the root of the covariance of trainings, the weights of their residuals, and the log evidence."""
        rows = self._rows[chosen]
        covariance = self._covariance(p, rows, rows) + _FLAT**2
        covariance[np.diag_indices(len(rows))] += (
            p.error**2 / self._seeds[chosen] + (_BEYOND * p.weight * self._totals(rows)) ** 2
        )
        residuals = self._maps[chosen] - float(self._maps[chosen].mean()) - self._prior(p, rows)
        root = cholesky(covariance, lower=True, check_finite=False)
        weights: Array = cho_solve((root, True), residuals, check_finite=False)
        evidence = -0.5 * float(residuals @ weights) - float(np.log(np.diag(root)).sum())
        return root, weights, evidence

    def _totals(self, rows: Array) -> Array:
        totals: Array = rows @ self._parts.sum(1)
        return totals

    def _prior(self, p: _Point, rows: Array) -> Array:
        return -p.weight * self._totals(rows)

    def _covariance(self, p: _Point, a: Array, b: Array) -> Array:
        """Return the prior covariance of differences to the baseline, (len(a), len(b))."""
        parts = (a @ self._parts) @ (b @ self._parts).T
        common = np.outer(self._totals(a), self._totals(b))
        shared = a @ b.T
        found: Array = p.weight**2 * (common + _PER_PART**2 * parts) + p.effect**2 * shared
        found += p.pair**2 * shared * (shared - 1) / 2
        return found

    def of(self, assignments: Sequence[Assignment]) -> list[Estimate]:
        """Return the predicted differences to the baseline, with standard deviations of the true difference."""
        rows = self._encode(assignments)
        means, variances = [], []
        for p, (root, weights) in zip(self._points, self._solved, strict=True):
            across = self._covariance(p, rows, self._rows)
            own = np.array([float(self._covariance(p, row[None], row[None])[0, 0]) for row in rows])
            own += (_BEYOND * p.weight * self._totals(rows)) ** 2
            means.append(self._prior(p, rows) + (across @ weights if len(weights) else 0.0))
            explained = solve_triangular(root, across.T, lower=True, check_finite=False) if len(weights) else across.T
            variances.append(np.maximum(own - (explained**2).sum(0), 1e-12))
        shares = np.array([p.share for p in self._points])
        every = np.array(means)
        mean = shares @ every
        variance = shares @ (np.array(variances) + (every - mean) ** 2)
        return [Estimate(float(m), float(v) ** 0.5) for m, v in zip(mean, variance, strict=True)]

    def values(self) -> dict[Swap, float]:
        """Return what each swap adds to the predicted mean."""
        found = np.zeros(len(self._swaps))
        totals = self._parts.sum(1)
        for p, (_, weights) in zip(self._points, self._solved, strict=True):
            at = -p.weight * totals
            if len(weights):
                common = totals * float(weights @ self._totals(self._rows))
                parts = self._parts @ ((self._rows @ self._parts).T @ weights)
                at = at + p.weight**2 * (common + _PER_PART**2 * parts) + p.effect**2 * (self._rows.T @ weights)
            found += p.share * at
        return dict(zip(self._swaps, found.tolist(), strict=True))

    def pairs(self) -> dict[tuple[Swap, Swap], float]:
        """Return the largest interactions, what two swaps add to the predicted mean beyond the sum of both."""
        found = np.zeros((len(self._swaps),) * 2)
        for p, (_, weights) in zip(self._points, self._solved, strict=True):
            if len(weights) and p.pair:
                found += p.share * p.pair**2 * (self._rows.T * weights) @ self._rows
        upper = np.triu(found, 1)
        order = np.argsort(-np.abs(upper), axis=None, kind="stable")[:_MOST_PAIRS]
        places = [divmod(int(i), len(self._swaps)) for i in order]
        return {(self._swaps[a], self._swaps[b]): float(upper[a, b]) for a, b in places if abs(upper[a, b]) > 1e-6}


def _baselines(trained: Sequence[_Training], swaps: Container[Swap]) -> list[_Training]:
    """Return the trainings of the baseline: without one, differences to it would be extrapolated."""
    return [one for one in trained if not any(pair in swaps for pair in one[0].items())]
