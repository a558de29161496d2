"""Additive prediction: what a combination will score, from what its swaps scored elsewhere.

A score is read as the baseline's, plus an effect of every swap, plus what that sum leaves out, plus the error of one
training. Effects have a Gaussian prior around zero, so that few and noisy scores move a prediction little. The baseline
has none: its own score is an observation like any other, whose error is not handed down to every prediction.

What the sum leaves out is an interaction of every two swaps. Those only widen the prediction of a combination, until
learning the ones that were seen at least twice lowers the error on combinations that were left out. How large errors,
effects and interactions are is averaged over a grid, weighted by how well each point explains the scores (the baseline
integrated out, as in REML). Leaving out one observation has a closed form, and so have the weights without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nas.errors import SpaceError
from nas.space.search_space import Assignment, Key, Slot, key_of
from nas.study.trial import Trial

Array: TypeAlias = npt.NDArray[np.float64]
Pairs: TypeAlias = npt.NDArray[np.int64]

_RATIOS = (0.0, 1 / 64, 1 / 16, 1 / 4)
"""Variance of an interaction over that of an effect."""
_GAIN = 0.9
"""Squared error on combinations, over that without interactions, below which interactions are learnt."""


@dataclass(frozen=True)
class Observation:
    """A measured score; trainings of one assignment with several seeds are several observations."""

    assignment: Assignment
    score: float


@dataclass(frozen=True)
class Prediction:
    """What is expected, and its standard deviation; the error of one training is not part of it."""

    mean: float
    sd: float


class _Design:
    """The columns of the model: one for every swap that the slots allow."""

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


class _Data:
    """The observations, those of one assignment as their mean, and the grid of variances that fits their scale."""

    def __init__(self, observations: Sequence[Observation], slots: Sequence[Slot], error: float | None) -> None:
        self.design = _Design(slots)
        every, scores = self.design.rows([o.assignment for o in observations]), [o.score for o in observations]
        self.rows, first, group, counts = np.unique(every, True, True, True, axis=0)
        group = group.reshape(-1)  # numpy 2.0 alone returns it as a column
        self.assignments = [observations[i].assignment for i in first]
        self.root: Array = np.sqrt(counts)
        self.scores: Array = np.bincount(group, scores) / counts
        self.mean = float(np.mean(scores))
        self.swapped: Array = self.rows.sum(1)
        self.combinations = self.swapped >= 2
        self.spare, self.within = len(scores) - len(counts), float(((scores - self.scores[group]) ** 2).sum())
        self.pairs: Pairs = np.argwhere(np.triu(self.rows.T @ self.rows, 1) >= 2)
        spread = max(float(np.std(scores)), error or 0.0, 1e-9 * (1.0 + float(np.abs(scores).max())))
        if len(counts) == 1:  # no swap tells how large an effect is: it may be as large as the score
            spread = max(spread, abs(self.mean))
        errors = np.geomspace(spread / 300, 1.5 * spread, 16) if error is None else np.array([error])
        grid = np.meshgrid(np.maximum(errors, spread / 1e4), np.geomspace(spread / 30, 5 * spread, 12))
        self.noise, self.effect = (axis.ravel() ** 2 for axis in grid)


class _Basis:
    """The data at one ratio of interactions to effects, turned so that all variances have a closed form.

    Rows are weighted by the root of their number of observations; `vectors` span what is orthogonal to the baseline.
    `cross` and `prior` are the covariances of all coefficients with the data and each other, over an effect's variance.
    """

    def __init__(self, data: _Data, learnt: Pairs, ratio: float) -> None:
        columns = np.hstack([data.rows, data.rows[:, learnt[:, 0]] * data.rows[:, learnt[:, 1]]]) * data.root[:, None]
        sizes = np.repeat([1.0, ratio], [data.rows.shape[1], len(learnt)])
        gram = columns * sizes @ columns.T
        np.fill_diagonal(gram, data.root**2 * (data.swapped + ratio * data.swapped * (data.swapped - 1) / 2))
        mean = data.root / (data.root @ data.root)
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
        self.cross: Array = self.vectors.T @ np.column_stack([-gram @ mean, columns * sizes])
        self.prior: Array = np.diag([mean @ gram @ mean, *sizes])
        self.prior[0, 1:] = self.prior[1:, 0] = -(mean @ columns) * sizes


class Additive:
    """A fitted model; `fit` makes one.

    Attributes:
        pairs: Two swaps each whose interaction is learnt, the strongest first; empty if the data do not carry any.
        left_out: What all others let each of `data.assignments` be expected to score, and the sd of what is measured.
    """

    def __init__(self, data: _Data, learnt: Pairs, ratios: Sequence[float] = _RATIOS) -> None:
        self.data, self._learnt = data, learnt
        bases = [_Basis(data, learnt, ratio) for ratio in ratios]
        evidence = np.hstack([basis.evidence for basis in bases])
        weights = np.exp(evidence - evidence.max())
        weights /= weights.sum()
        means, covariance = [], np.zeros(())
        for basis, part in zip(bases, weights.reshape(len(bases), -1), strict=True):
            means.append(basis.cross.T @ (basis.seen * data.effect / basis.variance))
            known = (part * data.effect**2 / basis.variance).sum(1)
            covariance = covariance + part @ data.effect * basis.prior - basis.cross.T * known @ basis.cross
        every = np.hstack(means)
        self._mean: Array = every @ weights
        apart = every - self._mean[:, None]
        self._covariance: Array = covariance + apart * weights @ apart.T
        self._mean[0] += data.mean
        self._covariance[0, 0] += weights @ np.tile(data.noise, len(bases)) / (data.root @ data.root)
        self._unlearnt = float(weights @ np.outer(ratios, data.effect).ravel())
        swaps = data.design.swaps
        strongest = np.argsort(-np.abs(self._mean[1 + len(swaps) :]), kind="stable")
        self.pairs: tuple[Key, ...] = tuple((swaps[a], swaps[b]) for a, b in learnt[strongest])

        precision = np.hstack([basis.vectors**2 @ (1 / basis.variance) for basis in bases])
        precision = np.maximum(precision, 1e-99)  # a single assignment: nothing is known without it
        misses = np.hstack([basis.vectors @ (basis.seen / basis.variance) for basis in bases]) / precision
        without = evidence + 0.5 * (misses**2 * precision - np.log(precision))
        without = np.exp(without - without.max(1, keepdims=True))
        without /= without.sum(1, keepdims=True)
        miss = (without * misses).sum(1)
        sd = np.sqrt((without * (1 / precision + (misses - miss[:, None]) ** 2)).sum(1))
        self.left_out: tuple[Array, Array] = (data.scores - miss / data.root, sd / data.root)

    @classmethod
    def fit(
        cls,
        observations: Sequence[Observation],
        slots: Sequence[Slot],
        error: float | None = None,
        interactions: bool | None = None,
    ) -> Additive:
        """Fit the model to at least one observation, which should be the baseline's.

        The first choice of a slot keeps, and every other one has an effect. `error` is the standard deviation of one
        score, where a calibration measured it; None estimates it. Something that the slots do not have is refused.
        `interactions` says whether to learn them; None does where that pays.
        """
        data = _Data(observations, slots, error)
        if interactions is not None:
            return cls(data, data.pairs[: None if interactions else 0])
        plain, paired, gains = _fits(data)
        return paired if gains[-1] else plain

    def predict(self, assignment: Assignment) -> Prediction:
        """Return what an assignment will score by its parts; what is not assigned is kept."""
        features = self._features(assignment)
        swapped = int(features[1 : 1 + len(self.data.design.swaps)].sum())
        return self._read(features, math.comb(swapped + 1, 2) + 1 - float(features.sum()))

    def effect(self, slot: str, label: str) -> Prediction:
        """Return by how much a swap alone moves the score; keeping moves nothing."""
        return self._read(self._features({slot: label}) - self._features({}))

    def contrast(self, weights: Mapping[tuple[str, str], float]) -> Prediction:
        """Return a weighted sum of effects of swaps, each a slot and a label."""
        row = np.zeros(len(self._mean))
        for swap, weight in weights.items():
            row[1 + self.data.design.column[swap]] = weight
        return Prediction(float(row @ self._mean), math.sqrt(max(float(row @ self._covariance @ row), 0.0)))

    def interactions(self) -> list[tuple[Key, Prediction]]:
        """Return the learnt pairs, each with what it adds to the sum of its parts."""
        swaps, at = self.data.design.swaps, 1 + len(self.data.design.swaps)
        sds = np.sqrt(np.maximum(np.diag(self._covariance)[at:], 0.0))
        numbers = zip(self._learnt, self._mean[at:], sds, strict=True)
        return [((swaps[a], swaps[b]), Prediction(float(mean), float(sd))) for (a, b), mean, sd in numbers]

    def _features(self, assignment: Assignment) -> Array:
        row = self.data.design.rows([assignment])[0]
        return np.concatenate([[1.0], row, row[self._learnt[:, 0]] * row[self._learnt[:, 1]]])

    def _read(self, features: Array, unlearnt: float = 0.0) -> Prediction:
        at = np.flatnonzero(features)  # all of them are ones
        variance = float(self._covariance[np.ix_(at, at)].sum()) + unlearnt * self._unlearnt
        return Prediction(float(self._mean[at].sum()), math.sqrt(max(variance, 0.0)))


def _fits(data: _Data) -> tuple[Additive, Additive, npt.NDArray[np.bool_]]:
    """Return the model without interactions, with those seen twice, and whether these lower the error on combinations.

    The last is told for all combinations but each single one, and at its end for all of them.
    """
    plain = Additive(data, data.pairs[:0])
    paired = Additive(data, data.pairs) if len(data.pairs) else plain
    errors = (((model.left_out[0] - data.scores) * data.combinations) ** 2 for model in (plain, paired))
    before, after = (error.sum() - np.append(error, 0.0) for error in errors)
    return plain, paired, after < _GAIN * before


@dataclass(frozen=True)
class HeldBack:
    """How well combinations are predicted that the model has not seen.

    Attributes:
        combinations: How many; different assignments with at least two swaps.
        mean_error: Mean absolute error.
        rms_error: Root of the mean squared error.
        rms_mean: The same, of predicting the mean of the other combinations.
        rms_baseline: The same, of predicting the baseline's score; None if that was not measured.
        spearman: Rank correlation of predicted and measured; None with fewer than four, or where all are equal.
    """

    combinations: int
    mean_error: float
    rms_error: float
    rms_mean: float
    rms_baseline: float | None
    spearman: float | None


def held_back(
    observations: Sequence[Observation], slots: Sequence[Slot], error: float | None = None
) -> HeldBack | None:
    """Predict every combination from all other observations, and compare; None with fewer than two combinations.

    What is held back decides neither the variances nor, by its own error, whether interactions are learnt.
    """
    data = _Data(observations, slots, error)
    of, count = data.combinations, int(data.combinations.sum())
    if count < 2:
        return None
    plain, paired, gains = _fits(data)
    predicted = np.where(gains[:-1], paired.left_out[0], plain.left_out[0])[of]
    measured, base = data.scores[of], data.scores[data.swapped == 0]

    def rms(guess: Array) -> float:
        return float(np.sqrt(((guess - measured) ** 2).mean()))

    return HeldBack(
        combinations=count,
        mean_error=float(np.abs(predicted - measured).mean()),
        rms_error=rms(predicted),
        rms_mean=rms((measured.sum() - measured) / (count - 1)),
        rms_baseline=rms(base) if len(base) else None,
        spearman=_spearman(predicted, measured) if count >= 4 else None,
    )


def _spearman(a: Array, b: Array) -> float | None:
    """Return the correlation of ranks, ties sharing their mean rank; None where all are equal."""
    found = (np.unique(values, return_inverse=True, return_counts=True)[1:] for values in (a, b))
    ranks = np.array([(np.cumsum(counts) - counts / 2)[group] for group, counts in found])
    return float(np.corrcoef(ranks)[0, 1]) if np.ptp(ranks, axis=1).all() else None


@dataclass(frozen=True)
class Surprise:
    """A combination that is not the sum of its parts; `sd` holds the error of what was measured too."""

    assignment: Assignment
    measured: float
    predicted: float
    sd: float

    @property
    def distance(self) -> float:
        """Distance of the measured from the predicted, in standard deviations."""
        return abs(self.measured - self.predicted) / self.sd

    @property
    def text(self) -> str:
        """The surprise in half a line."""
        how, digits = "beats" if self.measured > self.predicted else "falls short of", 3 if self.sd >= 0.0005 else 5
        gap, expected, sd = (f"{v:.{digits}f}" for v in (abs(self.measured - self.predicted), self.predicted, self.sd))
        return f"{how} its parts by {gap} (expected {expected} ± {sd})"


def surprises(
    observations: Sequence[Observation], slots: Sequence[Slot], error: float | None = None, z: float = 2.0
) -> list[Surprise]:
    """Return the combinations that miss the sum of their parts by more than `z` standard deviations, farthest first.

    The parts are the effects that all other observations give, without interactions. A combination that clearly misses
    them is set aside, so that it neither moves the parts of others nor passes for a large error.
    """
    keep = {slot.key: slot.choices[0] for slot in slots}
    full = [Observation(keep | dict(o.assignment), o.score) for o in observations]
    aside: set[Key] = set()

    def judged(without: set[Key]) -> dict[Key, Surprise]:
        data = _Data([o for o in full if key_of(o.assignment) not in without], slots, error)
        rows = zip(data.assignments, data.scores, *Additive(data, data.pairs[:0], ratios=(0.0,)).left_out, strict=True)
        every = [Surprise(a, *map(float, numbers)) for a, *numbers in rows]
        return {key_of(s.assignment): s for s, of in zip(every, data.combinations, strict=True) if of}

    while found := judged(aside):
        farthest = max(found, key=lambda key: found[key].distance)
        if found[farthest].distance <= max(z, 3.0):
            break
        aside.add(farthest)
    found |= {key: judged(aside - {key})[key] for key in sorted(aside)}
    return sorted((s for s in found.values() if s.distance > z), key=lambda s: -s.distance)


class AdditiveCost:
    """GFLOPs of any assignment from those of some: every swap adds its own, almost exactly; one never costed, none."""

    def __init__(self, costs: _Data) -> None:
        self._model = Additive(costs, costs.pairs[:0], ratios=(0.0,))

    @classmethod
    def fit(cls, costs: Sequence[tuple[Assignment, float]], slots: Sequence[Slot]) -> AdditiveCost:
        """Fit to assignments and their GFLOPs, at least one."""
        return cls(_Data([Observation(*cost) for cost in costs], slots, error=0.0))

    def predict(self, assignment: Assignment) -> float:
        """Return the GFLOPs of an assignment; what is not assigned is kept."""
        return self._model.predict(assignment).mean

    def contrast(self, weights: Mapping[tuple[str, str], float]) -> Prediction:
        """Return a weighted sum of what swaps add."""
        return self._model.contrast(weights)


def observations(trials: Iterable[Trial]) -> list[Observation]:
    """Return what finished trials say to a prediction."""
    return [Observation(t.assignment, t.map) for t in trials if t.status == "done"]
