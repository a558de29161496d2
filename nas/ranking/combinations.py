"""Combinations against the sum of their swaps: how well it predicts them, and which ones it misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.ranking.additive import AdditiveModel, GroupedScores, Observation, fit_both
from nas.space.search_space import Assignment, Key, Slot, key_of
from nas.study.objective import Array

_MASKING = 3.0
"""Standard deviations beyond which a combination is set aside, so that it masks no other outlier."""


@dataclass(frozen=True)
class CrossValidation:
    """Leave-one-out error on the combinations, different assignments with at least two swaps.

    Attributes:
        combinations: Their number.
        rms_error: Root of the mean squared error.
        rms_mean: The same, of predicting the mean of the other combinations.
        rms_baseline: The same, of predicting the baseline's score; None if that was not measured.
    """

    combinations: int
    rms_error: float
    rms_mean: float
    rms_baseline: float | None


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
    them is set aside, so that it neither moves the parts of others nor passes for a large error.
    """
    keep = {slot.key: slot.choices[0] for slot in slots}
    full = [Observation(keep | dict(o.assignment), o.score) for o in observations]
    aside: set[Key] = set()

    def judged(without: set[Key]) -> dict[Key, Outlier]:
        data = GroupedScores([o for o in full if key_of(o.assignment) not in without], slots, error)
        predictions = AdditiveModel(data, data.pairs[:0], ratios=(0.0,)).leave_one_out
        rows = zip(data.assignments, data.scores, *predictions, strict=True)
        every = [Outlier(a, *map(float, numbers)) for a, *numbers in rows]
        return {key_of(o.assignment): o for o, of in zip(every, data.combinations, strict=True) if of}

    while found := judged(aside):
        farthest = max(found, key=lambda key: found[key].distance)
        if found[farthest].distance <= max(z, _MASKING):
            break
        aside.add(farthest)
    found |= {key: judged(aside - {key})[key] for key in sorted(aside)}
    return sorted((o for o in found.values() if o.distance > z), key=lambda o: -o.distance)
