"""The search loop: claim a trial, build it, check the limits, train, store the result; resume where it stopped.

The next step is decided in `nas.search.next_step` from the seed of the study and its trials alone, so a search that was
stopped resumes as if it had not been. A variant is never trained twice under one seed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from nas.errors import STOPPED, StorageError, StudyError
from nas.ranking.race import rules_of
from nas.ranking.rank import baseline_of
from nas.search.next_step import Step, Yardsticks, choose_step, is_complete
from nas.search.preparation import prepare
from nas.search.runner import Runner
from nas.search.schedule import baseline_seeds
from nas.space.variant import make_yardstick
from nas.study.leases import LeaseLost
from nas.study.running_trial import RunningTrial
from nas.study.study import Study
from nas.study.trial import Trial
from nas.workers.parallel import run_parallel

_PAUSE_S = 1.0
"""Seconds between looks at the study while a worker waits for others."""


@dataclass(frozen=True)
class Plan:
    """The number of variants that a search will try.

    Attributes:
        spent: Variants that count so far.
        target: Variants that the study will have at the end.
        finishing: Whether an interrupted request is resumed.
    """

    spent: int
    target: int
    finishing: bool


def plan(study: Study, trials: int | None) -> Plan:
    """Settle the trials of dead workers, store the request, and return the plan of this search.

    An interrupted request is resumed by repeating it, or by `trials` None; any other number is that many more variants.
    With None and nothing left to do, the target is the number of variants that there are.
    """
    with study.leases.claim_lock():
        study.take_over()
        there, target = study.runs(), study.target
        spent = study.spent
        complete = is_complete(there, study.settings, rules_of(study), yardsticks_of(study))
        open_request = spent < target or not complete
        if trials is None or (open_request and trials == study.request):
            return Plan(spent, max(spent, target), finishing=True)
        if any(t.status == "running" for t in there):  # other workers are still running the earlier request
            spent = max(spent, target)
        study.set_target(spent + trials, trials)
        return Plan(spent, spent + trials, finishing=False)


def run_search(study: Study, runners: Sequence[Runner]) -> list[Trial]:
    """Screen until the target is reached or the space is exhausted, confirm, and return all trials of the study.

    Args:
        study: The study; other workers may be working on it.
        runners: Run trials in parallel, after they have prepared the weights that all of them inherit.

    Raises:
        ProxyError: The baseline fails: nothing could be compared with it; or no training succeeds here.
        ArtifactError: The weights that all runs inherit cannot be made.
        SpaceError: No variant is within the space's limits.
    """
    runners[0].check_limits()
    prepare(runners)
    announced: dict[str, object] = {}
    run_parallel(runners, lambda runner, stop: _work(runner, stop, announced))
    return study.runs()


def _work(runner: Runner, stop: threading.Event, announced: dict[str, object]) -> None:
    """Run trials until there are no more; `announced` holds the stages that any runner has announced."""
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
            elif runner.suspects:  # other workers may be waiting for these trials to end
                runner.settle_suspects()
            elif step.over:
                return
            elif not step.job:
                stop.wait(_PAUSE_S)
    finally:
        with contextlib.suppress(StorageError):  # it must not replace the first error
            runner.suspects.settle("interrupted")


def _claim(runner: Runner) -> tuple[Step, RunningTrial | None] | None:
    """Return the next step and the trial claimed for it; None if the claim lock was lost: then retry."""
    study, handle = runner.study, None
    try:
        with study.leases.claim_lock():
            study.take_over()
            among = runner.replay.assignments if runner.replay else None
            step = choose_step(
                study.runs(), runner.space, runner.settings, rules_of(study), study.target, among, runner.facts,
                runner.count, yardsticks_of(study),
            )  # fmt: skip
            if step.job:
                handle = runner.begin(step.job)
    except LeaseLost:
        if handle:
            handle.end(status="interrupted", failure=STOPPED)
        return None
    return step, handle


def is_finished(study: Study, todo: Plan) -> bool:
    """Return whether the request is complete."""
    rules, yardsticks = rules_of(study), yardsticks_of(study)
    return todo.spent >= todo.target and is_complete(study.runs(), study.settings, rules, yardsticks)


def yardsticks_of(study: Study) -> Yardsticks:
    """Return the yardsticks of a study, with their trials."""
    space, widths = study.settings.space, study.yardsticks
    wanted = tuple(make_yardstick(space.base, space.scale, width) for width in widths)
    return Yardsticks(wanted, tuple(t for t in study.every_run() if t.variant.width is not None))


def train_baseline(runner: Runner, count: int) -> None:
    """Train the baseline of a study until it has `count` seeds.

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
