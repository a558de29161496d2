"""Decide a worker's next step, as a pure function of what the study holds.

Workers decide one after the other (`nas.study.leases`), and each sees the running trials of the others. So a search
that was stopped resumes as if it had not been, and the number of workers changes nothing but the time that it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nas.ranking.race import Rules, contenders
from nas.ranking.replicates import group_by_variant, pool_replicates
from nas.samplers.limits import is_infeasible, raise_infeasible
from nas.samplers.propose import propose_next
from nas.search.schedule import (
    Job,
    confirmation_progress,
    confirmations,
    further_seeds,
    promoted,
    promotions,
    yardstick_seeds,
)
from nas.solver.facts import SwapFacts
from nas.solver.solutions import Count
from nas.space.search_space import Assignment, SearchSpace
from nas.space.variant import Variant
from nas.study.settings import PER_SEED, Settings
from nas.study.trial import Trial, variants_spent

_MOST_REJECTED = 200
"""Consecutive variants over a limit after which the search proposes no others."""


@dataclass(frozen=True)
class Step:
    """The next step of a worker.

    Attributes:
        job: The run to make; None if there is none now.
        position: Number of the run, and `target` the number of runs of its stage.
        over: Whether there will be no other run, regardless of how the running ones end.
        note: A message about the stage of the search, to be shown once.
    """

    job: Job | None = None
    position: int = 0
    target: int = 0
    over: bool = False
    note: str = ""


@dataclass(frozen=True)
class Yardsticks:
    """The yardsticks of a study.

    Attributes:
        wanted: Those that were requested.
        made: Their trials.
    """

    wanted: tuple[Variant, ...] = ()
    made: tuple[Trial, ...] = ()


def choose_step(
    runs: Sequence[Trial],
    space: SearchSpace,
    settings: Settings,
    rules: Rules,
    target: int,
    among: Sequence[Assignment] | None = None,
    facts: SwapFacts | None = None,
    count: Count | None = None,
    yardsticks: Yardsticks | None = None,
) -> Step:
    """Return the next step: of the screening, of each rung in turn, of the confirmation, of the yardsticks, or none.

    Args:
        runs: All trials of the study, including the running ones.
        space: The space of variants that can be proposed.
        settings: Settings of the study.
        rules: Rules for further seeds, at the study's own recipe.
        target: Number of variants that were requested.
        among: As `nas.samplers.history.History.among`; so are `facts` and `count`.
        facts: What is known of single swaps.
        count: Counts the costs of a variant.
        yardsticks: The yardsticks that were requested.

    Raises:
        SpaceError: No variant is within the space's limits.
    """
    rungs = _climb(runs, settings, rules)
    first, lowest, screened, _ = next(rungs)
    spent = variants_spent(screened)
    if job := next(further_seeds(screened, lowest), None):
        return Step(job, spent, target)
    ended = ""
    if spent < target:
        known = facts or SwapFacts()
        found = _variant(screened, space, settings.at(first), lowest, among, known, count)
        if isinstance(found, Job):
            return Step(replace(found, fidelity=first), spent + 1, target)
        ended = found
    if _under_way(screened, rules):
        return Step()
    if ended:
        raise_infeasible(space, screened)
        ended = ended.format(spent)
    for fidelity, at, screened, going in rungs:
        if job := next(promotions(going, screened, at, fidelity), None):
            note = _joined(ended, _rung_words(settings, job, going))
            return Step(job, variants_spent(screened) + 1, len(going), note=note)
        if _under_way(screened, rules):
            return Step()
    if job := next(confirmations(screened, rules), None):
        made, most = confirmation_progress(screened, rules)
        note = (
            f"confirming: the first {len(contenders(screened, rules))} of the ranking and the baseline get further "
            f"seeds, {rules.confirm.seeds} in all ({most - made} trainings, or fewer if the order is clear sooner)"
        )
        if settings.baselines == PER_SEED:
            note += f"; each further seed has its own baseline, trained for {settings.recipe.base_epochs} epochs"
        return Step(job, made + 1, max(made + 1, most), note=_joined(ended, note))
    yardsticks = yardsticks or Yardsticks()
    missing, (made, most) = yardstick_seeds(yardsticks.wanted, yardsticks.made, screened, rules)
    if missing:
        note = (
            f"yardsticks: the baseline pruned uniformly to {len(yardsticks.wanted)} "
            f"width{'s' * (len(yardsticks.wanted) > 1)}, {most - made} trainings"
        )
        return Step(missing[0], made + 1, most, note=_joined(ended, note))
    return Step(over=not any(t.status == "running" for t in (*runs, *yardsticks.made)), note=ended)


def _climb(
    runs: Sequence[Trial], settings: Settings, rules: Rules
) -> Iterator[tuple[str, Rules, list[Trial], list[Trial]]]:
    """Yield each rung from the lowest: fidelity, rules that rank it, its trials, and the trials promoted to it.

    A caller stops at the first rung with missing runs, whose promotions are not final.
    """
    going: list[Trial] = []
    for fidelity in settings.fidelities:
        at = settings.at(fidelity)
        ranked_by = replace(rules, goal=at.goal, prior=at.prior)
        here = [t for t in runs if t.fidelity == fidelity]
        yield fidelity, ranked_by, here, going
        if fidelity:
            going = promoted(here, ranked_by, settings.eta)


def is_complete(runs: Sequence[Trial], settings: Settings, rules: Rules, yardsticks: Yardsticks | None = None) -> bool:
    """Return whether all variants of the screening also have their further seeds, rungs and confirmation.

    The yardsticks that were requested have to be complete too.
    """
    yardsticks = yardsticks or Yardsticks()
    if any(t.status == "running" for t in (*runs, *yardsticks.made)):
        return False
    here: list[Trial] = []
    for fidelity, at, here, going in _climb(runs, settings, rules):
        if next(promotions(going, here, at, fidelity), None):
            return False
    missing, _ = yardstick_seeds(yardsticks.wanted, yardsticks.made, here, rules)
    return not missing and next(confirmations(here, rules), None) is None


def _under_way(trials: Sequence[Trial], rules: Rules) -> bool:
    """Return whether a run of the screening is running."""
    seeds = rules.seeds(rules.screened)
    return any(t.status == "running" and t.seed in seeds for t in trials)


def _joined(*notes: str) -> str:
    return "\n".join(filter(None, notes))


def _rung_words(settings: Settings, job: Job, going: Sequence[Trial]) -> str:
    rung = settings.rung_of(job.fidelity)
    place, count = settings.fidelities.index(job.fidelity) + 1, len(settings.fidelities)
    trained = rung.words if rung else "the study's own recipe"
    others = sum(not t.variant.is_baseline for t in going)
    return f"rung {place} of {count} ({trained}): the first {others} of the rung below, and the baseline"


def _variant(
    trials: Sequence[Trial],
    space: SearchSpace,
    settings: Settings,
    rules: Rules,
    among: Sequence[Assignment] | None,
    facts: SwapFacts,
    count: Count | None,
) -> Job | str:
    """Return a run of a new variant, or a message why there is none; `{}` in it is the number of variants."""
    if again := next(interrupted_runs(trials, rules), None):
        return again
    rejected = _rejected_in_a_row(trials)
    if rejected >= _MOST_REJECTED or (rejected and is_infeasible(space, trials)):
        return "the remaining variants seem to be over the limits of the space: the search ends here"
    assignment = propose_next(
        space,
        pool_replicates(trials),
        seed=settings.seed,
        floor=settings.floor,
        error=settings.error,
        sampler=settings.sampler,
        goal=settings.goal,
        among=among,
        budgets=settings.budgets,
        facts=facts,
        count=count,
    )
    if assignment is None:
        return "every variant of the space has been tried: the search ends after {} trials"
    return Job(assignment, rules.first)


def interrupted_runs(trials: Sequence[Trial], rules: Rules) -> Iterator[Job]:
    """Yield the runs of the screening that were interrupted, to be retried."""
    for runs in group_by_variant(trials).values():
        if all(t.status == "interrupted" for t in runs):
            yield Job(runs[-1].assignment, rules.first)


def _rejected_in_a_row(trials: Sequence[Trial]) -> int:
    """Return how many variants have been over a limit since the last one that was not."""
    count = 0
    for trial in reversed(trials):
        if trial.spent:
            break
        count += trial.status == "rejected"
    return count
