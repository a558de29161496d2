"""Whose turn it is: what a worker does next, by what the study holds and nothing else.

Several workers ask one after the other (`nas.lease`), each of them seeing what the others are trying. So a search that
was stopped goes on as if it had not been, and one worker more or less changes nothing but the time it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nas.gate import no_variant_left, out_of_reach
from nas.propose import propose
from nas.race import Rules, contenders
from nas.schedule import Job, confirmation_runs, confirming, owed
from nas.seeds import runs_of, together, variants_spent
from nas.settings import Settings
from nas.space import SearchSpace
from nas.trial import Trial

_MOST_REJECTED = 200
"""Variants over the limits in a row after which no further ones are looked for."""


@dataclass(frozen=True)
class Turn:
    """What a worker does next.

    Attributes:
        job: A run that it is to make; None if there is none now.
        position: Which one that is, and `target` of how many.
        over: Whether there will be none any more, however the runs end that others are making.
        running: How many runs are being made, where there is none to make now.
        note: What a reader should know once about the stage of the search.
    """

    job: Job | None = None
    position: int = 0
    target: int = 0
    over: bool = False
    running: int = 0
    note: str = ""


def next_turn(trials: Sequence[Trial], space: SearchSpace, settings: Settings, rules: Rules, target: int) -> Turn:
    """Return what is to be done next: a run of the screening, then one of the confirmation, then nothing.

    Args:
        trials: Of the study, with those that are running.
        space: What may be tried.
        settings: The study's.
        rules: What further seeds go by.
        target: How many variants are asked for.

    Raises:
        StudyError: No variant is within the space's limits.
    """
    spent = variants_spent(trials)
    running = sum(t.status == "running" for t in trials)
    if job := next(owed(trials, rules), None):
        return Turn(job, spent, target)
    ended = ""
    if spent < target:
        found = _variant(trials, space, settings, rules)
        if isinstance(found, Job):
            return Turn(found, spent + 1, target)
        ended = found
    if any(t.status == "running" and t.seed < rules.first + rules.screened for t in trials):
        return Turn(running=running)
    if ended:
        no_variant_left(space, trials)
        ended = ended.format(spent)
    if job := next(confirming(trials, rules), None):
        made, most = confirmation_runs(trials, rules)
        note = (
            f"confirming: the first {len(contenders(trials, rules))} of the ranking and the baseline get further "
            f"seeds, {rules.confirm.seeds} in all ({most - made} trainings, or fewer if the order shows sooner)"
        )
        return Turn(job, made + 1, max(made + 1, most), note=f"{ended}\n{note}" if ended else note)
    return Turn(over=not running, running=running, note=ended)


def _variant(trials: Sequence[Trial], space: SearchSpace, settings: Settings, rules: Rules) -> Job | str:
    """Return the run of another variant, or why there is none, with a place for how many have been tried."""
    if again := next(cut_short(trials, rules), None):
        return again
    rejected = _rejected_in_a_row(trials)
    if rejected >= _MOST_REJECTED or (rejected and out_of_reach(space, trials)):
        return "the variants that are left seem to be over the limits of the space: the search ends here"
    assignment = propose(
        space,
        together(trials),
        seed=settings.seed,
        floor=settings.floor,
        error=settings.error,
        sampler=settings.sampler,
        goal=settings.goal,
    )
    if assignment is None:
        return "every variant of the space has been tried: the search ends after {} trials"
    return Job(assignment, rules.first)


def cut_short(trials: Sequence[Trial], rules: Rules) -> Iterator[Job]:
    """Return the runs of the screening that were cut short, to be made again."""
    for runs in runs_of(trials).values():
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
