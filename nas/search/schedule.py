"""The missing runs of a study: those that follow from the request and the finished trials, without any new proposal.

A run is one variant under one seed. The missing ones depend on stored trials alone, so a search that was killed resumes
as if it had not been, and several processes can share them.
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
    """A run to be made.

    Attributes:
        assignment: Slot key to label, as in the space.
        seed: Seed of everything random in it.
        stage: Stage of the search.
        fidelity: As `nas.study.trial.Trial.fidelity`.
        distil_with: Variants that run under the same seed, whose swaps are distilled in the same job; empty in the
            screening, which distils the whole space.
        yardstick: The yardstick that is run, which is no variant of the space; None for all others.
    """

    assignment: Mapping[str, str]
    seed: int
    stage: Literal["screening", "promotion", "confirmation", "baseline", "yardstick"] = "screening"
    distil_with: tuple[Variant, ...] = ()
    fidelity: str = ""
    yardstick: Variant | None = None


def further_seeds(trials: Sequence[Trial], rules: Rules) -> Iterator[Job]:
    """Yield the missing runs of the screening under its further seeds.

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
    """Return one trial for each variant that is promoted from a complete rung: the baseline, and the best 1/eta.

    Args:
        below: Trials of that rung.
        rules: Rules with the goal that ranks it.
        eta: Halving factor.
    """
    ranked = [row.trial for row in rank_trials(below, rules.floor, rules.goal, rules.prior)]
    others = [t for t in ranked if not t.variant.is_baseline]
    return [*(t for t in ranked if t.variant.is_baseline), *others[: survivor_count(len(others), eta)]]


def promotions(going: Sequence[Trial], here: Sequence[Trial], rules: Rules, fidelity: str) -> Iterator[Job]:
    """Yield the missing runs of a rung.

    Args:
        going: The trials promoted to it, as `promoted`.
        here: Its trials.
        rules: Rules of the study.
        fidelity: Fidelity of the rung.
    """
    settled = {t.variant for t in here if t.spent or t.status == "running"}
    yield from (
        Job(t.assignment, rules.first, "promotion", fidelity=fidelity) for t in going if t.variant not in settled
    )
    yield from further_seeds(here, rules)


def confirmations(trials: Sequence[Trial], rules: Rules) -> Iterator[Job]:
    """Yield the missing runs of the confirmation's current round; the screening has to be complete."""
    found = next_round(trials, rules) if rules.confirm.top else None
    if found is None:
        return
    assignments = {t.variant: t.assignment for t in trials}
    busy = {(t.variant, t.seed) for t in trials if t.status == "running"}
    for variant in found.missing:
        if (variant, found.seed) not in busy:
            yield Job(assignments[variant], found.seed, "confirmation", found.live)


def confirmation_progress(trials: Sequence[Trial], rules: Rules) -> tuple[int, int]:
    """Return the number of finished runs of the confirmation, and the number that it takes if no variant is dropped."""
    racing = contenders(trials, rules)
    further = rules.seeds(2 * rules.confirm.seeds)[rules.screened :]
    made = sum(t.spent and t.seed in further and (t.variant in racing or t.variant.is_baseline) for t in trials)
    return made, (len(racing) + 1) * max(0, rules.confirm.seeds - rules.screened)


def yardstick_seeds(
    wanted: Sequence[Variant], made: Sequence[Trial], trials: Sequence[Trial], rules: Rules
) -> tuple[list[Job], tuple[int, int]]:
    """Return the missing runs of yardsticks, and how many of how many runs are done.

    Each has the seeds of the baseline, at most as many as a confirmed variant: it is compared with others under equal
    seeds. Under a seed all of them are trained before the next, so that a search that is stopped has some of each.

    Args:
        wanted: The yardsticks.
        made: Their trials.
        trials: Of the study, at its own recipe.
        rules: Rules of the study.
    """
    there = {t.seed for t in trials if t.variant.is_baseline and t.status == "done"}
    most = rules.seeds(max(rules.screened, rules.confirm.seeds if rules.confirm.top else 1))
    seeds = [seed for seed in most if seed in there]
    every = [(variant, seed) for seed in seeds for variant in wanted]
    done = {(t.variant, t.seed) for t in made if t.spent}
    busy = {(t.variant, t.seed) for t in made if t.status == "running"}
    missing = [Job({}, seed, "yardstick", yardstick=v) for v, seed in every if (v, seed) not in done | busy]
    return missing, (sum(run in done for run in every), len(every))


def baseline_seeds(trials: Sequence[Trial], rules: Rules, count: int) -> Iterator[Job]:
    """Yield the missing runs of the baseline until it has `count` seeds."""
    base = next((runs for variant, runs in group_by_variant(trials).items() if variant.is_baseline), [])
    there = {t.seed for t in base if t.spent or t.status == "running"}
    for seed in rules.seeds(count):
        if base and seed not in there:
            yield Job(base[0].assignment, seed, "baseline")
