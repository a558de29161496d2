"""Objectives: what a study looks for, and the order of a ranking that comes of it.

With one objective variants have an order. With two, mAP and a cost, they have Pareto fronts: what no other one beats
stands first, then what only those beat, and so on. Whatever the objective, a variant that loses more than the floor
against the baseline, or has less than the least mAP that was asked for, stands below all that do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nas.trial import Trial

Array: TypeAlias = npt.NDArray[np.float64]

OBJECTIVES: Mapping[str, str] = {
    "map_per_gflop": "mAP50-95 per GFLOP",
    "map": "mAP50-95",
    "map,gflops": "mAP50-95 and GFLOPs",
    "map,latency": "mAP50-95 and latency",
}
"""Every objective, in words."""


@dataclass(frozen=True)
class Goal:
    """What a study looks for.

    Attributes:
        objective: One of `OBJECTIVES`.
        min_map: mAP50-95 that a variant has to reach, whatever the baseline has.
    """

    objective: str = "map_per_gflop"
    min_map: float = 0.0

    @property
    def words(self) -> str:
        """The objective in words."""
        return OBJECTIVES[self.objective]

    @property
    def has_front(self) -> bool:
        """Whether there are two objectives."""
        return "," in self.objective

    @property
    def needs_latency(self) -> bool:
        """Whether latency is one of the objectives."""
        return self.objective == "map,latency"

    def least(self, base: Trial | None, floor: float) -> float:
        """Return the mAP50-95 below which a variant stands behind all others; `floor` as in `nas.rank.rank`."""
        return max(base.map - floor if base else 0.0, self.min_map)

    def cost(self, trial: Trial) -> float:
        """Return what mAP stands against: milliseconds where latency is an objective, else GFLOPs."""
        return (trial.latency_ms or 0.0) if self.needs_latency else trial.gflops

    def utility(self, maps: Array, costs: Array, least: float) -> Array:
        """Return what a single objective maximises, of any shape.

        What is below the least mAP gets a negative number that says how far, so that a search does not chase what is
        merely small.
        """
        value = maps if self.objective == "map" else maps / np.maximum(costs, 1e-9)
        return np.where(maps < least, maps - least, value)

    def values(self, trial: Trial, least: float, dearest: float = 0.0) -> tuple[float, ...]:
        """Return what a sampler maximises: one number, or mAP and the negated cost.

        Args:
            trial: Finished.
            least: As from `least`.
            dearest: Cost of the dearest trial; what is below the least mAP is told as dearer, so that it is on no
                front.
        """
        if not self.has_front:
            return (float(self.utility(np.array(trial.map), np.array(trial.gflops), least)),)
        if trial.map < least:
            return trial.map - 1.0, -dearest - 1.0
        return trial.map, -self.cost(trial)

    def order(self, trials: Sequence[Trial], least: float) -> list[Trial]:
        """Return finished trials, best first; of one front the highest mAP first."""
        if not self.has_front:
            value = {t.number: t.map if self.objective == "map" else t.map_per_gflop for t in trials}
            return sorted(trials, key=lambda t: (t.map < least, -value[t.number], t.number))
        points = np.array([(t.map, -self.cost(t)) for t in trials]).reshape(-1, 2)
        fronts = fronts_of(points)
        place = {t.number: int(front) for t, front in zip(trials, fronts, strict=True)}
        return sorted(trials, key=lambda t: (t.map < least, place[t.number], -t.map, self.cost(t), t.number))


def fronts_of(points: Array) -> npt.NDArray[np.int64]:
    """Return the number of the Pareto front of every point, from 0.

    Args:
        points: (n, objectives), more is better in each. A point is on front k if only points of earlier fronts are at
            least as good in all and better in one (fast non-dominated sort of Deb et al., IEEE TEVC 6(2), 2002).
    """
    behind = (points[:, None] <= points[None]).all(-1) & (points[:, None] < points[None]).any(-1)
    fronts = np.full(len(points), -1, dtype=np.int64)
    left, number = np.ones(len(points), dtype=bool), 0
    while left.any():
        front = left & ~(behind & left[None]).any(1)
        fronts[front] = number
        left &= ~front
        number += 1
    return fronts
