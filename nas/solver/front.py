"""The front of a study: for each budget the best predicted and the best measured variant, and the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nas.errors import SpaceError, StudyError
from nas.ranking.additive import Estimate
from nas.ranking.rank import RankRow, ranking_of
from nas.ranking.yardstick import measured_yardsticks, widest_measured
from nas.solver.facts import completed, facts_of_study
from nas.solver.latencies import with_swap_latencies
from nas.solver.prediction import Prediction
from nas.solver.solutions import Count, Solution, Solver, swaps_apart
from nas.space.choice import KEEP, NONE
from nas.space.search_space import Assignment, SearchSpace, key_of
from nas.space.variant import describe_swaps
from nas.study.objective import QUANTITIES, Budget, costs_of
from nas.study.study import Study

BASELINE, PREDICTED, MEASURED, YARDSTICK = "baseline", "best predicted", "best measured", "yardstick"
"""Kinds of rows."""
_Z = 1.96
"""Half a 95 % interval in standard deviations."""


@dataclass(frozen=True)
class Difference:
    """A difference in mAP50-95 to the baseline, with its 95 % interval where that is known."""

    mean: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def predicted(cls, estimate: Estimate) -> Difference:
        """Return a prediction with its interval."""
        return cls(estimate.mean, estimate.mean - _Z * estimate.sd, estimate.mean + _Z * estimate.sd)


@dataclass(frozen=True)
class FrontRow:
    """One variant of a front.

    Attributes:
        kind: `BASELINE`, `PREDICTED`, `MEASURED`, or `YARDSTICK`: what a user would do instead.
        budget: The budget that it is for; empty for the baseline.
        variant: The variant's id.
        swaps: What it changes, in one line.
        costs: Its costs by quantity (`nas.study.objective.QUANTITIES`).
        estimated: The quantities whose costs are sums over swaps, not counted.
        predicted: What the study predicts of it; None without a prediction.
        measured: What was measured of it; None before it is trained.
        seeds: Number of seeds that were measured.
        verdict: As `nas.ranking.rank.RankRow.verdict`; empty before it is trained.
        note: Why there is no variant; else empty.
    """

    kind: str
    budget: str = ""
    variant: str = ""
    swaps: str = ""
    costs: Mapping[str, float] = field(default_factory=dict)
    estimated: tuple[str, ...] = ()
    predicted: Difference | None = None
    measured: Difference | None = None
    seeds: int = 0
    verdict: str = ""
    note: str = ""

    def to_plain(self, base: Mapping[str, float], base_map: float) -> dict[str, Any]:
        """Return plain values: costs, their changes against the baseline in percent, and mAP50-95 with intervals."""
        row: dict[str, Any] = {"budget": self.budget, "kind": self.kind, "variant": self.variant, "swaps": self.swaps}
        for quantity in QUANTITIES:
            cost = self.costs.get(quantity)
            row[quantity] = cost
            share = None if cost is None or quantity not in base else 100 * (cost / base[quantity] - 1)
            row[f"delta_{quantity}_percent"] = share
        for name, value in (("predicted", self.predicted), ("measured", self.measured)):
            row[f"{name}_map50_95"] = None if value is None else base_map + value.mean
            row[f"{name}_delta"] = None if value is None else value.mean
            row[f"{name}_low"] = None if value is None else value.low
            row[f"{name}_high"] = None if value is None else value.high
        more = {"seeds": self.seeds, "verdict": self.verdict, "estimated": " ".join(self.estimated), "note": self.note}
        return row | more


@dataclass(frozen=True)
class Front:
    """The rows of a front, the baseline first.

    Attributes:
        base: Costs of the baseline.
        base_map: mAP50-95 of the baseline.
        rows: The rows.
        scored: Whether the study has output scores of its swaps.
        trained: Number of variants, the baseline among them, that the prediction has learnt from.
    """

    base: Mapping[str, float]
    base_map: float
    rows: tuple[FrontRow, ...]
    scored: bool
    trained: int

    def to_plain(self) -> list[dict[str, Any]]:
        """Return the rows as plain values."""
        return [row.to_plain(self.base, self.base_map) for row in self.rows]


def front_of(
    study: Study, budgets: Sequence[Budget], *, count: Count | None = None, top: int = 1, fidelity: str = ""
) -> Front:
    """Return the front of a study, by what it holds.

    Args:
        study: The study.
        budgets: What variants may cost.
        count: Counts the costs of variants that the study has none of; None takes sums over swaps.
        top: Number of predicted variants for each budget; they differ in at least a fifth of the slots.
        fidelity: That of its trials.

    Raises:
        StudyError: It has no finished baseline.
        OptionError: A budget is in a unit that it has not measured.
    """
    space, trials = study.settings.space, study.trials(fidelity)
    ranked = ranking_of(study, fidelity)
    base = next((row for row in ranked if row.trial.variant.is_baseline), None)
    if base is None:
        raise StudyError(
            f"the study {study.location.name!r} has no finished baseline, to which budgets and losses relate: "
            f"`nas search --study {study.location.name}` trains it"
        )
    facts = completed(facts_of_study(study), space, trials)
    facts = with_swap_latencies(facts, space, study.latencies.ms)
    in_order = sorted((row.trial for row in ranked), key=lambda trial: trial.number)
    known = [(dict(trial.assignment), trial.map) for trial in in_order]
    seeds = [trial.seeds for trial in in_order]
    prediction = Prediction(space, facts, known, study.settings.at(fidelity).error, seeds)
    solver = Solver(space, facts, prediction, trials, count)
    by_key = {key_of(row.trial.assignment): row for row in ranked}
    rows = [_measured(BASELINE, "", base, None)]
    yardsticks = [] if fidelity else measured_yardsticks(study)
    for budget in budgets:
        rows += _of_budget(budget, solver, ranked, by_key, top)
        if (limit := solver.limits_of(budget).get("gflops")) and (found := widest_measured(yardsticks, limit)):
            rows.append(_measured(YARDSTICK, str(budget), found, None))
    return Front(facts.base, base.trial.map, tuple(rows), facts.width > 0, len(known))


def _of_budget(
    budget: Budget, solver: Solver, ranked: Sequence[RankRow], by_key: Mapping[Any, RankRow], top: int
) -> list[FrontRow]:
    """Return the best predicted variants of a budget, and the best measured one."""
    limits = solver.limits_of(budget)
    try:
        note = solver.check(budget)
        solutions = solver.solve(budget, top, swaps_apart(solver.space))
    except SpaceError as error:
        return [FrontRow(PREDICTED, str(budget), note=str(error))]
    rows = [
        _solution(str(budget), solution, solver.space, by_key.get(key_of(solution.assignment)), note)
        for solution in solutions
    ]
    within = [
        row for row in ranked if all(costs_of(row.trial).get(q, math.inf) <= limit for q, limit in limits.items())
    ]
    if within:
        best = max(within, key=lambda row: row.trial.map)
        if best.trial.variant.id not in {row.variant for row in rows}:
            rows.append(_measured(MEASURED, str(budget), best, solver.prediction.of([best.trial.assignment])[0]))
    return rows


def _solution(budget: str, solution: Solution, space: SearchSpace, ranked: RankRow | None, note: str) -> FrontRow:
    return FrontRow(
        kind=PREDICTED,
        budget=budget,
        variant=(ranked.trial.variant if ranked else space.variant(solution.assignment)).id,
        swaps=_described(solution.assignment),
        costs=solution.costs,
        estimated=tuple(sorted(solution.estimated)),
        predicted=Difference.predicted(solution.predicted),
        measured=_difference(ranked),
        seeds=ranked.seeds if ranked else 0,
        verdict=ranked.verdict if ranked else "",
        note=note,
    )


def _measured(kind: str, budget: str, ranked: RankRow, predicted: Estimate | None) -> FrontRow:
    return FrontRow(
        kind=kind,
        budget=budget,
        variant=ranked.trial.variant.id,
        swaps=ranked.trial.describe(),
        costs=costs_of(ranked.trial),
        predicted=Difference.predicted(predicted) if predicted else None,
        measured=_difference(ranked),
        seeds=ranked.seeds,
        verdict=ranked.verdict,
    )


def _difference(ranked: RankRow | None) -> Difference | None:
    """Return what was measured of a variant."""
    if ranked is None or ranked.delta_map is None:
        return None
    return Difference(ranked.delta_map, *(ranked.interval or (None, None)))


def _described(assignment: Assignment) -> str:
    """Return the swaps of an assignment in one line, as `nas.study.trial.Trial.describe`."""
    return describe_swaps((k, v) for k, v in sorted(assignment.items()) if v not in (KEEP, NONE))
