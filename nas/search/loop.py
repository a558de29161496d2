"""The search: look, claim, build, gate, train, tell; and start again where it stopped.

What comes next is the affair of `nas.search.next_step`: it depends only on the study's seed and on what it holds, so a
search that was stopped goes on as if it had not been. A variant is never trained twice under one seed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from nas.errors import STOPPED, StorageError, StudyError
from nas.ranking.race import rules_of
from nas.ranking.rank import baseline_of
from nas.search.next_step import Step, choose_step, is_complete
from nas.search.runner import Runner
from nas.search.schedule import baseline_seeds
from nas.study.leases import LeaseLost
from nas.study.running_trial import RunningTrial
from nas.study.study import Study
from nas.study.trial import Trial
from nas.workers.parallel import run_parallel

_PAUSE_S = 1.0
"""How long a worker waits for others before it looks again."""


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
    """Settle what an earlier search left open, write down what is asked for, and return how far this search will go.

    A request that was cut short is finished by giving it again, or by giving none; any other number is that many more.
    Without a number and with nothing left to do the target is what has been spent.
    """
    with study.leases.claim_lock():
        study.take_over()
        there, target = study.runs(), study.target
        spent = study.spent
        open_request = spent < target or not is_complete(there, study.settings, rules_of(study))
        if trials is None or (open_request and trials == study.request):
            return Plan(spent, max(spent, target), finishing=True)
        if any(t.status == "running" for t in there):  # others are at what was asked for before
            spent = max(spent, target)
        study.set_target(spent + trials, trials)
        return Plan(spent, spent + trials, finishing=False)


def run_search(study: Study, runners: Sequence[Runner]) -> list[Trial]:
    """Screen until what is asked for is there or the space is exhausted, confirm, and return all runs of the study.

    Args:
        study: Where they go; others may work on it already.
        runners: Who makes the runs, side by side; the first makes what all of them inherit.

    Raises:
        ProxyError: The baseline fails: nothing could be compared with it; or no training succeeds here.
        ArtifactError: What all runs inherit cannot be made.
        SpaceError: No variant is within the space's limits.
    """
    runners[0].check_limits()
    for runner in runners:
        runner.prepare()
    announced: dict[str, object] = {}
    run_parallel(runners, lambda runner, stop: _work(runner, stop, announced))
    return study.runs()


def _work(runner: Runner, stop: threading.Event, announced: dict[str, object]) -> None:
    """Make runs until there are none any more; `announced` holds the stages that any runner has announced."""
    try:
        while not stop.is_set():
            claimed = _claim(runner)
            if claimed is None:
                continue
            step, handle = claimed
            stage = step.job.stage + step.job.fidelity if step.job else "over" if step.over else ""
            if step.note and announced.setdefault(stage, claimed) is claimed:
                runner.observer.note(step.note)
            if step.job and handle:
                runner.run(handle, step.job, step.position, step.target)
            elif runner.suspects:  # others may be waiting for these
                runner.settle_suspects()
            elif step.over:
                return
            elif not step.job:
                stop.wait(_PAUSE_S)
    finally:
        with contextlib.suppress(StorageError):  # a storage that fails says so once
            runner.suspects.settle("interrupted")


def _claim(runner: Runner) -> tuple[Step, RunningTrial | None] | None:
    """Return what is to be done next, and the trial that is claimed for it; None where that has to be repeated."""
    study, handle = runner.study, None
    try:
        with study.leases.claim_lock():
            study.take_over()
            among = runner.replay.assignments if runner.replay else None
            step = choose_step(study.runs(), runner.space, runner.settings, rules_of(study), study.target, among)
            if step.job:
                handle = runner.begin(step.job)
    except LeaseLost:
        if handle:
            handle.end(status="interrupted", failure=STOPPED)
        return None
    return step, handle


def is_finished(study: Study, todo: Plan) -> bool:
    """Whether nothing is left of what was asked for."""
    return todo.spent >= todo.target and is_complete(study.runs(), study.settings, rules_of(study))


def train_baseline(runner: Runner, count: int) -> None:
    """Train the baseline of a study until it has so many seeds.

    Raises:
        StudyError: The study has no finished baseline yet.
        ProxyError: A training of it fails.
    """
    study = runner.study
    with study.leases.claim_lock():
        study.take_over()
    if baseline_of(study.trials()) is None:
        raise StudyError(
            f"the baseline of the study {study.location.name!r} has not finished: "
            f"`nas search --study {study.location.name}` trains it first"
        )
    while True:
        with study.leases.claim_lock():
            rules = rules_of(study)
            job = next(baseline_seeds(study.trials(), rules, count), None)
            handle = runner.begin(job) if job else None
        if not (job and handle):
            break
        runner.run(handle, job, rules.seeds(count).index(job.seed) + 1, count)
