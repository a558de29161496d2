"""The search: ask, gate, train, tell; and start again where it stopped.

What comes next is the affair of `nas.propose` (variants) and `nas.schedule` (their seeds): it depends only on the
study's seed and on what is finished, so a search that was stopped goes on as if it had not been. A variant is never
trained twice under one seed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from nas.errors import StudyError
from nas.gate import no_variant_left, out_of_reach
from nas.latency import LatencyMeter
from nas.propose import propose
from nas.race import Rules, contenders
from nas.rank import baseline_of
from nas.runner import Observer, Runner, scratch_of
from nas.schedule import Job, baseline_seeds, confirmation_runs, confirming, owed
from nas.seeds import together, variants_spent
from nas.study import Study
from nas.table import Replay
from nas.trial import Trial
from nas.weights import Worker

_MOST_REJECTED = 200
"""Variants over the limits in a row after which no further ones are looked for."""


@dataclass(frozen=True)
class Plan:
    """How many variants a search will try.

    Attributes:
        spent: Variants that count so far.
        target: Variants that the study will have at the end.
        finishing: Whether this goes on with a request that was cut short.
    """

    spent: int
    target: int
    finishing: bool


def plan(study: Study, trials: int | None) -> Plan:
    """Settle what an earlier search left open, and return how far this one will go; the caller holds the lock.

    A request that was cut short is finished by giving it again, or by giving none; any other number is that many more.
    Without a number and with nothing left to do the target is what has been spent.
    """
    study.give_up_stale()
    there = study.trials()
    spent = variants_spent(there)
    open_request = spent < study.target or _left(there, rules_of(study))
    if trials is None or (open_request and trials == study.request):
        return Plan(spent, max(spent, study.target), finishing=True)
    return Plan(spent, spent + trials, finishing=False)


def search(
    study: Study,
    todo: Plan,
    data: Path,
    worker: Worker,
    observer: Observer,
    *,
    replay: Replay | None = None,
    meter: LatencyMeter | None = None,
) -> list[Trial]:
    """Screen until the plan is fulfilled or the space is exhausted, confirm, and return all trials of the study.

    Args:
        study: Where they go; the caller holds its lock.
        todo: From `plan`.
        data: A data.yaml that the host can read as it is.
        worker: Trains the proxies.
        observer: Told of everything.
        replay: Answers in place of building and training.
        meter: Measures latencies where the study wants them.

    Raises:
        StudyError: The baseline fails: nothing could be compared with it; or no variant is within the space's limits.
    """
    shutil.rmtree(scratch_of(study), ignore_errors=True)
    study.ask_for(todo.target, todo.target - todo.spent if not todo.finishing else study.request)
    runner = Runner(study, data, worker, observer, replay, meter)
    runner.prepare()
    rules = rules_of(study)
    _screen(runner, rules, todo)
    runner.settle_doubtful("failed")
    _confirm(runner, rules)
    while runner.doubtful:  # the race was waiting for these
        runner.settle_doubtful("failed")
        _confirm(runner, rules)
    shutil.rmtree(scratch_of(study), ignore_errors=True)
    return study.trials()


def rules_of(study: Study) -> Rules:
    """Return what a study's further seeds go by."""
    s = study.settings
    return Rules(study.confirm, s.seed, study.seeds, s.floor, s.prior, s.goal)


def is_finished(study: Study, todo: Plan) -> bool:
    """Whether nothing is left of what was asked for."""
    return todo.spent >= todo.target and not _left(study.trials(), rules_of(study))


def _left(trials: list[Trial], rules: Rules) -> bool:
    """Whether variants that have been tried are still to get seeds."""
    return any(True for _ in owed(trials, rules)) or any(True for _ in confirming(trials, rules))


def train_baseline(study: Study, count: int, data: Path, worker: Worker, observer: Observer) -> None:
    """Train the baseline until it has so many seeds; the caller holds the study's lock.

    Raises:
        StudyError: It fails, or the study has no baseline yet.
    """
    study.give_up_stale()
    if baseline_of(study.trials()) is None:
        raise StudyError(
            f"the baseline of the study {study.place.name!r} has not finished: `nas search --study {study.place.name}` "
            "trains it first"
        )
    rules = rules_of(study)
    runner = Runner(study, data, worker, observer)
    while job := next(baseline_seeds(study.trials(), rules, count), None):
        runner.run(job, job.seed - rules.first + 1, count)
    shutil.rmtree(scratch_of(study), ignore_errors=True)


def _screen(runner: Runner, rules: Rules, todo: Plan) -> None:
    """Try variants, each under the screening's seeds, until there are as many as the plan says."""
    settings, rejected = runner.settings, 0
    while True:
        trials = runner.study.trials()
        spent = variants_spent(trials)
        if job := next(owed(trials, rules), None):
            runner.run(job, spent, todo.target)
            continue
        if spent >= todo.target:
            return None
        if rejected >= _MOST_REJECTED or (rejected and out_of_reach(runner.space, trials)):
            no_variant_left(runner.space, trials)
            return runner.observer.note(
                "the variants that are left seem to be over the limits of the space: the search ends here"
            )
        assignment = propose(
            runner.space,
            together(trials),
            seed=settings.seed,
            floor=settings.floor,
            error=settings.error,
            sampler=settings.sampler,
            goal=settings.goal,
        )
        if assignment is None:
            no_variant_left(runner.space, trials)
            return runner.observer.note(
                f"every variant of the space has been tried: the search ends after {spent} trials"
            )
        trial = runner.run(Job(assignment, rules.first), spent + 1, todo.target)
        rejected = rejected + 1 if trial.status == "rejected" else 0


def _confirm(runner: Runner, rules: Rules) -> None:
    """Train the first of the ranking and the baseline under further seeds, as far as that tells anything."""
    told = False
    while job := next(confirming(trials := runner.study.trials(), rules), None):
        made, most = confirmation_runs(trials, rules)
        if not told:
            told = True
            runner.observer.note(
                f"confirming: the first {len(contenders(trials, rules))} of the ranking and the baseline get further "
                f"seeds, {rules.confirm.seeds} in all ({most - made} trainings, or fewer if the order shows sooner)"
            )
        runner.run(job, made + 1, max(made + 1, most))
