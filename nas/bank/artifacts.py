"""Trained baselines and banks on disk: made once, and found again by everything that decides their content.

They are in the folder ``weights/`` next to the studies of a storage. Names are digests of everything that decides the
content: a later study on the same data with the same recipe reuses them, and no other one does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from nas.bank.jobs import MIN_TEACHER_MAP, Bank, Candidate, DistilJob
from nas.bank.maturity import join, maturity_words, needs_more, part_recipe
from nas.bank.store import SwapBank, bank_json, candidates_of, divide_by_slot, open_bank
from nas.errors import STOPPED, ArtifactError, BaselineNotTrained, LockError, OutOfMemory, ProxyFailure
from nas.files import read_json, replacing, write_json
from nas.locks import LEASE_S, Lease, Watch, is_free, life_of
from nas.model.render import render
from nas.space.search_space import SearchSpace
from nas.space.variant import Variant
from nas.training.jobs import ProxyJob, ProxyResult, checkpoint_key
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore

_MARK = "swapnas bank 1"
_SEEDS_APART = 1_000_003
"""Between the seeds of two parts of a baseline's training; the seeds of a study are small numbers."""


class Worker(Protocol):
    """Trains and distils: a `nas.workers.process.ProxyWorker`, or a stand-in for tests.

    Attributes:
        threads: CPU threads of its next job.
    """

    threads: int

    def run(self, job: ProxyJob, on_epoch: Callable[[EpochScore], None] | None = None) -> ProxyResult:
        """Train one job; raises `nas.errors.ProxyFailure`."""

    def work(self, job: Any, on_progress: Callable[[Any], None] | None = None) -> Any:
        """Do a job of any kind; raises `nas.errors.ProxyFailure`."""

    def kill(self) -> None:
        """Abort the running job from another thread; its caller gets a `nas.errors.ProxyFailure`."""


class ArtifactObserver(Protocol):
    """Is notified while baselines and banks are made."""

    def baseline_training(self, recipe: Recipe, seed: int) -> None:
        """Handle the start of a baseline's training."""

    def distilling(self, count: int) -> None:
        """Handle the start of the distillation of `count` candidates."""

    def scoring(self, count: int) -> None:
        """Handle the start of scoring `count` swaps by the network's outputs."""

    def epoch(self, score: EpochScore, epochs: int) -> None:
        """Handle the end of an epoch of the baseline."""

    def steps(self, done: int, total: int) -> None:
        """Handle the end of a step of the distillation or scoring."""

    def note(self, text: str) -> None:
        """Handle a note for the reader of the result."""


@dataclass(frozen=True)
class Baseline:
    """A trained baseline: the file of its tensors by layer name, its curve, and what it cost."""

    file: Path
    curve: tuple[EpochScore, ...]
    cpu_seconds: float

    @property
    def map(self) -> float:
        """Its mAP50-95 at the end."""
        last = self.curve[-1].validation
        return last.map if last else 0.0


@dataclass
class ArtifactStore:
    """Makes and finds the baselines and banks that the proxies of one space and dataset start from.

    Attributes:
        folder: Where they are.
        space: The space, for its base, scale and candidates.
        data: A data.yaml that the host can read as it is, and `fingerprint` of its content.
        versions: Of the tool and the packages that decide results.
        seed: Of the baseline's training.
        worker: Trains and distils.
        observer: Is notified of both.
        scratch: Folder for temporary files of jobs, which they remove.
        device: Where baselines and banks are made; empty is the recipe's device, which is part of their names anyway.
        per_seed: Whether each seed has its own trained baseline, instead of one shared baseline of `seed`.
        stopped: Set from another thread to end all waiting.
        helpers: Further workers that each distil a part of a bank, with their devices.
    """

    folder: Path
    space: SearchSpace
    data: Path
    fingerprint: str
    versions: tuple[tuple[str, str], ...]
    seed: int
    worker: Worker
    observer: ArtifactObserver
    scratch: Path
    device: str = ""
    per_seed: bool = False
    stopped: threading.Event = field(default_factory=threading.Event)
    helpers: tuple[tuple[Worker, str], ...] = ()
    _watch: Watch = field(default_factory=Watch, init=False)

    def job(self, variant: Variant, recipe: Recipe, seed: int, yaml: str = "") -> ProxyJob:
        """Return the training of a variant from the initial values of its seed, without trained weights."""
        return ProxyJob(
            name=variant.name,
            yaml=yaml or render(variant).yaml,
            base=variant.base,
            scale=variant.scale,
            swaps=variant.swaps,
            data=str(self.data),
            data_key=self.fingerprint,
            recipe=recipe,
            seed=seed,
            scratch=str(self.scratch),
            modules=self.space.modules,
        )

    def resumable(self, job: ProxyJob) -> ProxyJob:
        """Return a complete job with a checkpoint, from which a killed training resumes."""
        return replace(job, checkpoint=str(self.folder / "running" / checkpoint_key(job, self.versions)))

    def initial_files(
        self, recipe: Recipe, swaps: Sequence[tuple[str, str]], bank: SwapBank | None, seed: int | None = None
    ) -> dict[str, Any]:
        """Return the files of a job's initial weights, as fields of `ProxyJob`; swaps may be controls."""
        if recipe.init == "scratch":
            return {"init": None}
        if recipe.init not in ("baseline", "bank"):
            return {"init": recipe.init}
        file = str(self.baseline(recipe, seed).file)
        return {"init": file, "overlay": bank.files(swaps) if bank else ()}

    def _seed_of_baseline(self, seed: int | None) -> int:
        return seed if self.per_seed and seed is not None else self.seed

    def baseline_key(self, recipe: Recipe, seed: int | None = None) -> str:
        """Return the key of the baseline that a recipe's proxies of a seed start from."""
        return baseline_key(recipe, self.fingerprint, self.space, self._seed_of_baseline(seed), self.versions)

    def _baseline_file(self, recipe: Recipe, seed: int | None) -> Path:
        return self.folder / f"baseline-{self.baseline_key(recipe, seed)}.pt"

    def is_being_made(self, recipe: Recipe, seed: int) -> bool:
        """Return whether the baseline of a seed is missing and another worker or search is making it."""
        file = self._baseline_file(recipe, seed)
        if file.exists() and file.with_suffix(".json").exists():
            return False
        lock = _lock_of(file)
        still = self._watch.seconds_still(lock, life_of(lock), LEASE_S / 2)
        return lock.exists() and not is_free(lock) and still < LEASE_S  # above that its maker is stopped

    def baseline(self, recipe: Recipe, seed: int | None = None) -> Baseline:
        """Return the trained baseline that a recipe's proxies of a seed start from, training it if necessary.

        Raises:
            BaselineNotTrained: It diverges.
            OutOfMemory: Memory ran out.
            ArtifactError: It cannot be trained.
        """
        file = self._baseline_file(recipe, seed)
        about = file.with_suffix(".json")
        with self.locked(file):
            if not (about.exists() and file.exists()):
                self._train(recipe, file, about, self._seed_of_baseline(seed))
            return _read_baseline(file)

    def _train(self, recipe: Recipe, file: Path, about: Path, seed: int) -> None:
        """Train a baseline, in parts if its recipe has no fixed number of epochs (`nas.bank.maturity`)."""
        self.observer.baseline_training(recipe.for_baseline(), seed)
        parts: list[Baseline] = []
        files: list[Path] = []
        while not parts or needs_more(recipe, [part.curve for part in parts]):
            number = len(parts)
            here = file.with_name(f"{file.stem}.part{number + 1}.pt") if recipe.base_until else file
            parts.append(self._part(recipe, number, parts[-1].file if parts else None, here, seed))
            files += [here, here.with_suffix(".json")] if recipe.base_until else []
        curve = join([part.curve for part in parts])
        if recipe.base_until:
            with replacing(file) as temporary:
                shutil.copyfile(parts[-1].file, temporary)
            words = maturity_words(recipe, curve)
            self.observer.note(f"baseline: mAP50-95 {parts[-1].map:.3f} after {len(curve)} epochs, {words}")
        cpu_seconds = sum(part.cpu_seconds for part in parts)
        write_json(about, {"curve": [asdict(score) for score in curve], "cpu_seconds": cpu_seconds})
        for part in files:
            part.unlink(missing_ok=True)

    def _part(self, recipe: Recipe, number: int, before: Path | None, file: Path, seed: int) -> Baseline:
        """Train one part of a baseline's training, or read it if it was trained before the search was killed."""
        about = file.with_suffix(".json")
        if not (about.exists() and file.exists()):
            wanted = part_recipe(recipe, number, str(before or ""))
            variant = Variant(self.space.base, self.space.scale)
            # Another part sees other windows and augmentations.
            job = self.job(variant, wanted, seed + number * _SEEDS_APART)
            init = str(before) if before else recipe.weights or None
            job = self.resumable(replace(job, init=init, save=str(file), average=False))
            job = replace(job, recipe=replace(wanted, device=self.device or wanted.device))
            try:
                result = self.worker.run(job, lambda score: self.observer.epoch(score, max(1, wanted.epochs)))
            except ProxyFailure as failure:
                not_trained = failure.kind in ("nan", "diverged")
                kind = OutOfMemory if failure.out_of_memory else BaselineNotTrained if not_trained else ArtifactError
                raise kind(f"the baseline could not be trained: {failure}") from None
            fitting, every = result.inherited
            if not wanted.epochs and fitting < every:
                file.unlink()
                raise ArtifactError(
                    f"{recipe.weights} fits {fitting} of the {every} tensors of {variant.stock} for these data: it "
                    "was trained for other classes, or another task; give --base-epochs to train it here first"
                )
            write_json(about, {"curve": [asdict(s) for s in result.curve], "cpu_seconds": result.cpu_seconds})
        return _read_baseline(file)

    def teacher(self, recipe: Recipe, seed: int | None = None) -> Baseline:
        """Return the baseline of a seed, checked for use as a teacher.

        Raises:
            BaselineNotTrained: It has not learnt enough, or diverges.
            OutOfMemory, ArtifactError: As `baseline`.
        """
        baseline = self.baseline(recipe, seed)
        if baseline.map < MIN_TEACHER_MAP:
            raise BaselineNotTrained(
                f"the baseline has not learnt (mAP50-95 {baseline.map:.3f} after {len(baseline.curve)} epochs), so "
                "there is nothing to distil from it: train it longer (--base-epochs), bring trained weights "
                "(--weights), or search from scratch (--init scratch)"
            )
        return baseline

    def bank(self, recipe: Recipe, seed: int, candidates: Sequence[Candidate] | None = None) -> SwapBank:
        """Return the bank of a recipe, distilling the candidates that it does not hold yet.

        Args:
            recipe: Of the proxies that will use it.
            seed: Of the distillation.
            candidates: The candidates that it must hold; None is those of the whole space.

        Raises:
            BaselineNotTrained, OutOfMemory: As `teacher`.
            ArtifactError: As `teacher`, or the bank on disk does not match its name.
        """
        baseline = self.teacher(recipe, seed)
        wanted = tuple(candidates_of(self.space) if candidates is None else candidates)
        about = {
            "kind": _MARK,
            "base": self.space.base + self.space.scale,
            "data": self.fingerprint,
            "baseline": self.baseline_key(recipe, seed),
            "recipe": {k: v for k, v in recipe.identity().items() if k in _BANK_FIELDS},
            "seed": seed,
            "versions": [list(pair) for pair in self.versions],
        }
        if self.space.modules:
            about["modules"] = [file.import_name for file in self.space.modules]
        folder = self.folder / f"bank-{_key([about], ())}"
        with self.locked(folder):
            bank = open_bank(folder, about)
            missing = tuple(c for c in wanted if (c.slot, c.label) not in bank.candidates)
            if missing:
                bank = self._distil(bank, missing, recipe, seed, baseline, about)
        return bank.subset(wanted)

    def _distil(
        self,
        bank: SwapBank,
        missing: tuple[Candidate, ...],
        recipe: Recipe,
        seed: int,
        baseline: Baseline,
        about: dict[str, Any],
    ) -> SwapBank:
        self.observer.distilling(len(missing))
        proxy = self.job(Variant(self.space.base, self.space.scale), replace(recipe, init="baseline"), seed)
        proxy = replace(proxy, init=str(baseline.file))
        workers = [(self.worker, self.device or recipe.device), *self.helpers]
        parts = divide_by_slot(missing, len(workers))
        progress = [(0, 1)] * len(parts)

        def distil(part: int) -> Bank:
            worker, device = workers[part]
            job = DistilJob(replace(proxy, recipe=replace(proxy.recipe, device=device)), parts[part], str(bank.folder))

            def on_progress(seen: tuple[int, int]) -> None:
                before = min(progress)
                progress[part] = seen
                if min(progress) > before:  # all parts have as many steps
                    self.observer.steps(*min(progress))

            made: Bank = worker.work(job, on_progress)
            return made

        try:
            if len(parts) == 1:
                made = [distil(0)]
            else:
                with ThreadPoolExecutor(len(parts)) as pool:
                    made = list(pool.map(distil, range(len(parts))))
        except ProxyFailure as failure:
            kind = OutOfMemory if failure.out_of_memory else ArtifactError
            raise kind(f"the bank could not be distilled: {failure}") from None
        places = {c: place for place, c in enumerate(missing)}
        found = sorted((c for part in made for c in part.candidates), key=lambda c: places[c.candidate])
        drops = {slot: drop for part in made for slot, drop in part.drops}
        if len(found) > 1 and all(c.raised for c in found):
            last = found[-1]
            raise ArtifactError(
                "the bank could not be distilled: every candidate failed; the last, "
                f"{last.candidate.slot}={last.candidate.label}: {last.failure}"
            )
        bank = replace(
            bank,
            teacher_map=made[0].teacher_map,
            drops={**bank.drops, **{c.slot: drops[c.slot] for c in missing if c.slot in drops}},
            candidates={**bank.candidates, **{(c.candidate.slot, c.candidate.label): c for c in found}},
            cpu_seconds=bank.cpu_seconds + sum(part.cpu_seconds for part in made),
            levels=dict(made[0].levels) or bank.levels,
        )
        if not all(c.raised for c in found):  # else the machine may be the cause: the next search retries
            write_json(bank.folder / "bank.json", {"about": about, **bank_json(bank)})
        return bank

    @contextlib.contextmanager
    def locked(self, what: Path) -> Iterator[None]:
        """Lock a file or folder while it is made; another search that needs it waits, unless the maker is stopped."""
        lease = Lease(_lock_of(what))
        noted = False
        while not self._acquired(lease):
            if not noted:
                self.observer.note(f"another worker or search is making {what.name}; waiting for it")
                noted = True
            if self.stopped.wait(0.5):
                raise LockError(STOPPED)
        # One that was stopped, and is deprived of the lease, makes the same once more when it continues.
        try:
            yield
        finally:
            lease.release()

    def _acquired(self, lease: Lease) -> bool:
        try:
            return lease.try_acquire()
        except LockError as error:
            raise ArtifactError(f"cannot write to {self.folder}: {error}") from None


def _read_baseline(file: Path) -> Baseline:
    """Return the baseline in a file, by what was written about it."""
    return read_json(
        file.with_suffix(".json"),
        lambda body: Baseline(file, tuple(map(EpochScore.from_json, body["curve"])), float(body["cpu_seconds"])),
    )


def _lock_of(what: Path) -> Path:
    """Return the lock file of a file or folder that is being made."""
    return what.with_name(f"{what.name}.lock")


_BANK_FIELDS = (
    "imgsz", "windows_at", "validated_on", "batch", "weight_decay", "channels_last", "device", "amp", "start",
    "bank_epochs", "bank_lr0",
)  # fmt: skip


def baseline_key(recipe: Recipe, data: str, space: SearchSpace, seed: int, versions: Any) -> str:
    """Return the key of the baseline of a seed."""
    what = [recipe.for_baseline().identity(), data, space.base, space.scale, seed]
    return _key(what + [recipe.base_until] * bool(recipe.base_until), versions)


def _key(what: list[Any], versions: tuple[tuple[str, str], ...]) -> str:
    text = json.dumps([what, [list(pair) for pair in versions]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
