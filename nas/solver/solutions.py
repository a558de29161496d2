"""The best predicted combinations under a budget, which they really meet: solved, counted, corrected, solved again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nas.errors import BuildError, SolverTimeout, SpaceError
from nas.ranking.additive import Estimate
from nas.solver.facts import SwapFacts, all_swaps
from nas.solver.prediction import Prediction
from nas.solver.program import Program, least_cost, solve
from nas.space.search_space import Assignment, SearchSpace, key_of
from nas.study.objective import QUANTITIES, Budget, costs_of
from nas.study.trial import Trial

Count = Callable[[Assignment], Mapping[str, float]]
"""Counts the real costs of a variant by quantity; raises `nas.errors.BuildError` for one that cannot be built."""

_MOST_COUNTED = 12
"""Variants that are counted for one solution before the budget passes for one that nothing meets."""
_TOLERANCE = 1e-6
_SIMPLER = 1e-4
"""mAP50-95 that a swap has to add unless the budget needs it: of variants that are nearly equal, the simplest."""
_WORTH = 0.003
"""Share of the baseline's cost by which a sum may be wrong before it is corrected to make use of it."""


@dataclass(frozen=True)
class Solution:
    """A combination for a budget.

    Attributes:
        assignment: Slot key to label.
        costs: Its costs by quantity.
        estimated: The quantities whose costs are sums over swaps, because they were not counted.
        predicted: Predicted difference in mAP50-95 to the baseline.
    """

    assignment: Assignment
    costs: Mapping[str, float]
    estimated: frozenset[str]
    predicted: Estimate


class Solver:
    """Solves for budgets, by what is known at one moment."""

    def __init__(
        self,
        space: SearchSpace,
        facts: SwapFacts,
        prediction: Prediction,
        trials: Iterable[Trial] = (),
        count: Count | None = None,
    ) -> None:
        """Prepare.

        Args:
            space: The space; its limits on costs hold for every solution.
            facts: About its swaps.
            prediction: Of the mAP of combinations.
            trials: Those of the study, whose costs need not be counted again.
            count: Counts others; None takes sums over swaps.
        """
        self.space, self.facts, self.prediction, self._count = space, facts, prediction, count
        self._counted = {key_of(t.assignment): costs_of(t) for t in trials if t.gflops}
        swaps = all_swaps(space)
        unknown = {s for s in swaps if s not in facts.parts and s not in prediction.trained}
        barred = unknown | set(facts.failures)
        self.barred = frozenset(s for s in swaps if s in barred or s not in facts.costs)
        self._values = {swap: value - _SIMPLER for swap, value in prediction.values().items()}
        self._pairs = prediction.pairs()

    def limits_of(self, budget: Budget | None) -> dict[str, float]:
        """Return the upper limits of a budget and of the space, by quantity."""
        limits = budget.within(self.facts.base) if budget else {}
        for key, limit in self.space.limits:
            quantity = key.removeprefix("max_")
            if quantity in self.facts.base:
                limits[quantity] = min(limit, limits.get(quantity, math.inf))
        return limits

    def program(self, limits: Mapping[str, float]) -> Program:
        """Return the program with these limits, by sums over swaps."""
        costs = {
            quantity: {swap: found.get(quantity, 0.0) for swap, found in self.facts.costs.items()}
            for quantity in self.facts.base
        }
        above = {quantity: limit - self.facts.base[quantity] for quantity, limit in limits.items()}
        unknown = {swap for swap, found in self.facts.costs.items() if not limits.keys() <= found.keys()}
        return Program(self.space, self._values, self._pairs, costs, above, self.barred | unknown)

    def solve(
        self, budget: Budget | None, count: int = 1, least: int = 1, apart: Sequence[tuple[Assignment, int]] = ()
    ) -> list[Solution]:
        """Return up to `count` solutions, the best first, that differ from each other in at least `least` slots.

        Args:
            budget: What they may cost; None is what the space allows.
            count: How many.
            least: Number of slots.
            apart: Further assignments, and the number of slots in which solutions differ from each.

        Raises:
            SolverTimeout: Time ran out before the first was found.
        """
        limits, found = self.limits_of(budget), list[Solution]()
        while len(found) < count:
            away = [*apart, *((other.assignment, least) for other in found)]
            try:
                one = self._one(limits, away)
            except SolverTimeout:
                if found:
                    break
                raise
            if one is None:
                break
            found.append(one)
        return found

    def _one(self, limits: Mapping[str, float], apart: Sequence[tuple[Assignment, int]]) -> Solution | None:
        """Return the best solution whose real costs are within the limits; None if none is found."""
        exact, refused = self.program(limits), list[tuple[Assignment, int]]()
        wrong = dict.fromkeys(limits, 0.0)
        best: Solution | None = None
        for _ in range(_MOST_COUNTED):
            allowed = {quantity: limit - wrong[quantity] for quantity, limit in exact.limits.items()}
            try:
                chosen = solve(replace(exact, limits=allowed), [*apart, *refused])
            except SolverTimeout:
                if best:
                    break
                raise
            if chosen is None:
                if best or not any(wrong.values()):
                    break
                wrong = dict.fromkeys(limits, 0.0)  # the correction holds for what was counted, not for all
                continue
            refused.append((chosen, 1))
            try:
                costs, estimated = self.costs(chosen)
            except BuildError:
                continue
            off = {q: costs[q] - (self.facts.cost(chosen, q) or costs[q]) for q in limits}
            if any(costs[q] > limit * (1 + _TOLERANCE) for q, limit in limits.items()):
                if best:
                    break
                wrong = {q: max(off[q], 0.0) for q in limits}
                continue
            if best is None or self._value(chosen) > self._value(best.assignment):
                best = Solution(chosen, costs, estimated, self.prediction.of([chosen])[0])
            if any(wrong.values()) or all(off[q] >= -_WORTH * self.facts.base[q] for q in limits):
                break
            wrong = off  # the sum is too high: there may be room for more
        return best

    def _value(self, assignment: Assignment) -> float:
        """Return the value of an assignment in the program."""
        chosen = set(assignment.items())
        pairs = sum(value for pair, value in self._pairs.items() if chosen.issuperset(pair))
        return sum(self._values.get(swap, 0.0) for swap in chosen) + pairs

    def costs(self, assignment: Assignment) -> tuple[dict[str, float], frozenset[str]]:
        """Return the costs of a variant, and the quantities that are sums because they were not counted.

        Raises:
            BuildError: It cannot be built.
        """
        key = key_of(assignment)
        if key not in self._counted:
            self._counted[key] = dict(self._count(assignment)) if self._count else {}
        counted = self._counted[key]
        summed = {q: value for q in self.facts.base if (value := self.facts.cost(assignment, q)) is not None}
        return {**summed, **counted}, frozenset(summed.keys() - counted.keys())

    def check(self, budget: Budget) -> str:
        """Return a note if the baseline meets a budget already; empty if it limits something.

        Raises:
            OptionError: It is in a unit that has not been measured.
            SpaceError: Nothing meets it; the message says how near anything comes.
            SolverTimeout: Whether anything meets it is not known.
        """
        limits = self.limits_of(budget)
        try:
            solutions = self.solve(budget)
        except SolverTimeout as error:
            raise SolverTimeout(f"budget {budget}: {error}") from None
        if solutions:
            if all(self.facts.base[q] <= limit for q, limit in limits.items()):
                has = ", ".join(words(q, self.facts.base[q]) for q in limits)
                return f"the budget {budget} limits nothing: the baseline has {has} already"
            return ""
        near, alone = [], len(limits) > 1
        for quantity, limit in limits.items():
            cheapest = least_cost(self.program({}), quantity)
            alone = alone and cheapest is not None
            if cheapest:
                cost = self.costs(cheapest)[0].get(quantity, math.nan)
                share = 100 * (cost / self.facts.base[quantity] - 1)
                alone = alone and cost <= limit * (1 + _TOLERANCE)
                near.append(
                    f"the least is {words(quantity, cost)} ({share:+.1f}%), the budget {words(quantity, limit)}"
                )
        each = "; each can be met alone, but not together" if alone else ""
        raise SpaceError(f"no variant meets the budget {budget}: {'; '.join(near)}{each}")


def words(quantity: str, value: float) -> str:
    """Return a cost with its unit."""
    number = f"{value / 1e6:.3f}M" if quantity == "params" else f"{value:.2f}"
    return f"{number} {QUANTITIES[quantity]}"


def swaps_apart(space: SearchSpace) -> int:
    """Return in how many slots solutions differ: a fifth, rounded up."""
    return max(1, math.ceil(len(space.active) / 5))
