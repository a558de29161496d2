"""The additive model: a score is the baseline's, plus an effect of each swap, plus interactions of pairs, plus noise.

Effects have a Gaussian prior with mean zero, so that few and noisy scores move an estimate little. The baseline has
a flat prior: its own score is an observation like any other, whose error does not enter all predictions.

Interactions only widen the prediction of a combination, unless learning those of pairs that were observed at least
twice lowers the cross-validated error on combinations. The variances of noise, effects and interactions are averaged
over a grid, weighted by the marginal likelihood (with the baseline integrated out, as in REML). The posterior, the
leave-one-out predictions and the weights without one observation have closed forms (Rasmussen & Williams, Gaussian
Processes for Machine Learning, 2006, sections 2.7 and 5.4.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nas.errors import SpaceError
from nas.space.search_space import Assignment, Slot
from nas.study.objective import Array
from nas.study.trial import Trial

SwapKey: TypeAlias = tuple[str, str]
"""A slot's key and a label."""
Pairs: TypeAlias = npt.NDArray[np.int64]
"""Two columns of the design each."""

_RATIOS = (0.0, 1 / 64, 1 / 16, 1 / 4)
"""Grid of the variance of an interaction over that of an effect."""
_MAX_ERROR_RATIO = 0.9
"""Squared error on combinations with interactions, over that without, below which interactions are learnt."""


@dataclass(frozen=True)
class Observation:
    """A measured score; trainings of one assignment with several seeds are several observations."""

    assignment: Assignment
    score: float


@dataclass(frozen=True)
class Estimate:
    """A posterior mean and its standard deviation."""

    mean: float
    sd: float


class _Design:
    """The columns of the model, one for each swap that the slots allow."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.kept = {(slot.key, slot.choices[0]) for slot in slots}
        self.swaps = [(slot.key, label) for slot in slots for label in slot.choices[1:]]
        self.column = {swap: i for i, swap in enumerate(self.swaps)}

    def rows(self, assignments: Sequence[Assignment]) -> Array:
        """Return assignments as rows of zeros and ones; a slot that is not assigned is kept."""
        if not assignments:
            raise SpaceError("there is nothing to predict from: at least one observation is needed")
        rows = np.zeros((len(assignments), len(self.swaps)))
        for row, assignment in zip(rows, assignments, strict=True):
            for swap in assignment.items() - self.kept:
                if swap not in self.column:
                    raise SpaceError(f"the slots to predict for have no choice {swap[1]!r} for {swap[0]!r}")
                row[self.column[swap]] = 1.0
        return rows


class GroupedScores:
    """The observations, those of one assignment as their mean, and a grid of variances that fits their scale.

    Attributes:
        assignments: The different ones; `scores` are their means.
        rows: Of the design.
        root: Square root of the number of observations of each.
        swapped: Number of swaps of each.
        combinations: Whether each has at least two.
        pairs: Pairs of swaps that at least two of them hold.
        noise: The grid's variance of the noise; `effect` that of an effect.
    """

    def __init__(self, observations: Sequence[Observation], slots: Sequence[Slot], error: float | None) -> None:
        self.design = _Design(slots)
        every, scores = self.design.rows([o.assignment for o in observations]), [o.score for o in observations]
        self.rows, first, group, counts = np.unique(every, True, True, True, axis=0)
        group = group.reshape(-1)  # numpy 2.0 alone returns it as a column
        self.assignments = [observations[i].assignment for i in first]
        self.root: Array = np.sqrt(counts)
        self.scores: Array = np.bincount(group, scores) / counts
        self.swapped: Array = self.rows.sum(1)
        self.combinations = self.swapped >= 2
        self.spare, self.within = len(scores) - len(counts), float(((scores - self.scores[group]) ** 2).sum())
        self.pairs: Pairs = np.argwhere(np.triu(self.rows.T @ self.rows, 1) >= 2)
        spread = max(float(np.std(scores)), error or 0.0, 1e-9 * (1.0 + float(np.abs(scores).max())))
        if len(counts) == 1:  # no swap tells how large an effect is: it may be as large as the score
            spread = max(spread, abs(float(np.mean(scores))))
        errors = np.geomspace(spread / 300, 1.5 * spread, 16) if error is None else np.array([error])
        grid = np.meshgrid(np.maximum(errors, spread / 1e4), np.geomspace(spread / 30, 5 * spread, 12))
        self.noise, self.effect = (axis.ravel() ** 2 for axis in grid)


class _Basis:
    """The data at one ratio of interactions to effects, rotated so that all variances of the grid have a closed form.

    Rows are weighted by the root of their number of observations; `vectors` span what is orthogonal to the baseline.
    `cross` and `sizes` are the covariances of the coefficients with the data, and their variances, over an effect's.
    """

    def __init__(self, data: GroupedScores, learnt: Pairs, ratio: float) -> None:
        columns = np.hstack([data.rows, data.rows[:, learnt[:, 0]] * data.rows[:, learnt[:, 1]]]) * data.root[:, None]
        self.sizes: Array = np.repeat([1.0, ratio], [data.rows.shape[1], len(learnt)])
        gram = columns * self.sizes @ columns.T
        np.fill_diagonal(gram, data.root**2 * (data.swapped + ratio * data.swapped * (data.swapped - 1) / 2))
        # A reflection takes the baseline's direction to the first axis; what is orthogonal to it are the other axes.
        mirror = data.root / np.linalg.norm(data.root)
        mirror[0] += 1.0
        mirror /= np.linalg.norm(mirror)
        half = np.outer(mirror, gram @ mirror - (mirror @ gram @ mirror) * mirror)
        values, turned = np.linalg.eigh((gram - 2 * (half + half.T))[1:, 1:])
        self.vectors: Array = np.vstack([np.zeros(len(values)), turned]) - 2 * np.outer(mirror, mirror[1:] @ turned)
        self.seen: Array = (self.vectors.T @ (data.root * data.scores))[:, None]
        self.variance: Array = np.outer(np.maximum(values, 0.0), data.effect) + data.noise
        fits = (np.log(self.variance) + self.seen**2 / self.variance).sum(0)
        self.evidence: Array = -0.5 * (fits + data.spare * np.log(data.noise) + data.within / data.noise)
        self.cross: Array = self.vectors.T @ (columns * self.sizes)


class AdditiveModel:
    """A fitted model; `fit` makes one.

    Attributes:
        data: The observations.
        leave_one_out: Of each of `data.assignments`, the score that all others predict, and the standard deviation of
            what is measured around it.
    """

    def __init__(self, data: GroupedScores, learnt: Pairs, ratios: Sequence[float] = _RATIOS) -> None:
        self.data, self._learnt = data, learnt
        bases = [_Basis(data, learnt, ratio) for ratio in ratios]
        evidence = np.hstack([basis.evidence for basis in bases])
        weights = np.exp(evidence - evidence.max())
        weights /= weights.sum()
        means, covariance = [], np.zeros(())
        for basis, part in zip(bases, weights.reshape(len(bases), -1), strict=True):
            means.append(basis.cross.T @ (basis.seen * data.effect / basis.variance))
            known = (part * data.effect**2 / basis.variance).sum(1)
            covariance = covariance + part @ data.effect * np.diag(basis.sizes) - basis.cross.T * known @ basis.cross
        every = np.hstack(means)
        self._mean: Array = every @ weights
        apart = every - self._mean[:, None]
        self._covariance: Array = covariance + apart * weights @ apart.T

        precision = np.hstack([basis.vectors**2 @ (1 / basis.variance) for basis in bases])
        precision = np.maximum(precision, 1e-99)  # a single assignment: nothing is known without it
        misses = np.hstack([basis.vectors @ (basis.seen / basis.variance) for basis in bases]) / precision
        without = evidence + 0.5 * (misses**2 * precision - np.log(precision))
        without = np.exp(without - without.max(1, keepdims=True))
        without /= without.sum(1, keepdims=True)
        miss = (without * misses).sum(1)
        sd = np.sqrt((without * (1 / precision + (misses - miss[:, None]) ** 2)).sum(1))
        self.leave_one_out: tuple[Array, Array] = (data.scores - miss / data.root, sd / data.root)

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


def observations_of(trials: Iterable[Trial]) -> list[Observation]:
    """Return the scores of finished trials."""
    return [Observation(t.assignment, t.map) for t in trials if t.status == "done"]
