"""Run a calibration: measure which proxy distinguishes the variants of a space as full training does, and at what cost.

Every proxy trains the same variants under the same seeds, and so does full training; `nas.calibration.resolution`
compares them. Each finished run is a line in a file, so a calibration that is resumed, or extended by variants, seeds
or proxies, trains only the missing runs.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Protocol, TypeVar

from nas.bank.artifacts import ArtifactObserver, ArtifactStore
from nas.bank.jobs import CONTROL, Candidate
from nas.bank.store import SwapBank
from nas.calibration.given import GivenFull
from nas.calibration.run_log import Finished, Run, RunFile
from nas.device import CPU, assign_devices
from nas.errors import ArtifactError, OptionError, OutOfMemory, ProxyError, ProxyFailure
from nas.model.render import render
from nas.space.sampling import representatives
from nas.space.search_space import SearchSpace
from nas.space.variant import Variant
from nas.study.settings import SHARED
from nas.training.recipe import Recipe, start_of
from nas.workers.count import available_cores
from nas.workers.parallel import DeviceLock, run_parallel
from nas.workers.process import ProxyWorker

CALIBRATION_SUFFIX = ".calibration"
"""Suffix of a calibration's folder below ``studies/``."""
FULL, TUNED = "full", "tuned"
"""Names of full training among the runs: from scratch, and from trained weights."""
DEFAULT_PROXIES = ("scratch-8", "baseline-8", "bank-0", "bank-2", "bank-4")
"""From scratch, from the trained baseline, from the bank without training, and from the bank after a short training."""

_PROXY = re.compile(r"(scratch|baseline|bank)(-fresh)?-(\d+)(?:@(\d+)(?:/(\d+))?)?")
_STRIDE = 32
_OVERHEAD_EPOCHS = 1 / 3
"""Fixed cost of a run in epochs: building, batch norm statistics, validation."""


@dataclass(frozen=True)
class Calibration:
    """The design of a calibration.

    Attributes:
        space: The search space.
        variants: Number of trained variants without the baseline; `nas.space.sampling.representatives` selects them.
        data: Path of the data.yaml, or empty for the demo data.
        fingerprint: Fingerprint of the dataset.
        full: Recipe of full training, which starts from scratch.
        full_seeds: Number of seeds of full training.
        proxies: Name to recipe.
        seeds: Number of seeds of each proxy.
        versions: Versions of the tool and of the packages that influence results.
        baselines: As `nas.study.settings.Settings.baselines`.
        tuned: Recipe of full training from trained weights, under as many seeds; None without it.
        given: Full trainings that are taken instead of making them, with their variants.
    """

    space: SearchSpace
    variants: int
    data: str
    fingerprint: str
    full: Recipe
    full_seeds: int
    proxies: tuple[tuple[str, Recipe], ...]
    seeds: int
    versions: tuple[tuple[str, str], ...]
    baselines: str = SHARED
    tuned: Recipe | None = None
    given: GivenFull | None = None

    @property
    def tested(self) -> tuple[Variant, ...]:
        """The baseline and the variants, in the order of the tables."""
        if self.given:
            return self.given.variants
        return (Variant(self.space.base, self.space.scale), *representatives(self.space, self.variants))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        body = {**asdict(replace(self, given=None)), "space": json.loads(self.space.to_json())}
        del body["given"]
        return body | ({"full_from": self.given.name} if self.given else {})


def proxy_recipe(text: str, common: Recipe) -> Recipe:
    """Return the recipe of a proxy by its name: ``scratch-8``, ``baseline-8``, ``bank-4``, ``bank-fresh-4``.

    Args:
        text: Kind of start and epochs; with ``fresh``, swapped modules start from random values. With ``@160``, images
            are scaled to 160 px; with ``@224/640``, windows of 224 px are cut from images of 640 px.
        common: Recipe of everything else.

    Raises:
        OptionError: It is not such a name.
    """
    match = _PROXY.fullmatch(text)
    if not match or (match[2] and match[1] == "scratch") or (match[1] != "bank" and match[3] == "0"):
        raise OptionError(
            f"cannot read the proxy {text!r}: expected scratch-N, baseline-N or bank-N with N epochs (bank-0 trains "
            "nothing), or baseline-fresh-N, bank-fresh-N for modules that start from random values"
        )
    kind, epochs = match[1], int(match[3])
    start = "fresh" if match[2] else "near"
    if match[4]:
        imgsz, windows_at = int(match[4]), int(match[5] or 0)
        if imgsz < _STRIDE or imgsz % _STRIDE or 0 < windows_at <= imgsz:
            raise OptionError(
                f"the proxy {text!r}: sides have to be multiples of {_STRIDE}, and windows smaller than the images "
                "that they are cut from"
            )
        common = replace(common, imgsz=imgsz, windows_at=windows_at)
    return replace(common, init=kind, epochs=epochs, start=start, **start_of(kind))


def _bank_name(recipe: Recipe) -> str:
    """Return a name that identifies the bank of a recipe within one calibration."""
    return f"{recipe.start} {recipe.bank_epochs} {recipe.bank_lr0} {recipe.imgsz} {recipe.windows_at}"


def full_recipe(common: Recipe, epochs: int, *, tuned: bool = False) -> Recipe:
    """Return the recipe of full training on whole images: from scratch, or `tuned` from the weights of `common`."""
    whole = replace(common, imgsz=common.windows_at, windows_at=0) if common.windows_at else common
    init, digest = (common.weights, common.weights_digest) if tuned else ("scratch", "")
    whole = replace(whole, init=init, init_digest=digest, epochs=epochs, validations=min(5, epochs))
    return replace(whole, **start_of(init))


class CalibrationObserver(ArtifactObserver, Protocol):
    """Callbacks on the progress of a calibration."""

    def run_ended(self, run: Run, done: Finished, position: int, total: int, left: float) -> None:
        """Handle the end of a run, the `position`-th of `total`; `left` is the remaining work in epochs."""

    def for_worker(self, number: int) -> ArtifactObserver:
        """Return the observer of one of several workers, counted from 0; called in its thread."""


def planned_runs(calibration: Calibration) -> list[Run]:
    """Return all runs of a calibration: cheap ones first, and all variants of a seed together."""
    found = []
    cheap = sorted(calibration.proxies, key=lambda p: (p[1].epochs, p[0]))
    for name, recipe in cheap:
        for seed in range(calibration.seeds):
            found += [Run(name, recipe, v, seed) for v in calibration.tested]
            if recipe.init == "bank":
                layers = dict.fromkeys(control_of(calibration, v) for v in calibration.tested)
                found += [Run(name, recipe, calibration.tested[0], seed, controls) for controls in layers if controls]
    for seed in range(calibration.full_seeds):
        for name, full in ((TUNED, calibration.tuned), (FULL, calibration.full)):
            found += [Run(name, full, v, seed) for v in calibration.tested] if full else []
    return found


def control_of(calibration: Calibration, variant: Variant) -> tuple[str, ...]:
    """Return the layers of a variant's control: their original modules are distilled again; empty for the baseline."""
    graph = calibration.space.graph
    return tuple(s for s, _ in variant.swaps if s in graph.names and graph[s].kind != "up")


@dataclass
class Calibrator:
    """Runs a calibration.

    Attributes:
        calibration: The design.
        folder: Folder of its files.
        weights: Makes the weights that proxies inherit.
        workers: Number of parallel trainings.
        cache: Folder where training processes may write.
        observer: Called on progress.
    """

    calibration: Calibration
    folder: Path
    weights: ArtifactStore
    workers: int
    cache: Path
    observer: CalibrationObserver

    @property
    def file(self) -> RunFile:
        """The file of finished runs."""
        return RunFile(self.folder / "runs.jsonl")

    def bank(self, recipe: Recipe, seed: int) -> SwapBank:
        """Return the bank of a seed with all candidates of the calibration's variants and controls."""
        return self.weights.bank(recipe, seed, self._candidates())

    def key(self, run: Run) -> str:
        """Return the key of a run in the file."""
        made_of = self.weights.baseline_key(run.recipe, run.seed) if _inherits(run) else ""
        if run.proxy == FULL and self.calibration.given:
            made_of = f"given {self.calibration.given.key}"
        return run.key(self.calibration.fingerprint, self.calibration.versions, render(run.variant).yaml, made_of)

    @property
    def has_begun(self) -> bool:
        """Whether the file has runs under further seeds with the same `Calibration.baselines`."""
        there = self.file.read()
        further = (run for run in planned_runs(self.calibration) if run.seed and _inherits(run))
        return bool(there) and any(self.key(run) in there for run in further)

    def missing(self) -> list[tuple[Run, str]]:
        """Return the runs that are not in the file, with their keys."""
        there = self.file.read()
        every = [(run, self.key(run)) for run in planned_runs(self.calibration)]
        return [(run, key) for run, key in every if key not in there]

    def run(self) -> None:
        """Train the missing runs.

        Raises:
            ArtifactError: A baseline or a bank cannot be made.
            OutputError: Results cannot be written.
        """
        self._take_given()
        todo = self.missing()
        total = len(planned_runs(self.calibration))
        lock = threading.Lock()
        position = total - len(todo)
        left = sum(_work(run) for run, _ in todo)
        made: dict[tuple[str, int], SwapBank] = {}

        def make_baseline(run: Run, member: _AssignedWorker) -> None:
            observer = self.observer.for_worker(members.index(member)) if len(members) > 1 else self.observer
            weights = replace(self.weights, worker=member.worker, observer=observer, device=member.device)
            make = weights.teacher if run.recipe.init == "bank" else weights.baseline
            try:
                self._run_on(member, lambda: make(run.recipe, run.seed))
            except ArtifactError as error:
                if not run.seed:
                    raise
                hint = "to calibrate with the baseline of seed 0 alone, use `--one-baseline` and another --name"
                raise ArtifactError(f"the baseline of seed {run.seed}: {error}\n{hint}") from None

        def make_bank(run: Run, member: _AssignedWorker) -> None:
            weights = replace(self.weights, worker=member.worker, device=member.device)
            bank = self._run_on(member, lambda: replace(self, weights=weights).bank(run.recipe, run.seed))
            made[_bank_name(run.recipe), run.seed] = bank

        def train(entry: tuple[Run, str], member: _AssignedWorker) -> None:
            nonlocal position, left
            run, key = entry
            done, final = self._train_run(run, key, made, member)
            with lock:
                if final:
                    self.file.append(run, done)
                position += 1
                left -= _work(run)
                self.observer.run_ended(run, done, position, total, left)

        devices = assign_devices(self.calibration.full.device, self.workers, self.calibration.full.amp)
        locks = {device: DeviceLock() for device in devices}
        members = [_AssignedWorker(ProxyWorker(self.cache, self._threads), device, locks[device]) for device in devices]
        try:
            bases = {self.weights.baseline_key(r.recipe, r.seed): r for r, _ in todo if _inherits(r)}
            _for_each(make_baseline, list(bases.values()), members)
            banks = {(_bank_name(r.recipe), r.seed): r for r, _ in todo if r.recipe.init == "bank"}
            _for_each(make_bank, list(banks.values()), members)
            _for_each(train, todo, members)
        finally:
            for member in members:
                member.worker.close()

    def _take_given(self) -> None:
        """Write the full trainings that are given into the file."""
        given = self.calibration.given
        for run, key in self.missing() if given else []:
            if given and run.proxy == FULL:
                self.file.append(run, Finished(key, given.results[run.variant.id, run.seed]))

    @property
    def _threads(self) -> int:
        """Threads of one training: one on a CPU, which costs the least in total and does not slow others."""
        return 1 if self.calibration.full.device == CPU else max(1, available_cores() // self.workers)

    def _run_on(self, member: _AssignedWorker, do: Callable[[], Done]) -> Done:
        """Do work on a device in parallel with others; after an out-of-memory error, do it again alone."""
        try:
            with member.lock.shared() as company:
                return do()
        except (OutOfMemory, ProxyFailure) as error:
            short = isinstance(error, OutOfMemory) or error.out_of_memory
            if member.killed or not (short and company()):
                raise
        self.observer.note("out of memory in parallel with other trainings; a training is made again alone")
        with member.lock.exclusive():
            return do()

    def _candidates(self) -> tuple[Candidate, ...]:
        """Return the candidates of all variants and controls."""
        swaps = {Candidate(slot, label): None for v in self.calibration.tested for slot, label in v.swaps}
        controls = {
            Candidate(slot, CONTROL): None for v in self.calibration.tested for slot in control_of(self.calibration, v)
        }
        return tuple({**swaps, **controls})

    def _train_run(
        self, run: Run, key: str, banks: Mapping[tuple[str, int], SwapBank], member: _AssignedWorker
    ) -> tuple[Finished, bool]:
        """Train one run; return its result, and whether it is final: a failure of the machine is retried.

        Raises:
            ProxyError: A CUDA kernel cannot be used here.
        """
        bank = banks.get((_bank_name(run.recipe), run.seed)) if run.recipe.init == "bank" else None
        swaps = tuple((slot, CONTROL) for slot in run.controls) or run.variant.swaps
        if bank and bank.problem(swaps):
            return Finished(key, None, bank.problem(swaps)), True
        job = replace(
            self.weights.job(run.variant, run.recipe, run.seed),
            **self.weights.initial_files(run.recipe, swaps, bank, run.seed),
        )
        job = self.weights.resumable(job)
        job = replace(job, recipe=replace(job.recipe, device=member.device))
        try:
            return Finished(key, self._run_on(member, lambda: member.worker.run(job))), True
        except ProxyFailure as failure:
            if failure.kind == "kernel":
                raise ProxyError(
                    f"a CUDA kernel cannot be used here: {failure}\nNAS_KERNELS=reference trains without kernels"
                ) from None
            return Finished(key, None, f"{failure.kind}: {failure}"), failure.kind in ("build", "nan", "diverged")


def _inherits(run: Run) -> bool:
    return run.recipe.init in ("baseline", "bank")


def _work(run: Run) -> float:
    return run.recipe.epochs + _OVERHEAD_EPOCHS


Task = TypeVar("Task")
Done = TypeVar("Done")


@dataclass
class _AssignedWorker:
    """A training process with its device, and the lock of that device, which others may share."""

    worker: ProxyWorker
    device: str
    lock: DeviceLock
    killed: bool = False

    def kill(self) -> None:
        """End the process for good."""
        self.killed = True
        self.worker.kill()


def _for_each(
    do: Callable[[Task, _AssignedWorker], None], tasks: Sequence[Task], members: Sequence[_AssignedWorker]
) -> None:
    """Run each task on one of the members; the first error, or Ctrl-C, stops all of them."""
    queue: Queue[Task] = Queue()
    for task in tasks:
        queue.put(task)

    def serve(member: _AssignedWorker, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                task = queue.get_nowait()
            except Empty:
                return
            do(task, member)

    run_parallel(members, serve)
