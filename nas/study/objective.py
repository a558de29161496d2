"""Objectives and budgets, and the order of a ranking by an objective.

One objective orders variants. Two, mAP and a cost, give Pareto fronts: the variants that no other dominates, then those
that only these dominate, and so on. By any objective, a variant that loses more than the floor against the baseline, or
has less than the required mAP, is ranked below all that do not.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nas.errors import OptionError, shown
from nas.study import OBJECTIVES
from nas.study.trial import Trial

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Goal:
    """The goal of a search.

    Attributes:
        objective: One of `nas.study.OBJECTIVES`.
        min_map: Required mAP50-95, independent of the baseline.
        budgets: What variants may cost, if that is limited.
    """

    objective: str = "map_per_gflop"
    min_map: float = 0.0
    budgets: tuple[Budget, ...] = ()

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
        """Return finished trials, best first, those that are `below` last; within a front the highest mAP first.

        Those that meet a budget come before all others, the highest mAP first. Several budgets take turns: the best of
        each, then the second of each.
        """
        first = {t.number: t for t in self._within_budgets([t for t in trials if not below(t)])}
        return [*first.values(), *self._by_objective([t for t in trials if t.number not in first], below)]

    def _within_budgets(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials that meet a budget, by turns of the budgets."""
        base = next((t for t in trials if t.variant.is_baseline), None)
        if base is None:
            return []
        by_map = sorted(trials, key=lambda t: (-t.map, self.cost(t), t.number))
        turns = [[t for t in by_map if budget.is_met(costs_of(t), costs_of(base))] for budget in self.budgets]
        return [t for turn in itertools.zip_longest(*turns) for t in turn if t]

    def _by_objective(self, trials: Sequence[Trial], below: Callable[[Trial], bool]) -> list[Trial]:
        """Return finished trials, best first by the objective alone, those that are `below` last."""
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


QUANTITIES: Mapping[str, str] = {"gflops": "GFLOPs", "params": "parameters", "latency_ms": "ms"}
"""What a budget may limit, with its unit."""
_AMOUNT = re.compile(r"(?P<sign>[+-]?)(?P<number>\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+)(?P<unit>[%kM]?)")
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6}


@dataclass(frozen=True)
class Budget:
    """The most that a variant may cost, in one quantity or in several.

    Attributes:
        limits: Quantity (`QUANTITIES`), amount, and whether that is a change relative to the baseline: -0.25 is a
            quarter less.
    """

    limits: tuple[tuple[str, float, bool], ...]

    def __post_init__(self) -> None:
        """Raise ValueError for a quantity that there is none of: studies of others bring budgets."""
        if unknown := {quantity for quantity, *_ in self.limits} - QUANTITIES.keys():
            raise ValueError(f"a budget limits {shown(sorted(unknown))}, expected some of {', '.join(QUANTITIES)}")

    def within(self, base: Mapping[str, float]) -> dict[str, float]:
        """Return the limit of each quantity.

        Args:
            base: The baseline's cost by quantity.

        Raises:
            OptionError: The baseline's cost in a quantity is not known.
        """
        found = {}
        for quantity, amount, relative in self.limits:
            if quantity not in base:
                raise OptionError(
                    f"the budget {self} is in a unit that the study has not measured ({QUANTITIES[quantity]})"
                    + (": search with --latency to measure it" if quantity == "latency_ms" else "")
                )
            found[quantity] = base[quantity] * (1 + amount) if relative else amount
        return found

    def is_met(self, costs: Mapping[str, float], base: Mapping[str, float]) -> bool:
        """Return whether costs are within the budget; False where one of them, or the baseline's, is not known."""
        known = {quantity for quantity, *_ in self.limits} <= base.keys()
        return known and all(costs.get(q, math.inf) <= limit for q, limit in self.within(base).items())

    def __str__(self) -> str:
        return ", ".join(
            f"{100 * amount:+g}% {QUANTITIES[quantity]}" if relative else f"{amount:g} {QUANTITIES[quantity]}"
            for quantity, amount, relative in self.limits
        )


def costs_of(trial: Trial) -> dict[str, float]:
    """Return the costs that a trial has, by quantity."""
    found = {"gflops": trial.gflops, "params": float(trial.params)}
    return found if trial.latency_ms is None else {**found, "latency_ms": trial.latency_ms}


def read_budgets(gflops: str | None, params: str | None, latency: str | None) -> tuple[Budget, ...]:
    """Parse the budgets of a command line, amounts separated by commas: ``6.5``, ``-25%``, ``2.5M``.

    Several quantities limit a budget together, amount by amount; one with a single amount has it in every budget.

    Raises:
        OptionError: An amount cannot be read, or two quantities have different numbers of amounts.
    """
    given = {"gflops": gflops, "params": params, "latency_ms": latency}
    lists = {key: [_amount(key, part) for part in text.split(",")] for key, text in given.items() if text is not None}
    count = max(map(len, lists.values()), default=0)
    if any(len(amounts) not in (1, count) for amounts in lists.values()):
        counts = ", ".join(f"{len(amounts)} of {QUANTITIES[key]}" for key, amounts in lists.items())
        raise OptionError(f"budgets in several units need as many amounts each, or one for all; given are {counts}")
    found = (Budget(tuple((key, *amounts[i % len(amounts)]) for key, amounts in lists.items())) for i in range(count))
    return tuple(dict.fromkeys(found))


def _amount(quantity: str, text: str) -> tuple[float, bool]:
    """Parse an amount; return it, and whether it is relative."""
    example = {"gflops": "6.5", "params": "2.5M", "latency_ms": "12"}[quantity]
    match = _AMOUNT.fullmatch(text.strip())
    relative = match is not None and match["unit"] == "%"
    if not match or bool(match["sign"]) != relative:
        raise OptionError(
            f"cannot read the budget {text.strip()!r}: expected {QUANTITIES[quantity]}, such as {example}, or a change "
            "with its sign, such as -25%"
        )
    number = float(match["number"]) * (-1 if match["sign"] == "-" else 1)
    number = number / 100 if relative else number * _UNITS[match["unit"]]
    if not math.isfinite(number) or number <= (-1 if relative else 0):
        raise OptionError(f"the budget {text.strip()!r} leaves nothing: it has to be above 0, or above -100%")
    return number, relative
