"""Exact solutions under budgets: the sampler that knows the output scores of the swaps before anything is trained.

Budgets take turns. For each, a few of the best predicted combinations that differ in at least a fifth of the slots are
solved for, and the one of the highest expected improvement on the best trained variant within the budget is proposed.
What is trained corrects the prediction, and the next proposal is solved anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import norm

from nas.errors import BuildError, SolverTimeout
from nas.ranking.additive import Estimate
from nas.samplers.history import History
from nas.solver.facts import SwapFacts, completed
from nas.solver.prediction import Prediction
from nas.solver.solutions import Solution, Solver, swaps_apart
from nas.space.search_space import Assignment
from nas.study.objective import Budget, costs_of

_POOL = 5
"""Solutions that one proposal is chosen from."""
_LESS = (-0.1, -0.2, -0.3, -0.4)
"""Budgets, relative to the baseline, of a search that is given none and does not look for mAP alone."""


def ask(history: History) -> dict[str, str] | None:
    """Return the new variant of the highest expected improvement among exact solutions for the budget whose turn it is.

    None without a baseline, or where the solver finds no new variant.

    Raises:
        SolverTimeout: It ran out of time for a budget, and found none for the others.
    """
    if history.base is None:
        return None
    facts = completed(history.facts, history.space, history.trials)
    known = [(dict(t.assignment), t.map) for t in history.done]
    prediction = Prediction(history.space, facts, known, history.error, [t.seeds for t in history.done])
    solver = Solver(history.space, facts, prediction, history.trials, history.count)
    budgets = _budgets(history, facts)
    turn = len(history.known) % len(budgets)
    timeout: SolverTimeout | None = None
    for budget in (*budgets[turn:], *budgets[:turn]):
        try:
            found = _best(history, solver, budget)
        except SolverTimeout as error:
            timeout, found = error, None
        if found:
            return found
    if timeout:
        raise timeout
    return None


def _budgets(history: History, facts: SwapFacts) -> Sequence[Budget | None]:
    """Return the budgets that take turns; None is no budget."""
    if history.budgets:
        return history.budgets
    if history.goal.objective == "map":
        return (None,)
    quantity = "latency_ms" if history.goal.needs_latency and "latency_ms" in facts.base else "gflops"
    return (*(Budget(((quantity, less, True),)) for less in _LESS), None)


def _best(history: History, solver: Solver, budget: Budget | None) -> dict[str, str] | None:
    """Return the new variant of the highest expected improvement within a budget; None if there is none."""
    limits = solver.limits_of(budget)
    within = [t for t in history.done if all(costs_of(t).get(q, math.inf) <= limit for q, limit in limits.items())]
    expected = solver.prediction.of([t.assignment for t in within]) if within else []
    best = max((e.mean for e in expected), default=-math.inf)
    pool = _pool(history, solver, budget) if history.among is None else _among(history, solver, limits)
    fresh = [s for s in pool if history.is_new(s.assignment)]
    if not fresh:
        return None
    return dict(max(fresh, key=lambda s: (_improvement(s.predicted, best), s.predicted.mean)).assignment)


def _pool(history: History, solver: Solver, budget: Budget | None) -> list[Solution]:
    """Return new solutions of a budget that are apart from each other, and from those that are being trained."""
    least = swaps_apart(history.space)
    running = [(t.assignment, least) for t in history.trials if t.status == "running"]
    known = [(dict(key), 1) for key in history.known]
    return solver.solve(budget, _POOL, least, [*known, *running]) or solver.solve(budget, 1, 1, known)


def _among(history: History, solver: Solver, limits: dict[str, float]) -> list[Solution]:
    """Return the new variants of a table within limits, as solutions."""
    found: list[tuple[Assignment, dict[str, float]]] = []
    for assignment in history.assignments():
        if history.is_new(assignment):
            try:
                costs, _ = solver.costs(assignment)
            except BuildError:
                continue
            if all(costs.get(quantity, math.inf) <= limit for quantity, limit in limits.items()):
                found.append((assignment, costs))
    predicted = solver.prediction.of([assignment for assignment, _ in found]) if found else []
    return [Solution(a, costs, frozenset(), p) for (a, costs), p in zip(found, predicted, strict=True)]


def _improvement(predicted: Estimate, best: float) -> float:
    """Return the expected improvement of a variant on the best so far; the mean where there is none yet."""
    if not math.isfinite(best):
        return predicted.mean
    z = (predicted.mean - best) / predicted.sd
    return float(predicted.sd * (z * norm.cdf(z) + norm.pdf(z)))
