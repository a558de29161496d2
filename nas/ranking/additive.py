"""The additive model: a score is the baseline's, plus an effect of each swap, plus interactions of pairs, plus noise.

Effects have a Gaussian prior with mean zero, so that few and noisy scores move an estimate little. The baseline has
a flat prior: its own score is an observation like any other, whose error does not enter all predictions.

Interactions only widen the prediction of a combination, unless learning those of pairs that were observed at least
twice lowers the cross-validated error on combinations. The variances of noise, effects and interactions are averaged
over a grid, weighted by the marginal likelihood (with the baseline integrated out, as in REML). The posterior, the
leave-one-out predictions and the weights without one observation have closed forms (Rasmussen & Williams, Gaussian
Processes for Machine Learning, 2006, sections 2.7 and 5.4.2).

Up to `LARGE` different assignments these are computed over assignments, whose number enters to the third power; beyond
that over swaps (`nas.ranking.posterior`), and only the `MOST_PAIRS` pairs that occur most often are learnt. The
others widen predictions, as pairs that were observed once do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nas.ranking.grouped_scores import GroupedScores, Indices, Observation, Pairs, SwapKey
from nas.ranking.posterior import Basis, RotatedBasis, basis_over_swaps
from nas.space.search_space import Assignment, Slot
from nas.study.objective import Array

_RATIOS = (0.0, 1 / 64, 1 / 16, 1 / 4)
"""Grid of the variance of an interaction over that of an effect."""
_MAX_ERROR_RATIO = 0.9
"""Squared error on combinations with interactions, over that without, below which interactions are learnt."""
_NEGLIGIBLE = 35.0
"""Difference of log weights beyond which a point of the grid does not count: its share is below 1e-15."""
_AT_ONCE = 48
"""Number of points of the grid that are looked at together."""


@dataclass(frozen=True)
class Estimate:
    """A posterior mean and its standard deviation."""

    mean: float
    sd: float


class AdditiveModel:
    """A fitted model; `fit` makes one.

    Attributes:
        data: The observations.
    """

    def __init__(self, data: GroupedScores, learnt: Pairs, ratios: Sequence[float] = _RATIOS) -> None:
        self.data, self._learnt = data, learnt
        self._bases: list[Basis] = [
            basis_over_swaps(data, learnt, ratio) if data.large else RotatedBasis(data, learnt, ratio)
            for ratio in ratios
        ]
        self._evidence = np.hstack([basis.evidence for basis in self._bases])
        weights = np.exp(self._evidence - self._evidence.max())
        weights /= weights.sum()
        covariance = np.zeros(())
        for basis, part in zip(self._bases, weights.reshape(len(self._bases), -1), strict=True):
            covariance = covariance + basis.covariance(part)
        every = np.hstack([basis.means() for basis in self._bases])
        self._mean: Array = every @ weights
        apart = every - self._mean[:, None]
        self._covariance: Array = covariance + apart * weights @ apart.T

    @cached_property
    def leave_one_out(self) -> tuple[Array, Array]:
        """For each of `data.assignments` the score that all others predict, and the sd of a measured one around it."""
        return self.predict_left_out(np.arange(len(self.data.scores)))

    def predict_left_out(self, rows: Indices) -> tuple[Array, Array]:
        """Return `leave_one_out` of some of the assignments, by their indices.

        Points of the grid are taken in the order of their evidence, until those that follow have no weight for any row.
        """
        order, at_once = np.argsort(-self._evidence), len(self._evidence)
        if self.data.large:
            at_once = _AT_ONCE
        found: list[tuple[Array, Array, Array]] = []
        highest = np.full(len(rows), -np.inf)
        for start in range(0, len(order), at_once):
            points = np.sort(order[start : start + at_once])
            misses, precision = self._left_out(rows, points)
            without = self._evidence[points] + 0.5 * (misses**2 * precision - np.log(precision))
            found.append((misses, precision, without))
            highest = np.maximum(highest, without.max(1))
            if (without.max(1) < highest - _NEGLIGIBLE).all():
                break
        misses, precision, without = (np.hstack(parts) for parts in zip(*found, strict=True))
        without = np.exp(without - highest[:, None])
        without /= without.sum(1, keepdims=True)
        miss = (without * misses).sum(1)
        sd = np.sqrt((without * (1 / precision + (misses - miss[:, None]) ** 2)).sum(1))
        return self.data.scores[rows] - miss / self.data.root[rows], sd / self.data.root[rows]

    def _left_out(self, rows: Indices, points: Indices) -> tuple[Array, Array]:
        """Return `Basis.left_out` at points of all grids, one after the other."""
        size = len(self.data.noise)
        found = [b.left_out(rows, points[points // size == k] % size) for k, b in enumerate(self._bases)]
        return np.hstack([misses for misses, _ in found]), np.hstack([precision for _, precision in found])

    @classmethod
    def fit(
        cls,
        observations: Sequence[Observation],
        slots: Sequence[Slot],
        error: float | None = None,
        interactions: bool | None = None,
    ) -> AdditiveModel:
        """Fit the model to at least one observation, which should be the baseline's.

        Args:
            observations: Measured scores.
            slots: The first choice of each keeps the layer, and every other one has an effect.
            error: Standard deviation of one score, where a calibration measured it; None estimates it.
            interactions: Whether to learn them; None does if that lowers the cross-validated error.

        Raises:
            SpaceError: An observation has a choice that the slots do not have, or there is none.
        """
        data = GroupedScores(observations, slots, error)
        if interactions is not None:
            return cls(data, data.pairs[: None if interactions else 0])
        plain, paired, helps = fit_both(data)
        return paired if helps[-1] else plain

    def contrast(self, weights: Mapping[SwapKey, float]) -> Estimate:
        """Return a weighted sum of effects of swaps."""
        row = np.zeros(len(self._mean))
        for swap, weight in weights.items():
            row[self.data.design.column[swap]] = weight
        return Estimate(float(row @ self._mean), math.sqrt(max(float(row @ self._covariance @ row), 0.0)))

    def interactions(self) -> list[tuple[tuple[SwapKey, SwapKey], Estimate]]:
        """Return the learnt pairs, each with what it adds to the sum of its parts."""
        swaps, at = self.data.design.swaps, len(self.data.design.swaps)
        sds = np.sqrt(np.maximum(np.diag(self._covariance)[at:], 0.0))
        numbers = zip(self._learnt, self._mean[at:], sds, strict=True)
        return [((swaps[a], swaps[b]), Estimate(float(mean), float(sd))) for (a, b), mean, sd in numbers]


def fit_both(data: GroupedScores) -> tuple[AdditiveModel, AdditiveModel, npt.NDArray[np.bool_]]:
    """Return the model without interactions, the one with them, and whether these lower the error on combinations.

    The last is an array: judged without each single combination, and at its end by all of them.
    """
    plain = AdditiveModel(data, data.pairs[:0])
    paired = AdditiveModel(data, data.pairs) if len(data.pairs) else plain
    errors = (((model.leave_one_out[0] - data.scores) * data.combinations) ** 2 for model in (plain, paired))
    before, after = (error.sum() - np.append(error, 0.0) for error in errors)
    return plain, paired, after < _MAX_ERROR_RATIO * before


def fit_sums(known: Sequence[tuple[Assignment, float]], slots: Sequence[Slot]) -> AdditiveModel:
    """Fit a quantity without noise, such as GFLOPs, as a sum over swaps alone."""
    data = GroupedScores([Observation(*pair) for pair in known], slots, error=0.0)
    return AdditiveModel(data, data.pairs[:0], ratios=(0.0,))
