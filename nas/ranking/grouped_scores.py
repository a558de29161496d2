"""The scores that the additive model is fitted to: one row for each different assignment, and a grid of variances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
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
Indices: TypeAlias = npt.NDArray[np.int64]

LARGE = 300
"""Number of different assignments above which all is computed over swaps, with fewer pairs."""
MOST_PAIRS = 150
"""Number of pairs whose interactions are learnt then."""


@dataclass(frozen=True)
class Observation:
    """A measured score; trainings of one assignment with several seeds are several observations."""

    assignment: Assignment
    score: float


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
        large: Whether there are more than `LARGE`.
        pairs: Pairs of swaps that at least two of them hold; if `large`, the `MOST_PAIRS` that most hold.
        pair_count: Number of all such pairs.
        noise: The grid's variance of the noise; `effect` that of an effect.
    """

    def __init__(self, observations: Sequence[Observation], slots: Sequence[Slot], error: float | None) -> None:
        self.design = _Design(slots)
        self._observations, self._error = observations, error
        self._rows = self.design.rows([o.assignment for o in observations])
        self._scores: Array = np.array([o.score for o in observations])
        self._chosen = np.arange(len(observations))
        self._group_chosen()

    def without(self, groups: Iterable[int]) -> GroupedScores:
        """Return the data without those of some of `assignments`."""
        less = copy(self)
        less._chosen = self._chosen[~np.isin(self.group, list(groups))]
        less._group_chosen()
        return less

    def _group_chosen(self) -> None:
        every, scores = self._rows[self._chosen], self._scores[self._chosen]
        packed = np.packbits(np.hstack([np.zeros((len(every), 1)), every]).astype(bool), axis=1)
        keys = np.ascontiguousarray(packed).view(f"V{packed.shape[1]}").reshape(-1)
        _, first, group, counts = np.unique(keys, True, True, True)
        self.group: Indices = group.reshape(-1)
        self.rows: Array = every[first]
        self.assignments = [self._observations[i].assignment for i in self._chosen[first]]
        self.root: Array = np.sqrt(counts)
        self.scores: Array = np.bincount(self.group, scores) / counts
        self.swapped: Array = self.rows.sum(1)
        self.combinations = self.swapped >= 2
        self.spare, self.within = len(scores) - len(counts), float(((scores - self.scores[self.group]) ** 2).sum())
        self.large = len(counts) > LARGE
        together = np.triu(self.rows.T @ self.rows, 1)
        self.pairs: Pairs = np.argwhere(together >= 2)
        self.pair_count = len(self.pairs)
        if self.large and self.pair_count > MOST_PAIRS:
            often = np.argsort(-together[tuple(self.pairs.T)], kind="stable")[:MOST_PAIRS]
            self.pairs = self.pairs[np.sort(often)]
        self._set_grid(scores)

    def _set_grid(self, scores: Array) -> None:
        spread = max(float(np.std(scores)), self._error or 0.0, 1e-9 * (1.0 + float(np.abs(scores).max())))
        if len(self.scores) == 1:  # no swap tells how large an effect is: it may be as large as the score
            spread = max(spread, abs(float(np.mean(scores))))
        errors = np.geomspace(spread / 300, 1.5 * spread, 16) if self._error is None else np.array([self._error])
        effects = np.geomspace(spread / 30, 5 * spread, 12)
        if self.large and self._error is None:  # in the steps of the noise: few different ratios of the two
            effects = spread / 30 * 450 ** (np.arange(13) / 15)
        grid = np.meshgrid(np.maximum(errors, spread / 1e4), effects)
        self.noise, self.effect = (axis.ravel() ** 2 for axis in grid)


def observations_of(trials: Iterable[Trial]) -> list[Observation]:
    """Return the scores of finished trials."""
    return [Observation(t.assignment, t.map) for t in trials if t.status == "done"]
