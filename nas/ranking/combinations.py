"""Combinations against the sum of their swaps: how well it predicts them, and which ones it misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.ranking.additive import AdditiveModel, fit_both
from nas.ranking.grouped_scores import GroupedScores, Indices, Observation
from nas.space.search_space import Assignment, Slot, key_of
from nas.study.objective import Array

_MASKING = 3.0
"""Standard deviations beyond which a combination is set aside, so that it masks no other outlier."""
MOST_ASIDE = 12
"""Number of them among more than `nas.ranking.grouped_scores.LARGE`, where one hardly masks another."""


@dataclass(frozen=True)
class CrossValidation:
    """Leave-one-out error on the combinations, different assignments with at least two swaps.

    Attributes:
        combinations: Their number.
        rms_error: Root of the mean squared error.
        rms_mean: The same, of predicting the mean of the other combinations.
        rms_baseline: The same, of predicting the baseline's score; None if that was not measured.
        pairs: Number of pairs of swaps whose interactions can be learnt, and of all that occur at least twice.
    """

    combinations: int
    rms_error: float
    rms_mean: float
    rms_baseline: float | None
    pairs: tuple[int, int] = (0, 0)

    @property
    def bounded(self) -> bool:
        """Whether only the most frequent pairs of swaps can be learnt."""
        return self.pairs[0] < self.pairs[1]


def cross_validate(
    observations: Sequence[Observation], slots: Sequence[Slot], error: float | None = None
) -> CrossValidation | None:
    """Predict each combination from all other observations; None with fewer than two combinations.

    A combination decides neither the variances nor whether interactions are learnt for its own prediction.
    """
    data = GroupedScores(observations, slots, error)
    of, count = data.combinations, int(data.combinations.sum())
    if count < 2:
        return None
    plain, paired, helps = fit_both(data)
    predicted = np.where(helps[:-1], paired.leave_one_out[0], plain.leave_one_out[0])[of]
    measured, base = data.scores[of], data.scores[data.swapped == 0]

    def rms(guess: Array) -> float:
        return float(np.sqrt(((guess - measured) ** 2).mean()))

    return CrossValidation(
        combinations=count,
        rms_error=rms(predicted),
        rms_mean=rms((measured.sum() - measured) / (count - 1)),
        rms_baseline=rms(base) if len(base) else None,
        pairs=(len(data.pairs), data.pair_count),
    )


@dataclass(frozen=True)
class Outlier:
    """A combination that is not the sum of its parts; `sd` includes the error of its measurement."""

    assignment: Assignment
    measured: float
    predicted: float
    sd: float

    @property
    def distance(self) -> float:
        """Distance of the measured from the predicted score, in standard deviations."""
        return abs(self.measured - self.predicted) / self.sd

    @property
    def text(self) -> str:
        """The second half of a sentence about it."""
        how, digits = "beats" if self.measured > self.predicted else "falls short of", 3 if self.sd >= 0.0005 else 5
        gap, expected, sd = (f"{v:.{digits}f}" for v in (abs(self.measured - self.predicted), self.predicted, self.sd))
        return f"{how} its parts by {gap} (expected {expected} ± {sd})"


def find_outliers(
    observations: Sequence[Observation], slots: Sequence[Slot], error: float | None = None, z: float = 2.0
) -> list[Outlier]:
    """Return the combinations that miss the sum of their parts by more than `z` standard deviations, farthest first.

    The parts are the effects that all other observations give, without interactions. A combination that clearly misses
    them is set aside, so that it neither moves the parts of others nor passes for a large error; of many variants, the
    `MOST_ASIDE` that miss them most.
    """
    keep = {slot.key: slot.choices[0] for slot in slots}
    data = GroupedScores([Observation(keep | dict(o.assignment), o.score) for o in observations], slots, error)
    aside: set[int] = set()

    def model(without: set[int]) -> tuple[AdditiveModel, Indices]:
        left = np.setdiff1d(np.arange(len(data.scores)), list(without))
        part = data.without(without)
        return AdditiveModel(part, part.pairs[:0], ratios=(0.0,)), left

    def judged(without: set[int], only: int | None = None) -> dict[int, Outlier]:
        fitted, left = model(without)
        wanted = left[data.combinations[left]] if only is None else np.array([only])
        if not len(wanted):
            return {}
        predictions = fitted.predict_left_out(np.searchsorted(left, wanted))
        rows = zip(wanted.tolist(), data.scores[wanted].tolist(), *predictions, strict=True)
        return {i: Outlier(data.assignments[i], score, float(mean), float(sd)) for i, score, mean, sd in rows}

    while (found := judged(aside)) and not (data.large and len(aside) == MOST_ASIDE):
        farthest = max(found, key=lambda i: found[i].distance)
        if found[farthest].distance <= max(z, _MASKING):
            break
        aside.add(farthest)
    for i in sorted(aside, key=lambda i: key_of(data.assignments[i])):
        found |= judged(aside - {i}, only=i)
    return sorted((o for o in found.values() if o.distance > z), key=lambda o: -o.distance)
