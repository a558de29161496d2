"""From the options of ``nas train`` to finished full trainings: what is missing, who trains it, what is stored."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from nas.data.dataset import Dataset, load_or_demo, write_resolved
from nas.device import CPU, assign_devices
from nas.engines.meter import Meter, study_meter
from nas.errors import DataError, NasError, OptionError, OutputError, ProxyFailure, StudyError
from nas.files import write_atomic
from nas.full.arguments import FullOptions, can_distil, check_arguments, deciding, device_of, group_of, read_arguments
from nas.full.models import Model, baseline_model, chosen_models, pruned_model, scaled_model
from nas.full.process import Pruning, is_of_machine, read_curve, run_training
from nas.full.run import FullEpoch, FullRun, FullScores
from nas.full.start import Start, checkpoint, made_from, start_of, starts_by_seed
from nas.full.store import Claim, FullRuns
from nas.model.host import version
from nas.own import use_stored
from nas.space.bases import task_of_base
from nas.study.settings import current_versions
from nas.study.storage import shorten_timeouts
from nas.study.study import Study
from nas.workers.count import available_cores
from nas.workers.parallel import run_parallel

_WAIT_S = 5.0
_STRIDE = 32
_DISTILLED = "+distil"


class FullObserver(Protocol):
    """Callbacks on the progress of full trainings."""

    def note(self, text: str) -> None:
        """Handle a note for the reader."""

    def epoch(self, run: FullRun, last: FullEpoch) -> None:
        """Handle the end of an epoch."""


@dataclass
class FullTraining:
    """Full trainings of one study that can run.

    Attributes:
        study: The study.
        dataset: Its dataset, checked.
        wanted: What is to be trained, in this order; finished ones among it are left as they are.
        models: The models by the row's ID.
        starts: What they start from, by seed.
        arguments: The host's arguments.
        device: As the host takes it.
        workers: Number of parallel trainings here.
        cache: Where the host may write its settings.
        observer: Called on progress.
        failed: Keys of the runs that have failed here.
    """

    study: Study
    dataset: Dataset
    wanted: tuple[FullRun, ...]
    models: Mapping[str, Model]
    starts: Mapping[int, Start]
    arguments: Mapping[str, Any]
    device: str
    workers: int
    cache: Path
    observer: FullObserver
    runs: FullRuns = field(init=False)
    failed: set[object] = field(default_factory=set, init=False)
    _meter: Meter | None = field(default=None, init=False)
    _measuring: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        """Prepare the storage of the runs."""
        self.runs = FullRuns(self.study.location)

    @classmethod
    def open(cls, cache: Path, study: Study, options: FullOptions, observer: FullObserver) -> FullTraining:
        """Check everything that can be checked before a training, and return what can run.

        Raises:
            NasError: Anything about the study, the data or the options is wrong.
        """
        s = study.settings
        if s.table:
            raise StudyError(f"{study.shown} replays a table: it has no data to train on")
        dataset = _dataset(study, options.data)
        use_stored(s.space.modules, study.shown)
        given = read_arguments(options.arguments)
        asked = options.imgsz or s.target or task_of_base(s.space.base).imgsz
        imgsz = -(-asked // _STRIDE) * _STRIDE
        if imgsz != asked:
            observer.note(f"{imgsz} px, not {asked}: Ultralytics rounds the image size up to a multiple of {_STRIDE}")
        check_arguments({"epochs": options.epochs, "imgsz": imgsz, "device": options.device})
        if options.distill and not can_distil():
            raise OptionError(
                f"--distill: the installed Ultralytics {version()} has no distill_model; 8.4.60 and later have it"
            )
        models = list(
            chosen_models(study, best=options.best, trial=options.trial, variants=options.variants, front=options.front)
        )
        base = baseline_model(study)
        variants = [model for model in models if model.kind == "variant"]
        if (options.distill or {"pruned", "scaled"} & {*options.extras}) and not variants:
            raise StudyError(
                f"the chosen variant of {study.shown} is the baseline itself: there is nothing to distil, to prune "
                "or to scale to; --variant ID chooses another"
            )
        if options.distill or "baseline" in options.extras:
            models = [base, *(model for model in models if model.kind != "baseline")]
        for extra, make in (("pruned", pruned_model), ("scaled", scaled_model)):
            for variant in variants if extra in options.extras else []:
                if variant.gflops < base.gflops:
                    models.append(make(study, variant.gflops))
                else:
                    observer.note(f"{variant.name} has no fewer GFLOPs than the stock model: none is {extra} to them")
        start = start_of(study, options.start, dataset.names)
        what = deciding(given)
        versions = current_versions()
        host = [pair for pair in versions if pair[0] in ("ultralytics", "torch")]
        decided = (dataset.fingerprint, options.epochs, imgsz, start.name, what, host)
        group = group_of(*decided, *made_from(study, start))
        starts = starts_by_seed(study, start, models, options.seeds, observer.note)
        wanted = tuple(
            FullRun(
                model=model.model + _DISTILLED * (options.distill and model.kind == "variant"),
                kind=model.kind,
                title=model.title + ", distilled" * (options.distill and model.kind == "variant"),
                name=model.name,
                yaml=model.yaml,
                base=model.variant.base,
                scale=model.variant.scale,
                swaps=model.variant.swaps,
                seed=seed,
                group=group,
                start=start.name,
                distilled=options.distill and model.kind == "variant",
                arguments=what,
                epochs=options.epochs,
                imgsz=imgsz,
                params=model.params,
                gflops=model.gflops,
                versions=versions,
            )
            for seed in range(options.seeds)
            for model in dict.fromkeys(models)
        )
        device = device_of(options.device)
        by_row = {run.model: model for run in wanted for model in models if model.name == run.name}
        return cls(study, dataset, wanted, by_row, starts, given, device, options.workers, cache, observer)

    # ---- running ----------------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """The folder of the trainings, as ``runs/`` of the host."""
        return self.study.location.folder.absolute() / "runs"

    def run(self) -> list[FullRun]:
        """Train what is missing, and return the rows of all that is wanted.

        Raises:
            NasError: A training cannot be made here; what has finished is stored.
        """
        done = {run.key for run in self.runs.read() if run.status == "done"}
        todo = [run for run in self.wanted if run.key not in done]
        self.observer.note(
            f"{len(self.wanted)} full trainings, {len(self.wanted) - len(todo)} of them are done: "
            f"{self.wanted[0].settings}, on {self.device}"
        )
        if todo:
            self.runs.leases  # noqa: B018  made here, in the main thread
            data = write_resolved(self.dataset, self.folder / "data")
            devices = assign_devices(self.device, self.workers) if "," not in self.device else [self.device]
            members = [_Member(self, data, device, len(devices)) for device in devices]
            run_parallel(members, lambda member, stop: member.work(stop))
        rows = {run.key: run for run in self.runs.read()}
        return [rows[run.key] for run in self.wanted if run.key in rows]

    def teacher_of(self, run: FullRun) -> FullRun | None:
        """Return the finished baseline of a run's seed and settings; None if it has not finished.

        Raises:
            StudyError: It failed here; one that failed before is trained again.
        """
        own = next(r for r in self.wanted if r.kind == "baseline" and r.seed == run.seed)
        found = next((r for r in self.runs.read() if r.key == own.key), None)
        if found and found.status == "failed" and own.key in self.failed:
            raise StudyError(f"the teacher, the baseline of seed {run.seed}, failed: {found.failure}")
        return found if found and found.status == "done" else None

    def latency(self, run: FullRun) -> tuple[float | None, str]:
        """Return the latency of a run's fused model here, and the machine."""
        with self._measuring:
            if self._meter is None:
                place, engine = self.study.location.folder / "latency", self.study.settings.engine
                self._meter = study_meter(engine, place, self.device.split(",")[0], run.imgsz)
            found = self._meter.measure(run.yaml, run.scale)
        return found.ms, found.on


class _Member:
    """One of several parallel trainings, on its device."""

    def __init__(self, training: FullTraining, data: Path, device: str, company: int) -> None:
        self.training, self.data, self.device = training, data, device
        self.threads = max(1, available_cores() // company) if device == CPU and company > 1 else 0
        self._killed = threading.Event()
        self._pruning = Pruning(training.study, data, training.cache, self.threads, training.observer.note)

    def kill(self) -> None:
        """End the training from another thread; it can be resumed."""
        shorten_timeouts()
        self._killed.set()
        self._pruning.kill()

    def work(self, stop: threading.Event) -> None:
        """Train until nothing is left."""
        t = self.training
        failed = t.failed  # of all workers: none of them tries again what has failed here
        while not stop.is_set():
            open_runs = [run for run in t.wanted if run.key not in failed]
            able = [run for run in open_runs if not run.distilled or self._has_teacher(run, failed)]
            claim, busy = t.runs.claim(able)
            if claim is not None:
                self._train(claim)
            elif busy or len(able) < len([run for run in open_runs if run.key not in failed]):
                stop.wait(_WAIT_S)  # others are at it, or at a teacher: they may die
            else:
                return

    def _has_teacher(self, run: FullRun, failed: set[object]) -> bool:
        try:
            return self.training.teacher_of(run) is not None
        except StudyError as error:
            self.training.observer.note(f"{run.name} seed {run.seed}: {error}")
            failed.add(run.key)
            return False

    def _train(self, claim: Claim) -> FullRun:
        """Train a claimed run, store its result and return it; a failure is stored too.

        Raises:
            NasError: The machine is the cause, such as a full disk; the run can be resumed.
        """
        t, started, before = self.training, time.monotonic(), claim.run
        name = f"{before.name}{_DISTILLED * before.distilled}-{before.group}-seed{before.seed}"
        folder = t.folder / name
        try:
            run = replace(before, folder=str(folder))
            words = f"resuming {name}" if before.attempts > 1 else f"training {name} ({before.title})"
            t.observer.note(words)
            claim.store(run)

            def on_epoch(curve: tuple[FullEpoch, ...]) -> None:
                if curve:
                    seconds = before.seconds + time.monotonic() - started
                    claim.store(replace(run, curve=curve, seconds=round(seconds, 1)))
                    t.observer.epoch(claim.run, curve[-1])

            job, inherited = self._job(run, folder)
            run = replace(run, inherited=inherited)
            scores = run_training(job, folder, self._killed, on_epoch)
            ended = self._ended(replace(run, curve=read_curve(folder)), scores, folder)
        except ProxyFailure as failure:
            if self._killed.is_set():
                claim.release()
                return claim.run
            if is_of_machine(failure):
                claim.release()
                raise OutputError(f"{name}: {failure}\nstart again, and it will be resumed") from None
            ended = replace(claim.run, status="failed", failure=str(failure))
            t.failed.add(before.key)  # before its row is free for others
            t.observer.note(f"{name} failed: {failure}")
        except BaseException:  # Ctrl-C, or an error that another start may not meet
            with contextlib.suppress(NasError):
                claim.release()
            raise
        seconds = before.seconds + time.monotonic() - started
        claim.end(replace(ended, seconds=round(seconds, 1)))
        return ended

    def _ended(self, run: FullRun, scores: FullScores, folder: Path) -> FullRun:
        """Return a finished run with its scores and its latency."""
        weights = folder / "weights" / "best.pt"
        timed: tuple[float | None, str] = (None, "")
        try:
            timed = self.training.latency(run)
        except NasError as error:  # the training is worth more
            self.training.observer.note(f"{folder.name}: its latency is left out, {error}")
        self.training.observer.note(f"{folder.name}: {task_of_base(run.base).metric} {scores.map:.4f}, {weights}")
        return replace(
            run,
            status="done",
            scores=scores,
            weights=str(weights),
            latency_ms=timed[0],
            latency_on=timed[1],
            failure="",
        )

    def _job(self, run: FullRun, folder: Path) -> tuple[dict[str, Any], tuple[int, int]]:
        """Return the job of a run, and how many tensors it inherits; write what it starts from into its folder.

        Raises:
            NasError: It cannot be made.
        """
        t = self.training
        made = checkpoint(t.models[run.model], t.starts[run.seed], self._pruning.make)
        model = folder / (f"start/{run.name}.pt" if made else f"{run.name}.yaml")
        try:
            write_atomic(folder / f"{run.name}.yaml", run.yaml)
            if made:
                write_atomic(model, made.content)
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from None
        arguments: dict[str, Any] = {
            **t.arguments,
            "data": str(self.data),
            **{name: getattr(run, name) for name in ("epochs", "imgsz", "seed")},
            "device": self.device,
            "project": str(folder.parent),
            "name": folder.name,
            "exist_ok": True,
        }
        if run.distilled:
            teacher = t.teacher_of(run)
            if teacher is None or not Path(teacher.weights).exists():
                raise StudyError(
                    f"{run.name}: the weights of its teacher are not here"
                    + (f" ({teacher.weights}): the baseline was trained elsewhere" if teacher else "")
                )
            arguments["distill_model"] = teacher.weights
        job = {
            "task": task_of_base(run.variant.base).name,
            "model": str(model),
            "arguments": arguments,
            "images": [str(image) for image in t.dataset.val],
            "modules": [asdict(module) for module in t.study.settings.space.modules],
            "threads": self.threads,
            "cache": str(t.cache),
        }
        return job, (made.kept, made.given) if made else (0, 0)


def _dataset(study: Study, data: str | None) -> Dataset:
    """Return the dataset of a study.

    Raises:
        DataError: It is gone, or has changed since.
        StudyError: The study was made with another version of the host.
    """
    s = study.settings
    made, here = dict(s.versions).get("ultralytics"), dict(current_versions()).get("ultralytics")
    if made != here:
        raise StudyError(
            f"{study.shown} was made with Ultralytics {made}, and {here} is installed: a full training would be "
            f"compared with proxies of another host; pip install ultralytics=={made}, or search again"
        )
    path = data or s.data or None
    try:
        dataset = load_or_demo(path, task_of_base(s.space.base).name)
    except DataError as error:
        raise DataError(f"{error}\n{study.shown} was made on {path}; if it moved, give --data") from None
    if dataset.fingerprint != s.fingerprint:
        raise DataError(
            f"{path or 'the demo data'} has changed since {study.shown} was made (fingerprint {dataset.fingerprint}, "
            f"not {s.fingerprint}): its ranking does not hold for these data; search again"
        )
    return dataset
