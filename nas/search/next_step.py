"""Whose turn it is: what a worker does next, by what the study holds and nothing else.

Several workers ask one after the other (`nas.study.leases`), each of them seeing what the others are trying. So a
search that was stopped goes on as if it had not been, and one worker more or less changes nothing but the time it
takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nas.ranking.race import Rules, contenders
from nas.ranking.replicates import group_by_variant, pool_replicates
from nas.samplers.limits import is_infeasible, raise_infeasible
from nas.samplers.propose import propose_next
from nas.search.schedule import Job, confirmation_progress, confirmations, further_seeds, promoted, promotions
from nas.space.search_space import Assignment, SearchSpace
from nas.study.settings import PER_SEED, Settings
from nas.study.trial import Trial, variants_spent

_MOST_REJECTED = 200
"""Variants over the limits in a row after which no further ones are looked for."""


@dataclass(frozen=True)
class Step:
    """What a worker does next.

    Attributes:
        job: A run that it is to make; None if there is none now.
        position: Which one that is, and `target` of how many.
        over: Whether there will be none any more, however the runs end that others are making.
        note: What a reader should know once about the stage of the search.
    """

    job: Job | None = None
    position: int = 0
    target: int = 0
    over: bool = False
    note: str = ""


def choose_step(
    runs: Sequence[Trial],
    space: SearchSpace,
    settings: Settings,
    rules: Rules,
    target: int,
    among: Sequence[Assignment] | None = None,
) -> Step:
    """Return what is to be done next: the screening, rung by rung where there are several, the confirmation, nothing.

    Args:
        runs: All of the study, with those that are being made.
        space: What may be tried.
        settings: The study's.
        rules: What further seeds go by, at the study's own recipe.
        target: How many variants are asked for.
        among: As `nas.samplers.history.History.among`.

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
        found = _variant(screened, space, settings.at(first), lowest, among)
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
            f"seeds, {rules.confirm.seeds} in all ({most - made} trainings, or fewer if the order shows sooner)"
        )
        if settings.baselines == PER_SEED:
            note += f"; each further seed has a baseline of its own, trained for {settings.recipe.base_epochs} epochs"
        return Step(job, made + 1, max(made + 1, most), note=_joined(ended, note))
    return Step(over=not any(t.status == "running" for t in runs), note=ended)


def _climb(
    runs: Sequence[Trial], settings: Settings, rules: Rules
) -> Iterator[tuple[str, Rules, list[Trial], list[Trial]]]:
    """Yield every rung from the lowest: fidelity, what it is ranked by, its trials, and what has come up to it."""
    going: list[Trial] = []
    for fidelity in settings.fidelities:
        at = settings.at(fidelity)
        ranked_by = replace(rules, goal=at.goal, prior=at.prior)
        here = [t for t in runs if t.fidelity == fidelity]
        yield fidelity, ranked_by, here, going
        if fidelity:
            going = promoted(here, ranked_by, settings.eta)


def is_complete(runs: Sequence[Trial], settings: Settings, rules: Rules) -> bool:
    """Whether what has been screened has also got all that follows from it: seeds, rungs and confirmation."""
    if any(t.status == "running" for t in runs):
        return False
    here: list[Trial] = []
    for fidelity, at, here, going in _climb(runs, settings, rules):
        if next(promotions(going, here, at, fidelity), None):
            return False
    return next(confirmations(here, rules), None) is None


def _under_way(trials: Sequence[Trial], rules: Rules) -> bool:
    """Whether a run of the screening is being made."""
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
) -> Job | str:
    """Return the run of another variant, or why there is none, with a place for how many have been tried."""
    if again := next(interrupted_runs(trials, rules), None):
        return again
    rejected = _rejected_in_a_row(trials)
    if rejected >= _MOST_REJECTED or (rejected and is_infeasible(space, trials)):
        return "the variants that are left seem to be over the limits of the space: the search ends here"
    assignment = propose_next(
        space,
        pool_replicates(trials),
        seed=settings.seed,
        floor=settings.floor,
        error=settings.error,
        sampler=settings.sampler,
        goal=settings.goal,
        among=among,
    )
    if assignment is None:
        return "every variant of the space has been tried: the search ends after {} trials"
    return Job(assignment, rules.first)


def interrupted_runs(trials: Sequence[Trial], rules: Rules) -> Iterator[Job]:
    """Return the runs of the screening that were cut short, to be made again."""
    for runs in group_by_variant(trials).values():
        if all(t.status == "interrupted" for t in runs):
            yield Job(runs[-1].assignment, rules.first)


def _rejected_in_a_row(trials: Sequence[Trial]) -> int:
    """Return how many variants have been over a limit since one was not."""
    count = 0
    for trial in reversed(trials):
        if trial.spent:
            break
        count += trial.status == "rejected"
    return count
