"""Objectives, and the order of a ranking by them.

One objective orders variants. Two, mAP and a cost, give Pareto fronts: the variants that no other dominates, then those
that only these dominate, and so on. By any objective, a variant that loses more than the floor against the baseline, or
has less than the required mAP, is ranked below all that do not.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nas.study import OBJECTIVES
from nas.study.trial import Trial

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Goal:
    """The goal of a search.

    Attributes:
        objective: One of `nas.study.OBJECTIVES`.
        min_map: Required mAP50-95, independent of the baseline.
    """

    objective: str = "map_per_gflop"
    min_map: float = 0.0

    @property
    def words(self) -> str:
        """Description of the objective."""
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
        """Return the mAP50-95 below which a variant is ranked last; `floor` as in `nas.ranking.rank.rank_trials`."""
        return max(base.map - floor if base else 0.0, self.min_map)

    def cost(self, trial: Trial) -> float:
        """Return the cost that is traded against mAP: milliseconds if latency is an objective, else GFLOPs."""
        return (trial.latency_ms or 0.0) if self.needs_latency else trial.gflops

    def utility(self, maps: Array, costs: Array, least: float) -> Array:
        """Return the value that a single objective maximises, for arrays of any shape.

        Below the least mAP the value is the negative shortfall, so that a search does not prefer variants that are
        merely small.
        """
        value = maps if self.objective == "map" else maps / np.maximum(costs, 1e-9)
        return np.where(maps < least, maps - least, value)

    def values(self, trials: Sequence[Trial], least: float) -> Array:
        """Return the values of finished trials that a sampler maximises, (n, 1), or (n, 2): mAP and the negated cost.

        With two objectives, those below the least mAP are made worse in both than all others, so that they are on no
        front.
        """
        maps, costs = np.array([t.map for t in trials]), np.array([self.cost(t) for t in trials])
        if not self.has_front:
            return self.utility(maps, costs, least)[:, None]
        below, dearest = maps < least, costs.max(initial=0.0) + 1.0
        return np.column_stack([maps - below, -np.where(below, dearest + costs, costs)])

    def order(self, trials: Sequence[Trial], below: Callable[[Trial], bool]) -> list[Trial]:
        """Return finished trials, best first, those that are `below` last; within a front the highest mAP first."""
        if not self.has_front:
            by_map = self.objective == "map"
            return sorted(trials, key=lambda t: (below(t), -(t.map if by_map else t.map_per_gflop), t.number))
        points = np.array([(t.map, -self.cost(t)) for t in trials]).reshape(-1, 2)
        placed = zip(fronts_of(points).tolist(), trials, strict=True)
        keys = sorted((below(t), front, -t.map, self.cost(t), t.number, i) for i, (front, t) in enumerate(placed))
        return [trials[key[-1]] for key in keys]


def fronts_of(points: Array) -> npt.NDArray[np.int64]:
    """Return the number of the Pareto front of every point, from 0.

    Args:
        points: (n, 1) or (n, 2), more is better in each. A point is on front k if only points of earlier fronts are at
            least as good in all and better in one, and some point of front k - 1 is; equal points share their front.
    """
    if points.shape[1] == 1:
        return np.unique(-points[:, 0], return_inverse=True)[1].reshape(-1).astype(np.int64)
    fronts = np.zeros(len(points), dtype=np.int64)
    ends: list[float] = []  # the negated second coordinate that each front has reached; it rises from front to front
    before = None
    for i in np.lexsort((-points[:, 1], -points[:, 0])):
        if before is not None and (points[i] == points[before]).all():
            fronts[i] = fronts[before]
            continue
        before = i
        end = -float(points[i, 1])
        fronts[i] = at = bisect.bisect_right(ends, end)
        ends[at : at + 1] = [end]
    return fronts


@dataclass(frozen=True)
class Prior:
    """Prior for the error of a paired difference: its standard deviation and degrees of freedom, from a calibration."""

    sd: float
    degrees: float
