"""Propose the next variant: the baseline, each single swap, then the choice of a sampler.

A proposal depends only on the study's seed and its finished and running trials, so a search that was stopped resumes
as if it had not been. No variant is proposed twice, and none that the space forbids.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from nas.samplers import AUTO, find_sampler
from nas.samplers.history import History
from nas.solver.facts import SwapFacts
from nas.solver.solutions import Count
from nas.space.search_space import Assignment, SearchSpace, key_of
from nas.study.objective import Budget, Goal
from nas.study.trial import Trial


def propose_next(
    space: SearchSpace,
    trials: Sequence[Trial],
    *,
    seed: int,
    floor: float,
    error: float | None = None,
    sampler: str = AUTO,
    goal: Goal | None = None,
    among: Sequence[Assignment] | None = None,
    budgets: tuple[Budget, ...] = (),
    facts: SwapFacts | None = None,
    count: Count | None = None,
) -> dict[str, str] | None:
    """Return the next assignment, or None when all allowed ones have been tried.

    Args:
        space: As in `History`, like all others but `sampler`.
        trials: The trials so far.
        seed: Of the study.
        floor: As in `nas.ranking.rank.rank_trials`.
        error: Standard deviation of one score.
        sampler: One of `nas.samplers.SAMPLERS`, or ``auto``.
        goal: By default mAP per GFLOP.
        among: The only assignments that may be proposed.
        budgets: What variants may cost; ``auto`` is the exact solver then.
        facts: Output scores and costs of the single swaps.
        count: Counts the costs of a variant.
    """
    history = History(space, trials, seed, floor, error, goal or Goal(), among, budgets, facts or SwapFacts(), count)
    baseline, chosen = space.baseline(), find_sampler(sampler, budgeted=bool(budgets))
    if key_of(baseline) not in history.known:
        return baseline
    singles_first = chosen.singles_first and not (chosen.takes_scores and history.facts.width)
    for assignment in space.single_swaps() if singles_first else ():
        if history.is_new(assignment):
            return assignment
    return chosen.ask(history) or history.any_new(random.Random(history.drawn))
