"""One run of a study: a variant under one seed, built, costed, held against the limits, trained and stored."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from nas.bank.artifacts import ArtifactObserver, Worker
from nas.bank.store import SwapBank
from nas.errors import STOPPED, BuildError, ProxyFailure, SeedExcluded, StudyError
from nas.model.cost import Cost, costed
from nas.model.latency import LatencyMeter
from nas.model.render import render
from nas.samplers.limits import check_reach, over_limit
from nas.search.inheritance import Inheritance, weights_of
from nas.search.schedule import Job
from nas.search.suspects import SUSPECT_KINDS, SuspectFailures
from nas.search.table import Replay
from nas.space.variant import Variant
from nas.study.budget import Rung
from nas.study.running_trial import RunningTrial
from nas.study.settings import current_versions
from nas.study.storage import shorten_timeouts
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.jobs import ProxyJob, ProxyResult
from nas.training.scores import EpochScore
from nas.workers.parallel import DeviceLock

_COSTING = threading.Lock()
"""The host counts by hooks on modules of which it shares some between models: its activation above all."""


class SearchObserver(ArtifactObserver, Protocol):
    """Who is told what a search does, while it does it."""

    def trial_started(self, trial: Trial, position: int, target: int) -> None:
        """Hear that a proxy starts."""

    def trial_ended(self, trial: Trial) -> None:
        """Hear that a trial is finished, has failed, or was over a limit."""

    def for_worker(self, number: int) -> SearchObserver:
        """Return who is told what one of several workers does, counted from 0; called from its thread."""


class Runner:
    """Makes single runs of one study, one after the other."""

    def __init__(
        self,
        study: Study,
        data: Path,
        worker: Worker,
        observer: SearchObserver,
        *,
        shares: Mapping[float, Path] | None = None,
        replay: Replay | None = None,
        meter: LatencyMeter | None = None,
        device: str | None = None,
        device_lock: DeviceLock | None = None,
    ) -> None:
        """Prepare.

        Args:
            study: Whose runs they are.
            data: A data.yaml that the host can read as it is.
            worker: Trains the proxies.
            observer: Told of everything.
            shares: The same as `data`, with a share of the training images, for rungs that train on one.
            replay: Answers in place of building and training.
            meter: Measures latencies where the study wants them.
            device: Where to train, if not on the recipe's own device.
            device_lock: Of the device, where others train there too.
        """
        self.study = study
        self.settings = study.settings
        self.replay, self.meter = replay, meter
        self.space = replay.space(study.settings.space) if replay else study.settings.space
        self.worker, self.shares = worker, shares or {}
        self.observer = observer
        self.device, self.device_lock = device or study.settings.recipe.device, device_lock or DeviceLock()
        self.suspects = SuspectFailures()
        self.weights = weights_of(study, data, worker, observer, self.device)
        self.inheritance = Inheritance(study, self.weights, self.device_lock, observer)
        self._stopped = self.weights.stopped

    def kill(self) -> None:
        """End what is being trained, from another thread; its trial is interrupted, and no other begins."""
        self._stopped.set()
        shorten_timeouts()
        self.worker.kill()

    def check_reach(self) -> None:
        """Refuse limits of the space that no variant can be within, while nothing has been trained.

        Raises:
            StudyError: As `nas.samplers.limits.check_reach`.
        """
        if not self.replay and self.study.has_no_results:
            with _COSTING:
                check_reach(self.settings.space, lambda variant: costed(variant)[1])

    def prepare(self) -> None:
        """Make what the proxies inherit: a trained baseline, and the bank that is distilled from it.

        Raises:
            StudyError: They cannot be made.
        """
        if not self.replay:
            self.space = self.inheritance.prepare()

    def begin(self, job: Job) -> RunningTrial:
        """Claim a run; call it within the study's `leases.alone`."""
        return self.study.start(
            Trial(
                -1,
                self.space.variant(job.assignment),
                job.assignment,
                "running",
                seed=job.seed,
                fidelity=job.fidelity,
                score=self.settings.score,
                versions=current_versions(),
            )
        )

    def run(self, handle: RunningTrial, job: Job, position: int, target: int) -> Trial:
        """Make a run that is claimed: build, cost, gate, train. Whatever the variant does wrong ends in its trial.

        Raises:
            StudyError: It is the baseline, and fails; a bank cannot be made; or nothing trains here any more.
        """
        variant = handle.trial.variant
        try:
            ended = self._try(handle, self._bank(handle, job), position, target)
        except SeedExcluded as error:
            return handle.end(status="interrupted", failure=f"seed {job.seed} is left out: {error}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                shorten_timeouts()
            if handle.trial.status == "running" and handle not in self.suspects:
                with contextlib.suppress(StudyError):  # a storage that fails says so once
                    handle.end(status="interrupted", failure=STOPPED)
            raise
        self.observer.trial_ended(ended)
        if variant.is_baseline and ended.status not in ("done", "interrupted"):
            raise StudyError(f"the baseline itself failed, so nothing can be compared with it: {ended.failure}")
        return ended

    def _bank(self, handle: RunningTrial, job: Job) -> SwapBank | None:
        """Return the bank of a run, with what else it inherits made; None where it takes nothing from one."""
        if self.replay:
            return None
        lacks = self.inheritance.lacks(job, handle.trial.variant)
        with handle.preparing() if lacks else contextlib.nullcontext():
            return self.inheritance.bank_of(job, handle.trial.variant)

    def _try(self, handle: RunningTrial, bank: SwapBank | None, position: int, target: int) -> Trial:
        """Build, cost, gate and train; return how it ended."""
        variant = handle.trial.variant
        started = time.monotonic()
        before = next((t for t in self.study.runs() if t.status == "done" and t.variant == variant), None)
        if before:  # under another seed, or on another rung: it costs what it did, and was not over a limit
            handle.trial = replace(handle.trial, **{key: getattr(before, key) for key in _OF_COST})
        else:
            try:
                yaml, cost, latency_ms = self._costs(handle.trial)
            except BuildError as error:
                seconds = round(time.monotonic() - started, 2)
                return handle.end(status="failed", failure=f"build: {error}", seconds=seconds)
            handle.trial = replace(handle.trial, yaml=yaml, latency_ms=latency_ms, **_cost_fields(cost))
            over = over_limit(self.settings.space, cost, latency_ms)
            if over and not variant.is_baseline:  # what is compared with is always trained
                return handle.end(status="rejected", failure=over)
        handle.store()
        if bank and (problem := bank.problem(variant.swaps)):
            text = f"bank of seed {handle.trial.seed}: {problem}"
            if bank.is_suspect(variant.swaps):
                return self._failed(handle, ProxyFailure("error", text), round(time.monotonic() - started, 2))
            return handle.end(status="failed", failure=text)
        self.observer.trial_started(handle.trial, position, target)
        epochs = self.settings.at(handle.trial.fidelity).recipe.epochs

        def on_epoch(score: EpochScore) -> None:
            handle.report(score)
            self.observer.epoch(score, epochs)

        try:
            result = self._train(handle.trial, bank, on_epoch)
        except ProxyFailure as failure:
            return self._failed(handle, failure, round(time.monotonic() - started, 2))
        self.suspects.settle("failed")  # by what their variants are: others train here
        return handle.end(
            status="done",
            curve=result.curve,
            average=result.average,
            distillation=bank.error(variant.swaps) if bank else None,
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
        with _COSTING:
            files, cost = costed(trial.variant)
        timed = self.meter and (trial.variant.is_baseline or not over_limit(self.settings.space, cost, None))
        latency = self.meter.measure(files.yaml, trial.variant.scale) if self.meter and timed else None
        return files.yaml, cost, latency.ms if latency else None

    def _train(self, trial: Trial, bank: SwapBank | None, on_epoch: Callable[[EpochScore], None]) -> ProxyResult:
        """Train, or look up what a training gave.

        Raises:
            ProxyFailure: It fails.
        """
        if self.replay:
            return self.replay.run(trial.assignment)
        rung, recipe = self.settings.rung_of(trial.fidelity), self.settings.at(trial.fidelity).recipe
        job = self.weights.job(trial.variant, recipe, trial.seed, trial.yaml)
        inherited = self.weights.initial_files(self.settings.recipe, trial.variant.swaps, bank, trial.seed)
        job = replace(job, **inherited, average=trial.score == "map_average")
        if rung and rung.fraction < 1:
            job = replace(job, data=str(self.shares[rung.fraction]), data_key=f"{job.data_key}/{rung.fraction:g}")
        job = replace(self.weights.resumable(job), recipe=replace(recipe, device=self.device))
        return self._in_room(job, trial.describe(), on_epoch)

    def _in_room(self, job: ProxyJob, name: str, on_epoch: Callable[[EpochScore], None] | None = None) -> ProxyResult:
        """Train beside others, or alone where it does not fit beside them.

        Raises:
            ProxyFailure: It fails, or is not to begin any more.
        """

        def train() -> ProxyResult:
            if self._stopped.is_set():
                raise ProxyFailure("died", STOPPED)
            return self.worker.run(job, on_epoch)

        try:
            with self.device_lock.shared() as company:
                return train()
        except ProxyFailure as failure:
            if self._stopped.is_set() or not (failure.out_of_memory and company()):
                raise
            why = "out of memory" if failure.kind == "memory" else "killed, as the system does when memory runs out,"
        self.observer.note(f"{name}: {why} beside other trainings; it is trained again alone")
        with self.device_lock.exclusive():
            return train()

    def _failed(self, handle: RunningTrial, failure: ProxyFailure, seconds: float) -> Trial:
        """Store a failure, unless it may be the machine's and not the variant's: that shows when the next one trains.

        Raises:
            StudyError: As `settle_suspects`, after several in a row.
        """
        text = f"{failure.kind}: {failure}"
        if self._stopped.is_set():
            return handle.end(status="interrupted", failure=STOPPED, seconds=seconds)
        if failure.kind not in SUSPECT_KINDS or handle.trial.variant.is_baseline:
            return handle.end(status="failed", failure=text, seconds=seconds)
        handle.trial = replace(handle.trial, failure=text, seconds=seconds)
        self.suspects.add(handle)
        if self.suspects.are_many:
            self.settle_suspects()
        return replace(handle.trial, status="failed")

    def settle_suspects(self) -> None:
        """Find out whose failures the open ones are, by training the baseline, which trains wherever anything does.

        Raises:
            StudyError: It fails as well: they are the machine's, and none of them is held against its variant.
        """
        count, last = len(self.suspects), self.suspects.last
        told = "a training has failed" if count == 1 else f"{count} trainings have failed in a row"
        self.observer.note(f"{told} ({last}); a short one of the baseline shows whether this machine is why")
        try:
            self._try_baseline()
        except ProxyFailure as failure:
            self.suspects.settle("interrupted")
            raise StudyError(
                f"{told} here, and so does the baseline ({failure.kind}: {failure}), so it is not what the variants "
                f"are; the last: {last}\nmend that and start again: they will be tried anew"
            ) from None
        self.suspects.settle("failed")

    def _try_baseline(self) -> None:
        """Train the baseline for an epoch, or validate it where proxies are not trained; what it scores is not kept.

        Raises:
            ProxyFailure: It fails.
        """
        if self.replay:
            return
        own, space = self.settings.recipe, self.space
        recipe = Rung(min(own.epochs, 1), own.imgsz).recipe(own)
        job = self.weights.job(
            Variant(space.base, space.scale), replace(recipe, device=self.device), self.settings.seed
        )
        self._in_room(replace(job, **self.weights.initial_files(own, (), None, self.settings.seed)), "baseline")


_OF_COST = ("yaml", "params", "gflops", "stock_gflops", "uncounted", "latency_ms")


def _cost_fields(cost: Cost) -> dict[str, Any]:
    """Return what a trial keeps of a variant's cost."""
    return {
        "params": cost.params,
        "gflops": cost.gflops,
        "stock_gflops": cost.stock_gflops,
        "uncounted": cost.uncounted,
    }
