"""What to try next: the baseline, every swap alone, then what a sampler chooses.

What is proposed depends only on the study's seed and on what is finished or under way, so a search that was stopped
goes on as if it had not been. Nothing is proposed twice, and nothing that the space forbids.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from nas.samplers import AUTO, find_sampler
from nas.samplers.history import History
from nas.space.search_space import SearchSpace, key_of
from nas.study.objective import Goal
from nas.study.trial import Trial


def propose(
    space: SearchSpace,
    trials: Sequence[Trial],
    *,
    seed: int,
    floor: float,
    error: float | None = None,
    sampler: str = AUTO,
    goal: Goal | None = None,
) -> dict[str, str] | None:
    """Return what to try next, or None when every allowed variant has been tried.

    Args:
        space: What may be tried.
        trials: What has been.
        seed: Of the study; with the trials so far it decides the answer.
        floor: As in `nas.ranking.rank.rank`.
        error: Standard deviation of one score, where a calibration says.
        sampler: One of `nas.samplers.SAMPLERS`, or ``auto``.
        goal: What the study looks for; by default mAP per GFLOP.
    """
    history = History(space, trials, seed, floor, error, goal or Goal())
    chosen = find_sampler(sampler)
    for assignment in [space.baseline(), *(space.single_swaps() if chosen.singles_first else [])]:
        if key_of(assignment) not in history.known:
            return assignment
    return chosen.ask(history) or history.any_new(random.Random(history.drawn))
