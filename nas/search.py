"""The search: ask, gate, train, tell; and start again where it stopped.

What comes next is `nas.propose`'s affair: it depends only on the study's seed and on what is finished, so a search that
was stopped goes on as if it had not been. A variant is never trained twice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from nas.bank import SwapBank
from nas.cost import Cost, costed
from nas.errors import BuildError, StudyError
from nas.gate import no_variant_left, out_of_reach, over_limit
from nas.latency import LatencyMeter
from nas.propose import propose
from nas.proxy import ProxyFailure, ProxyResult
from nas.render import render
from nas.scores import EpochScore
from nas.space import SearchSpace
from nas.study import OpenTrial, Study, current_versions
from nas.table import Replay
from nas.trial import Status, Trial
from nas.weights import Listener, Weights, Worker

_MOST_REJECTED = 200
"""Variants over the limits in a row after which no further ones are looked for."""
_MOST_DOUBTFUL = 3
"""Trainings in a row that may fail for reasons of the machine before the search stops."""


class Observer(Listener, Protocol):
    """Who is told what a search does, while it does it."""

    def trial_started(self, trial: Trial, position: int, target: int) -> None:
        """Hear that a proxy starts."""

    def trial_ended(self, trial: Trial) -> None:
        """Hear that a trial is finished, has failed, or was over a limit."""


@dataclass(frozen=True)
class Plan:
    """How many trials a search will run.

    Attributes:
        spent: Trials that count so far.
        target: Trials that the study will have at the end.
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
    spent = sum(t.spent for t in study.trials())
    open_request = spent < study.target
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
    """Run trials until the plan is fulfilled or the space is exhausted, and return all trials of the study.

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
    settings = study.settings
    shutil.rmtree(_scratch(study), ignore_errors=True)
    study.ask_for(todo.target, todo.target - todo.spent if not todo.finishing else study.request)
    runner = _Runner(study, data, worker, observer, replay, meter)
    runner.prepare()
    rejected = 0
    while rejected < _MOST_REJECTED:
        trials = study.trials()
        spent = sum(t.spent or t.status == "running" for t in trials)
        if spent >= todo.target:
            break
        assignment = propose(
            runner.space,
            trials,
            seed=settings.seed,
            floor=settings.floor,
            error=settings.error,
            sampler=settings.sampler,
            goal=settings.goal,
        )
        if assignment is None:
            no_variant_left(runner.space, trials)
            observer.note(f"every variant of the space has been tried: the search ends after {spent} trials")
            break
        trial = runner.run(assignment, spent + 1, todo.target)
        rejected = rejected + 1 if trial.status == "rejected" else 0
        if rejected and out_of_reach(runner.space, study.trials()):
            rejected = _MOST_REJECTED
        if trial.variant.is_baseline and trial.status != "done":
            raise StudyError(f"the baseline itself failed, so nothing can be compared with it: {trial.failure}")
    else:
        no_variant_left(runner.space, study.trials())
        observer.note("the variants that are left seem to be over the limits of the space: the search ends here")
    runner.settle_doubtful("failed")
    shutil.rmtree(_scratch(study), ignore_errors=True)
    return study.trials()


def weights_of(study: Study, data: Path, worker: Worker, listener: Listener) -> Weights:
    """Return what a study's proxies inherit from; `data` is a data.yaml that the host can read as it is."""
    s = study.settings
    return Weights(
        folder=study.place.weights,
        space=s.space,
        data=data,
        fingerprint=s.fingerprint,
        versions=s.versions,
        seed=s.seed,
        worker=worker,
        listener=listener,
        scratch=_scratch(study),
    )


def _scratch(study: Study) -> Path:
    """Return the folder for files that trainings make and remove; what a killed one leaves goes at the next start."""
    return study.place.folder / "run"


class _Runner:
    """Runs single trials of one search."""

    def __init__(
        self,
        study: Study,
        data: Path,
        worker: Worker,
        observer: Observer,
        replay: Replay | None,
        meter: LatencyMeter | None,
    ) -> None:
        self.study = study
        self.settings = study.settings
        self.replay, self.meter = replay, meter
        self.space = replay.space(study.settings.space) if replay else study.settings.space
        self.worker = worker
        self.observer = observer
        self.doubtful: list[OpenTrial] = []
        self.bank: SwapBank | None = None
        self.weights = weights_of(study, data, worker, observer)

    def prepare(self) -> None:
        """Make what the proxies inherit: a trained baseline, and the bank that is distilled from it.

        Raises:
            StudyError: They cannot be made.
        """
        recipe = self.settings.recipe
        if self.replay:
            return
        if recipe.init in ("baseline", "bank"):
            self.study.keep_baseline_training(self.weights.baseline(recipe).curve)
        if recipe.init == "bank":
            self.bank = self.weights.bank(recipe, self.settings.seed)
            for failed in self.bank.failures:
                swap = f"{failed.candidate.slot}={failed.candidate.label}"
                self.observer.note(f"kept out of the search: {swap}: {failed.failure}")
            self.space = without(self.space, self.bank)
            self.study.keep_bank(self.bank)

    def run(self, assignment: Mapping[str, str], position: int, target: int) -> Trial:
        """Try one assignment: build, cost, gate, train. Whatever the variant does wrong ends in its trial."""
        variant = self.space.variant(assignment)
        trial = Trial(
            -1,
            variant,
            assignment,
            "running",
            seed=self.settings.seed,
            score=self.settings.score,
            versions=current_versions(),
        )
        handle = self.study.start(trial)
        try:
            ended = self._try(handle, position, target)
        except KeyboardInterrupt:
            if handle.trial.status == "running":
                handle.end(status="interrupted", failure="its search was stopped")
            raise
        self.observer.trial_ended(ended)
        return ended

    def _try(self, handle: OpenTrial, position: int, target: int) -> Trial:
        """Build, cost, gate and train; return how it ended."""
        variant = handle.trial.variant
        started = time.monotonic()
        try:
            yaml, cost, latency_ms = self._costs(handle.trial)
        except BuildError as error:
            seconds = round(time.monotonic() - started, 2)
            return handle.end(status="failed", failure=f"build: {error}", seconds=seconds)
        handle.trial = replace(handle.trial, yaml=yaml, latency_ms=latency_ms, **_cost_fields(cost))
        handle.store()
        over = over_limit(self.settings.space, cost, latency_ms)
        if over and not variant.is_baseline:  # what is compared with is always trained
            return handle.end(status="rejected", failure=over)
        self.observer.trial_started(handle.trial, position, target)
        recipe = self.settings.recipe

        def on_epoch(score: EpochScore) -> None:
            handle.report(score)
            self.observer.epoch(score, recipe.epochs)

        try:
            result = self._train(handle.trial, on_epoch)
        except ProxyFailure as failure:
            return self._failed(handle, failure, round(time.monotonic() - started, 2))
        self.settle_doubtful("failed")
        return handle.end(
            status="done",
            curve=result.curve,
            average=result.average,
            distillation=self.bank.error(variant.swaps) if self.bank else None,
            inherited=result.inherited,
            seconds=round(result.seconds, 2),
        )

    def _costs(self, trial: Trial) -> tuple[str, Cost, float | None]:
        """Return a variant's YAML, its cost, and its latency if that is wanted and nothing else speaks against it.

        Raises:
            BuildError: It cannot be built, counted or timed.
        """
        if self.replay:
            return render(trial.variant).yaml, *self.replay.cost(trial.assignment)
        files, cost = costed(trial.variant)
        timed = self.meter and (trial.variant.is_baseline or not over_limit(self.settings.space, cost, None))
        latency = self.meter.measure(files.yaml, trial.variant.scale) if self.meter and timed else None
        return files.yaml, cost, latency.ms if latency else None

    def _train(self, trial: Trial, on_epoch: Callable[[EpochScore], None]) -> ProxyResult:
        """Train, or look up what a training gave.

        Raises:
            ProxyFailure: It fails.
        """
        if self.replay:
            return self.replay.run(trial.assignment)
        recipe = self.settings.recipe
        job = self.weights.job(trial.variant, recipe, trial.seed, trial.yaml)
        return self.worker.run(replace(job, **self.weights.inherited(recipe, trial.variant.swaps, self.bank)), on_epoch)

    def _failed(self, handle: OpenTrial, failure: ProxyFailure, seconds: float) -> Trial:
        """Store a failure, unless it may be the machine's and not the variant's: that shows when the next one trains.

        Raises:
            StudyError: Several variants in a row failed so. None of them is held against its variant.
        """
        text = f"{failure.kind}: {failure}"
        if failure.kind not in ("error", "died") or handle.trial.variant.is_baseline:
            return handle.end(status="failed", failure=text, seconds=seconds)
        handle.trial = replace(handle.trial, failure=text, seconds=seconds)
        self.doubtful.append(handle)
        if len(self.doubtful) >= _MOST_DOUBTFUL:
            self.settle_doubtful("interrupted")
            raise StudyError(
                f"{_MOST_DOUBTFUL} trainings in a row failed, and not by what their variants are; the last: {text}\n"
                "mend that and start the search again: it will try them anew"
            )
        return replace(handle.trial, status="failed")

    def settle_doubtful(self, status: Status) -> None:
        """End the trials whose failure may have been the machine's."""
        for handle in self.doubtful:
            handle.end(status=status)
        self.doubtful = []


def _cost_fields(cost: Cost) -> dict[str, Any]:
    """Return what a trial keeps of a variant's cost."""
    return {
        "params": cost.params,
        "gflops": cost.gflops,
        "stock_gflops": cost.stock_gflops,
        "uncounted": cost.uncounted,
    }


def without(space: SearchSpace, bank: SwapBank) -> SearchSpace:
    """Return the space without the swaps that the bank could not make, wherever their layer is swapped."""
    failed = {(c.candidate.slot, c.candidate.label) for c in bank.failures}
    barred = tuple(
        ((slot.key, label),)
        for slot in space.active
        for label in slot.choices[1:]
        if any((layer, label) in failed for layer in slot.layers)
    )
    return replace(space, forbid=space.forbid + barred)
