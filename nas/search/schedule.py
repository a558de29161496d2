"""What a study owes: the runs that follow from what was asked for and what is finished, without any new proposal.

A run is one variant under one seed. Which ones are owed depends on the finished ones alone, so a search that was killed
goes on as if it had not been, and several processes could share them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nas.ranking.race import Rules, contenders, next_round
from nas.ranking.rank import rank_trials
from nas.ranking.replicates import group_by_variant
from nas.space.variant import Variant
from nas.study.budget import survivor_count
from nas.study.trial import Trial


@dataclass(frozen=True)
class Job:
    """A run that is to be made.

    Attributes:
        assignment: Slot key to label, as the space has them.
        seed: Of everything random in it.
        stage: Why.
        fidelity: As `nas.study.trial.Trial.fidelity`.
        distil_with: Variants that run under the same seed, so that their swaps are distilled at once; empty in
            the screening, where that is the whole space.
    """

    assignment: Mapping[str, str]
    seed: int
    stage: Literal["screening", "promotion", "confirmation", "baseline"] = "screening"
    distil_with: tuple[Variant, ...] = ()
    fidelity: str = ""


def further_seeds(trials: Sequence[Trial], rules: Rules) -> Iterator[Job]:
    """Return the runs that variants of the screening still lack: those of its further seeds.

    A variant that failed under one of them gets no others.
    """
    seeds = rules.seeds(rules.screened)
    for runs in group_by_variant(trials).values():
        done = {t.seed for t in runs if t.status == "done"}
        if done and not any(t.status == "failed" and t.spent and t.seed in seeds for t in runs):
            busy = {t.seed for t in runs if t.status == "running"}
            first = runs[0]
            missing = (seed for seed in seeds if seed not in done | busy)
            yield from (Job(first.assignment, seed, fidelity=first.fidelity) for seed in missing)


def promoted(below: Sequence[Trial], rules: Rules, eta: int) -> list[Trial]:
    """Return what goes on to the next rung, by a trial each: the baseline, and the best of a rung that is complete.

    Args:
        below: Trials of that rung.
        rules: With the goal that it is ranked by.
        eta: Of how many variants one goes on.
    """
    ranked = [row.trial for row in rank_trials(below, rules.floor, rules.goal, rules.prior)]
    others = [t for t in ranked if not t.variant.is_baseline]
    return [*(t for t in ranked if t.variant.is_baseline), *others[: survivor_count(len(others), eta)]]


def promotions(going: Sequence[Trial], here: Sequence[Trial], rules: Rules, fidelity: str) -> Iterator[Job]:
    """Return the runs that a rung lacks.

    Args:
        going: What goes on to it, as `promoted`.
        here: Its trials.
        rules: Of the study.
        fidelity: Of the rung.
    """
    settled = {t.variant for t in here if t.spent or t.status == "running"}
    yield from (
        Job(t.assignment, rules.first, "promotion", fidelity=fidelity) for t in going if t.variant not in settled
    )
    yield from further_seeds(here, rules)


def confirmations(trials: Sequence[Trial], rules: Rules) -> Iterator[Job]:
    """Return the runs that the race is waiting for; the screening has to be over."""
    found = next_round(trials, rules) if rules.confirm.top else None
    if found is None:
        return
    assignments = {t.variant: t.assignment for t in trials}
    busy = {(t.variant, t.seed) for t in trials if t.status == "running"}
    for variant in found.missing:
        if (variant, found.seed) not in busy:
            yield Job(assignments[variant], found.seed, "confirmation", found.live)


def confirmation_progress(trials: Sequence[Trial], rules: Rules) -> tuple[int, int]:
    """Return how many runs of the confirmation are made, and how many it takes unless some are dropped."""
    racing = contenders(trials, rules)
    further = rules.seeds(2 * rules.confirm.seeds)[rules.screened :]
    made = sum(t.spent and t.seed in further and (t.variant in racing or t.variant.is_baseline) for t in trials)
    return made, (len(racing) + 1) * max(0, rules.confirm.seeds - rules.screened)


def baseline_seeds(trials: Sequence[Trial], rules: Rules, count: int) -> Iterator[Job]:
    """Return the runs of the baseline that it lacks to have so many seeds."""
    base = next((runs for variant, runs in group_by_variant(trials).items() if variant.is_baseline), [])
    there = {t.seed for t in base if t.spent or t.status == "running"}
    for seed in rules.seeds(count):
        if base and seed not in there:
            yield Job(base[0].assignment, seed, "baseline")
