"""Trained tensors that proxies inherit: the baseline and the bank, made once and found again by what decides them.

They lie beside the studies of a storage, in ``weights/``: a later study on the same data with the same recipe takes
them as they are. Names are digests of everything that decides the content, so nothing of another dataset, recipe or
version is ever taken for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nas.distil import AGAIN, LEAST_MAP, Bank, Candidate, DistilJob, Distilled
from nas.errors import StudyError
from nas.proxy import ProxyFailure, ProxyJob, ProxyResult
from nas.recipe import Recipe
from nas.render import render
from nas.scores import EpochScore
from nas.space import SearchSpace
from nas.storage import try_lock
from nas.variant import AFTER, Variant

IDLE = 0.001
"""mAP50-95 that the baseline has to lose without what a layer says, for the layer to matter."""
_MARK = "swapnas bank 1"

Parsed = TypeVar("Parsed")


class Worker(Protocol):
    """Who trains and distils: `nas.proxy.ProxyWorker`."""

    def run(self, job: ProxyJob, on_epoch: Callable[[EpochScore], None] | None = None) -> ProxyResult:
        """Train one job; raises `nas.proxy.ProxyFailure`."""

    def work(self, job: Any, on_progress: Callable[[Any], None] | None = None) -> Any:
        """Do a job of another kind; raises `nas.proxy.ProxyFailure`."""


class Listener(Protocol):
    """Who is told while weights are made."""

    def baseline_training(self, recipe: Recipe) -> None:
        """Hear that the baseline that others inherit from starts to train."""

    def distilling(self, count: int) -> None:
        """Hear that so many candidates start to be distilled."""

    def epoch(self, score: EpochScore, epochs: int) -> None:
        """Hear that an epoch of the baseline is over."""

    def steps(self, done: int, total: int) -> None:
        """Hear how far the distillation is."""

    def note(self, text: str) -> None:
        """Hear what a reader of the result should know."""


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


@dataclass(frozen=True)
class SwapBank:
    """The distilled candidates of a space.

    Attributes:
        folder: Where their files lie.
        teacher_map: mAP50-95 of the baseline that they learnt from.
        drops: Slot to the mAP50-95 that the baseline loses without what the layer says.
        candidates: By slot and label.
        cpu_seconds: Of distilling all of them.
    """

    folder: Path
    teacher_map: float = 0.0
    drops: dict[str, float] = field(default_factory=dict)
    candidates: dict[tuple[str, str], Distilled] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    def of(self, wanted: Sequence[Candidate]) -> SwapBank:
        """Return the bank with these candidates alone: what other spaces have put into it does not concern this one."""
        kept = {(c.slot, c.label): self.candidates[c.slot, c.label] for c in wanted}
        slots = {slot for slot, _ in kept}
        return replace(self, drops={s: d for s, d in self.drops.items() if s in slots}, candidates=kept)

    def files(self, swaps: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """Return the files whose tensors make the swaps."""
        return tuple(str(self.folder / self.candidates[swap].file) for swap in swaps)

    def problem(self, swaps: Iterable[tuple[str, str]]) -> str:
        """Say why a variant cannot be assembled; empty if it can."""
        for slot, label in swaps:
            if self.candidates[slot, label].failure:
                return f"{slot}={label}: {self.candidates[slot, label].failure}"
        return ""

    def error(self, swaps: Iterable[tuple[str, str]]) -> float | None:
        """Return the largest distillation error among swaps; None for none."""
        errors = [self.candidates[swap].error for swap in swaps if swap in self.candidates]
        return max(errors, default=None)

    @property
    def failures(self) -> list[Distilled]:
        """The swaps that cannot be made."""
        return [c for c in self.candidates.values() if c.failure and c.candidate.label != AGAIN]

    @property
    def idle_slots(self) -> list[str]:
        """The slots that cannot matter on these data: without what the layer says, nothing is lost."""
        return [slot for slot, drop in self.drops.items() if drop < IDLE]


def candidates_of(space: SearchSpace) -> tuple[Candidate, ...]:
    """Return what a bank of a space holds: every choice of every layer, and each layer's own module anew."""
    found: dict[Candidate, None] = {}
    for slot in space.active:
        for layer in slot.layers:
            for label in slot.choices[1:]:
                found[Candidate(layer, label)] = None
            if not layer.startswith(AFTER) and space.graph[layer].kind != "up":  # an upsampling has nothing to learn
                found[Candidate(layer, AGAIN)] = None
    return tuple(found)


def controls(swaps: Iterable[tuple[str, str]], bank: SwapBank) -> tuple[tuple[str, str], ...]:
    """Return the control of swaps: the same layers, with their own modules anew where these can be."""
    return tuple((slot, AGAIN) for slot, _ in swaps if (slot, AGAIN) in bank.candidates)


@dataclass
class Weights:
    """Makes and finds the tensors that the proxies of one space and dataset inherit.

    Attributes:
        folder: Where they lie.
        space: The space, for its base, scale and candidates.
        data: A data.yaml that the host can read as it is, and `fingerprint` of what it names.
        versions: Of the tool and the packages that decide results.
        seed: Of the baseline's training.
        worker: Who trains.
        listener: Told of what is made.
        scratch: Where jobs may make files, which they remove.
    """

    folder: Path
    space: SearchSpace
    data: Path
    fingerprint: str
    versions: tuple[tuple[str, str], ...]
    seed: int
    worker: Worker
    listener: Listener
    scratch: Path

    def job(self, variant: Variant, recipe: Recipe, seed: int, yaml: str = "") -> ProxyJob:
        """Return the training of a variant from initial values of its seed; nothing is inherited yet."""
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
        )

    def inherited(self, recipe: Recipe, swaps: Sequence[tuple[str, str]], bank: SwapBank | None) -> dict[str, Any]:
        """Return what a job inherits, as the fields of `ProxyJob`; swaps may be controls."""
        if recipe.init == "scratch":
            return {"init": None}
        if recipe.init not in ("baseline", "bank"):
            return {"init": recipe.init}
        file = str(self.baseline(recipe).file)
        return {"init": file, "overlay": bank.files(swaps) if bank else ()}

    def baseline_key(self, recipe: Recipe) -> str:
        """Return the name of a recipe's baseline."""
        what = [recipe.for_baseline().identity(), self.fingerprint, self.space.base, self.space.scale, self.seed]
        return _key(what, self.versions)

    def baseline(self, recipe: Recipe) -> Baseline:
        """Return the trained baseline that a recipe's proxies inherit from, training it if need be.

        Raises:
            StudyError: It cannot be trained, or has not learnt.
        """
        file = self.folder / f"baseline-{self.baseline_key(recipe)}.pt"
        about = file.with_suffix(".json")
        with self._alone(file):
            if not (about.exists() and file.exists()):
                self._train(recipe, file, about)
            return _read_json(
                about,
                lambda body: Baseline(
                    file, tuple(EpochScore.from_json(score) for score in body["curve"]), float(body["cpu_seconds"])
                ),
            )

    def _train(self, recipe: Recipe, file: Path, about: Path) -> None:
        wanted = recipe.for_baseline()
        self.listener.baseline_training(wanted)
        variant = Variant(self.space.base, self.space.scale)
        job = replace(self.job(variant, wanted, self.seed), init=recipe.weights or None, save=str(file))
        try:
            result = self.worker.run(job, lambda score: self.listener.epoch(score, max(1, wanted.epochs)))
        except ProxyFailure as failure:
            raise StudyError(f"the baseline could not be trained: {failure}") from None
        fitting, every = result.inherited
        if not wanted.epochs and fitting < every:
            file.unlink()
            raise StudyError(
                f"{recipe.weights} fits {fitting} of the {every} tensors of {variant.base}{variant.scale} for these "
                "data, so it was trained for other classes: give --base-epochs to train it here first"
            )
        _write_json(about, {"curve": [asdict(s) for s in result.curve], "cpu_seconds": result.cpu_seconds})

    def bank(self, recipe: Recipe, seed: int, candidates: Sequence[Candidate] | None = None) -> SwapBank:
        """Return the bank of a recipe, distilling what it does not hold yet.

        Args:
            recipe: Of the proxies that will use it.
            seed: Of the distillation.
            candidates: What it has to hold; None is the whole space.

        Raises:
            StudyError: The baseline has not learnt, or the bank on the disk is not the one that its name says.
        """
        baseline = self.baseline(recipe)
        if baseline.map < LEAST_MAP:
            raise StudyError(
                f"the baseline has not learnt (mAP50-95 {baseline.map:.3f} after {len(baseline.curve)} epochs), so "
                "there is nothing to distil from it: train it longer (--base-epochs), bring trained weights "
                "(--weights), or search from scratch (--init scratch)"
            )
        wanted = tuple(candidates_of(self.space) if candidates is None else candidates)
        about = {
            "kind": _MARK,
            "base": self.space.base + self.space.scale,
            "data": self.fingerprint,
            "baseline": self.baseline_key(recipe),
            "recipe": {k: v for k, v in recipe.identity().items() if k in _BANK_FIELDS},
            "seed": seed,
            "versions": [list(pair) for pair in self.versions],
        }
        folder = self.folder / f"bank-{_key([about], ())}"
        with self._alone(folder):
            bank = _open_bank(folder, about)
            missing = tuple(c for c in wanted if (c.slot, c.label) not in bank.candidates)
            if missing:
                bank = self._distil(bank, missing, recipe, seed, baseline, about)
        return bank.of(wanted)

    def _distil(
        self,
        bank: SwapBank,
        missing: tuple[Candidate, ...],
        recipe: Recipe,
        seed: int,
        baseline: Baseline,
        about: dict[str, Any],
    ) -> SwapBank:
        self.listener.distilling(len(missing))
        proxy = self.job(Variant(self.space.base, self.space.scale), replace(recipe, init="baseline"), seed)
        job = DistilJob(replace(proxy, init=str(baseline.file)), missing, str(bank.folder))
        try:
            made: Bank = self.worker.work(job, lambda seen: self.listener.steps(*seen))
        except ProxyFailure as failure:
            raise StudyError(f"the bank could not be distilled: {failure}") from None
        bank = replace(
            bank,
            teacher_map=made.teacher_map,
            drops={**bank.drops, **dict(made.drops)},
            candidates={**bank.candidates, **{(c.candidate.slot, c.candidate.label): c for c in made.candidates}},
            cpu_seconds=bank.cpu_seconds + made.cpu_seconds,
        )
        _write_json(bank.folder / "bank.json", {"about": about, **_bank_json(bank)})
        return bank

    @contextlib.contextmanager
    def _alone(self, what: Path) -> Iterator[None]:
        """Hold a file or folder that is being made; another search that wants it waits."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(what.with_name(f"{what.name}.lock"), "a+", encoding="utf-8")  # noqa: SIM115  # closed below
        except OSError as error:
            raise StudyError(f"cannot write to {self.folder}: {error}") from None
        told = False
        with lock:
            while not try_lock(lock):
                if not told:
                    self.listener.note(f"another search is making {what.name}; waiting for it")
                    told = True
                time.sleep(0.5)
            yield


_BANK_FIELDS = ("imgsz", "batch", "weight_decay", "channels_last", "device", "amp", "start", "bank_epochs", "bank_lr0")


def _key(what: list[Any], versions: tuple[tuple[str, str], ...]) -> str:
    text = json.dumps([what, [list(pair) for pair in versions]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bank_json(bank: SwapBank) -> dict[str, Any]:
    candidates = [
        {
            **asdict(c),
            "start_error": c.start_error if math.isfinite(c.start_error) else None,  # JSON has no other word for it
            "error": c.error if math.isfinite(c.error) else None,
            "sha256": _sha256(bank.folder / c.file) if c.file else "",
        }
        for c in bank.candidates.values()
    ]
    body = {"teacher_map": bank.teacher_map, "drops": bank.drops, "cpu_seconds": bank.cpu_seconds}
    return {**body, "candidates": candidates}


def _open_bank(folder: Path, about: dict[str, Any]) -> SwapBank:
    """Return the bank in a folder as far as it is there; candidates whose files are gone are left out.

    Raises:
        StudyError: It is the bank of something else, or a file is not what was distilled.
    """
    index = folder / "bank.json"
    if not index.exists():
        return SwapBank(folder)
    theirs, bank, digests = _read_json(index, lambda body: _read_bank(folder, body))
    different = [k for k in about if theirs.get(k) != about[k]]
    if different:
        raise StudyError(
            f"{folder} holds a bank of something else ("
            + "; ".join(f"{k}: {theirs.get(k)}, not {about[k]}" for k in different)
            + "): move it away"
        )
    found = {swap: c for swap, c in bank.candidates.items() if not c.file or (folder / c.file).exists()}
    for (slot, label), c in found.items():
        if c.file and _sha256(folder / c.file) != digests[slot, label]:
            raise StudyError(f"{folder / c.file} is not what was distilled ({slot}={label}): delete it")
    return replace(bank, candidates=found)


def _read_bank(folder: Path, body: Any) -> tuple[dict[str, Any], SwapBank, dict[tuple[str, str], str]]:
    """Return what `_bank_json` wrote: what it is the bank of, the bank, and the digests of its files."""
    found, digests = {}, {}
    for entry in body["candidates"]:
        c = Candidate(**entry["candidate"])
        start, error = (math.nan if entry[k] is None else float(entry[k]) for k in ("start_error", "error"))
        found[c.slot, c.label] = Distilled(c, entry["file"], start, error, entry["failure"])
        digests[c.slot, c.label] = entry["sha256"]
    bank = SwapBank(folder, body["teacher_map"], dict(body["drops"]), found, body["cpu_seconds"])
    return dict(body["about"]), bank, digests


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_json(path: Path, parse: Callable[[Any], Parsed]) -> Parsed:
    """Return what `parse` makes of a file."""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        why = str(error)
    except (KeyError, TypeError, AttributeError):
        why = "it is not what this version writes"
    raise StudyError(f"cannot read {path}: {why}; delete it to have it made anew")


def _write_json(path: Path, body: Any) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(body, indent=1), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise StudyError(f"cannot write {path}: {error}") from None
