"""Runs of a study: a variant under one seed is built, costed, checked against the limits, trained and stored."""

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
from nas.device import hardware
from nas.engines.meter import Meter
from nas.errors import STOPPED, BuildError, ProxyError, ProxyFailure, SeedExcluded, StorageError
from nas.model.cost import Cost, costed, gflops_and_params
from nas.model.latency import EAGER
from nas.model.render import render
from nas.samplers.limits import check_limits, over_limit
from nas.search.inheritance import Inheritance, weights_of
from nas.search.schedule import Job
from nas.search.suspects import SUSPECT_KINDS, SuspectFailures
from nas.search.swap_facts import are_needed, check_budgets, check_table, counted_swaps, gather
from nas.search.table import Replay
from nas.solver.facts import SwapFacts, facts_of_study
from nas.space.search_space import Assignment, Key, key_of
from nas.space.variant import Variant
from nas.study.running_trial import RunningTrial
from nas.study.settings import current_versions
from nas.study.storage import shorten_timeouts
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.jobs import ProxyJob, ProxyResult
from nas.training.scores import SCORES, EpochScore
from nas.workers.parallel import DeviceLock

_COSTING = threading.Lock()
"""Ultralytics counts FLOPs by hooks on modules, some of which its models share, such as the activation."""


class SearchObserver(ArtifactObserver, Protocol):
    """Callbacks on the progress of a search."""

    def trial_started(self, trial: Trial, position: int, target: int) -> None:
        """Handle the start of a proxy training."""

    def trial_ended(self, trial: Trial) -> None:
        """Handle the end of a trial: it is done, has failed, or was over a limit."""

    def for_worker(self, number: int) -> SearchObserver:
        """Return the observer of one of several workers, counted from 0; called in its thread."""


class Runner:
    """Runs trials of one study, one after the other."""

    def __init__(
        self,
        study: Study,
        data: Path,
        worker: Worker,
        observer: SearchObserver,
        *,
        shares: Mapping[float, Path] | None = None,
        replay: Replay | None = None,
        meter: Meter | None = None,
        device: str | None = None,
        device_lock: DeviceLock | None = None,
    ) -> None:
        """Prepare.

        Args:
            study: The study.
            data: A data.yaml that Ultralytics can read.
            worker: Trains the proxies.
            observer: Called on progress.
            shares: Fraction to a data.yaml with that fraction of the training images, for rungs that use one.
            replay: Replaces building and training by the rows of a table.
            meter: Measures latencies, if the study uses them.
            device: Device of the trainings; None is the recipe's.
            device_lock: Lock of that device, if other runners use it too.
        """
        self.study = study
        self.settings = study.settings
        self.replay, self.meter = replay, meter
        self.space = study.settings.space
        self.worker, self.shares = worker, shares or {}
        self.observer = observer
        self.device, self.device_lock = device or study.settings.recipe.device, device_lock or DeviceLock()
        self.suspects = SuspectFailures()
        self.weights = weights_of(study, data, worker, observer, self.device)
        self.inheritance = Inheritance(study, self.weights, self.device_lock, observer)
        self._stopped = self.weights.stopped
        self.facts = replay.facts if replay else SwapFacts()
        self._counted: dict[Key, Mapping[str, float]] = {}

    def kill(self) -> None:
        """Stop the running training from another thread; its trial is interrupted, and no other starts."""
        self._stopped.set()
        shorten_timeouts()
        self.worker.kill()

    def check_limits(self) -> None:
        """Check that a variant can be within the limits of the space and each budget, before anything is trained.

        Raises:
            SpaceError: As `nas.samplers.limits.check_limits`; or no variant meets a budget.
            OptionError: A budget is in a unit that the study does not measure.
        """
        if self.replay:
            if self.settings.budgets:
                check_table(self.settings, self.replay.assignments, self.count)
            return
        if self.study.has_no_results:
            with _COSTING:
                check_limits(self.settings.space, lambda variant: costed(variant)[1])
        if self.settings.budgets:
            stored = facts_of_study(self.study)
            self.facts = stored if stored.base else counted_swaps(self.settings.space, self.count, self.observer)
            for note in check_budgets(self.settings, self.facts, self.count):
                self.observer.note(note)

    def count(self, assignment: Assignment) -> Mapping[str, float]:
        """Return the costs of a variant by quantity: GFLOPs, parameters, and its latency if a budget limits that.

        Raises:
            BuildError: It cannot be built, counted or timed.
        """
        key = key_of(assignment)
        if key not in self._counted:
            self._counted[key] = self._costs_by_quantity(assignment)
        return self._counted[key]

    def _costs_by_quantity(self, assignment: Assignment) -> Mapping[str, float]:
        if self.replay:
            cost, latency_ms = self.replay.cost(assignment)
            found = {"gflops": cost.gflops, "params": float(cost.params)}
            return found if latency_ms is None else {**found, "latency_ms": latency_ms}
        variant = self.space.variant(assignment)
        with _COSTING:
            gflops, params = gflops_and_params(variant)
        found = {"gflops": gflops, "params": float(params)}
        timed = any(quantity == "latency_ms" for b in self.settings.budgets for quantity, *_ in b.limits)
        if self.meter and timed:
            found["latency_ms"] = self.meter.measure(render(variant).yaml, variant.scale).ms
        return found

    def prepare(self) -> None:
        """Make the weights that proxies inherit: a trained baseline, and the bank distilled from it.

        Raises:
            ArtifactError: They cannot be made.
        """
        if not self.replay:
            self.space = self.inheritance.prepare()
            if are_needed(self.settings):
                bank = self.inheritance.banks.get(self.settings.seed)
                counted = self.facts if self.facts.base else None
                self.facts = gather(self.study, self.space, self.weights, bank, counted, self.count)

    def begin(self, job: Job) -> RunningTrial:
        """Claim a trial for a run; call it within the study's `leases.claim_lock`."""
        return self.study.start(
            Trial(
                -1,
                job.yardstick or self.space.variant(job.assignment),
                job.assignment,
                "running",
                seed=job.seed,
                fidelity=job.fidelity,
                score=self.settings.score,
                versions=current_versions(),
                machine="" if self.replay else hardware(self.device),
            )
        )

    def run(self, handle: RunningTrial, job: Job, position: int, target: int) -> Trial:
        """Run a claimed trial: build, cost, check limits, train. A failure of the variant is stored in its trial.

        Raises:
            ProxyError: It is the baseline and fails; or no training succeeds on this machine.
            ArtifactError: A bank or a baseline cannot be made.
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
                with contextlib.suppress(StorageError):  # it must not replace the first error
                    handle.end(status="interrupted", failure=STOPPED)
            raise
        self.observer.trial_ended(ended)
        if variant.is_baseline and ended.status not in ("done", "interrupted"):
            raise ProxyError(f"the baseline itself failed, so nothing can be compared with it: {ended.failure}")
        return ended

    def _bank(self, handle: RunningTrial, job: Job) -> SwapBank | None:
        """Make the weights that a run inherits, and return its bank; None if it takes nothing from one."""
        if self.replay:
            return None
        if job.yardstick:
            with handle.preparing():
                self.inheritance.pruned(job.yardstick, job.seed)
            return None
        lacks = self.inheritance.lacks(job, handle.trial.variant)
        with handle.preparing() if lacks else contextlib.nullcontext():
            return self.inheritance.bank_of(job, handle.trial.variant)

    def _try(self, handle: RunningTrial, bank: SwapBank | None, position: int, target: int) -> Trial:
        """Build, cost, check limits and train; return the ended trial."""
        variant = handle.trial.variant
        started = time.monotonic()
        before = next((t for t in self.study.every_run() if t.status == "done" and t.variant == variant), None)
        if before:  # under another seed or on another rung: the cost is the same, and within the limits
            handle.trial = replace(handle.trial, **{key: getattr(before, key) for key in _OF_COST})
        else:
            try:
                yaml, cost, latency_ms = self._costs(handle.trial)
            except BuildError as error:
                seconds = round(time.monotonic() - started, 2)
                return handle.end(status="failed", failure=f"build: {error}", seconds=seconds)
            handle.trial = replace(handle.trial, yaml=yaml, latency_ms=latency_ms, **_cost_fields(cost))
            over = over_limit(self.settings.space, cost, latency_ms)
            # The baseline and yardsticks are always trained, because all are compared with them.
            if over and not variant.is_baseline and variant.width is None:
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
        self.suspects.settle("failed")  # a training has succeeded here, so their variants are the cause
        return handle.end(
            status="done",
            curve=result.curve,
            average=result.average,
            distillation=bank.error(variant.swaps) if bank else None,
            inherited=result.inherited,
            seconds=round(result.seconds, 2),
        )

    def _costs(self, trial: Trial) -> tuple[str, Cost, float | None]:
        """Return a variant's YAML, cost, and latency; that is None if it is not used, or a limit is exceeded already.

        Raises:
            BuildError: It cannot be built, counted or timed.
        """
        if self.replay:
            return render(trial.variant).yaml, *self.replay.cost(trial.assignment)
        with _COSTING:
            files, cost = costed(trial.variant)
        timed = self.meter and (trial.variant.is_baseline or not over_limit(self.settings.space, cost, None))
        latency = self.meter.measure(files.yaml, trial.variant.scale) if self.meter and timed else None
        if latency and latency.by == EAGER:
            self.observer.note(
                f"{trial.describe()}: cannot be captured in a CUDA graph, so its latency is that of eager PyTorch and "
                "includes the time to launch each kernel"
            )
        return files.yaml, cost, latency.ms if latency else None

    def _train(self, trial: Trial, bank: SwapBank | None, on_epoch: Callable[[EpochScore], None]) -> ProxyResult:
        """Train, or return the result of a replayed training.

        Raises:
            ProxyFailure: It fails.
        """
        if self.replay:
            return self.replay.run(trial.assignment)
        rung, recipe = self.settings.rung_of(trial.fidelity), self.settings.at(trial.fidelity).recipe
        job = self.weights.job(trial.variant, recipe, trial.seed, trial.yaml)
        inherited = self.weights.initial_files(self.settings.recipe, trial.variant.swaps, bank, trial.seed)
        if trial.variant.width is not None:
            inherited["overlay"] = self.inheritance.pruned(trial.variant, trial.seed)
        job = replace(job, **inherited, average=SCORES[trial.score].needs_average)
        if rung and rung.fraction < 1:
            job = replace(job, data=str(self.shares[rung.fraction]), data_key=f"{job.data_key}/{rung.fraction:g}")
        job = replace(self.weights.resumable(job), recipe=replace(recipe, device=self.device))
        return self._run_job(job, trial.describe(), on_epoch)

    def _run_job(self, job: ProxyJob, name: str, on_epoch: Callable[[EpochScore], None] | None = None) -> ProxyResult:
        """Train in parallel with others; after an out-of-memory error, train again alone.

        Raises:
            ProxyFailure: It fails, or the search was stopped.
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
        self.observer.note(f"{name}: {why} in parallel with other trainings; it is trained again alone")
        with self.device_lock.exclusive():
            return train()

    def _failed(self, handle: RunningTrial, failure: ProxyFailure, seconds: float) -> Trial:
        """Store a failure; one that may be the machine's fault is held back until another training succeeds.

        Raises:
            ProxyError: As `settle_suspects`, after several in a row; or a CUDA kernel has failed, which says nothing
                about a variant.
        """
        text = f"{failure.kind}: {failure}"
        if self._stopped.is_set():
            return handle.end(status="interrupted", failure=STOPPED, seconds=seconds)
        if failure.kind == "kernel":
            raise ProxyError(
                f"{handle.trial.describe()}: a CUDA kernel cannot be used here, which is no fault of the variant: "
                f"{failure}\nNAS_KERNELS=reference trains without kernels; start again, and it will be retried"
            )
        if failure.kind not in SUSPECT_KINDS or handle.trial.variant.is_baseline:
            return handle.end(status="failed", failure=text, seconds=seconds)
        handle.trial = replace(handle.trial, failure=text, seconds=seconds)
        self.suspects.add(handle)
        if self.suspects.are_many:
            self.settle_suspects()
        return replace(handle.trial, status="failed")

    def settle_suspects(self) -> None:
        """Train the baseline to find the cause of the suspect failures: it succeeds on any machine that works.

        Raises:
            ProxyError: It fails as well, so the machine is the cause, and the trials will be retried.
        """
        count, last = len(self.suspects), self.suspects.last
        failed = "a training has failed" if count == 1 else f"{count} trainings have failed in a row"
        self.observer.note(f"{failed} ({last}); a short one of the baseline checks whether this machine is the cause")
        try:
            self._try_baseline()
        except ProxyFailure as failure:
            self.suspects.settle("interrupted")
            raise ProxyError(
                f"{failed} here, and so does the baseline ({failure.kind}: {failure}), so the variants are not the "
                f"cause; the last: {last}\nfix that and start again: they will be retried"
            ) from None
        self.suspects.settle("failed")

    def _try_baseline(self) -> None:
        """Train the baseline for one epoch, or validate it if proxies are not trained; the result is not stored.

        Raises:
            ProxyFailure: It fails.
        """
        if self.replay:
            return
        own, space = self.settings.recipe, self.space
        recipe = replace(own, epochs=min(own.epochs, 1))
        job = self.weights.job(
            Variant(space.base, space.scale), replace(recipe, device=self.device), self.settings.seed
        )
        self._run_job(replace(job, **self.weights.initial_files(own, (), None, self.settings.seed)), "baseline")


_OF_COST = ("yaml", "params", "gflops", "stock_gflops", "uncounted", "latency_ms")


def _cost_fields(cost: Cost) -> dict[str, Any]:
    """Return the fields of a trial that hold a variant's cost."""
    return {
        "params": cost.params,
        "gflops": cost.gflops,
        "stock_gflops": cost.stock_gflops,
        "uncounted": cost.uncounted,
    }
