"""Studies: what a search keeps, in SQLite through Optuna, so that it survives anything.

A study holds its settings (space, recipe, dataset, versions) and its trials. It can be resumed only with the same
settings: scores of another recipe or dataset cannot stand in one ranking. One search at a time works on a study; a lock
that dies with its process says so.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.bank import SwapBank
from nas.errors import StudyError
from nas.objective import Goal
from nas.own import differences as module_differences
from nas.recipe import Recipe
from nas.scores import EpochScore
from nas.space import SearchSpace
from nas.storage import StudyPlace, check_file, explained, held, open_storage, place
from nas.trial import Trial

_SCHEMA = 2
_SETTINGS, _TARGET, _REQUEST, _RECORD = "nas_settings", "nas_target", "nas_request", "record"
_BASELINE, _BANK = "nas_baseline", "nas_bank"


@dataclass(frozen=True)
class Settings:
    """What makes the trials of a study comparable.

    Attributes:
        space: What is searched.
        recipe: How proxies are trained.
        data: Path of the data.yaml, or empty for the demo data; it may move, its fingerprint may not change.
        fingerprint: Of the dataset.
        classes: Class names.
        images: Training and validation images.
        seed: Of the proxies and of the sampler.
        score: Which of `nas.scores.SCORES` ranks.
        calibration: What a calibration says of the proxy (`nas.judge.Answer` as plain values); empty without one.
        floor: mAP50-95 that a variant may lose against the baseline before it is ranked below all that do not.
        versions: Of the tool and the packages that decide results.
        sampler: As `nas.samplers.SAMPLERS`, or ``auto``; scores do not depend on it.
        objective: One of `nas.objective.OBJECTIVES`.
        latency_on: The machine that latencies are measured on, as `nas.latency.machine`; empty if none are.
        table: Digest of the table that is searched in place of training; empty if proxies are trained.
    """

    space: SearchSpace
    recipe: Recipe
    data: str
    fingerprint: str
    classes: tuple[str, ...]
    images: tuple[int, int]
    seed: int
    floor: float
    versions: tuple[tuple[str, str], ...]
    score: str = "map"
    calibration: str = ""
    sampler: str = "auto"
    objective: str = "map_per_gflop"
    latency_on: str = ""
    table: str = ""

    @property
    def goal(self) -> Goal:
        """What the study looks for."""
        return Goal(self.objective, dict(self.space.limits).get("min_map", 0.0))

    @property
    def answer(self) -> dict[str, Any]:
        """What a calibration says of the proxy; empty without one."""
        found: dict[str, Any] = json.loads(self.calibration) if self.calibration else {}
        return found

    @property
    def error(self) -> float | None:
        """Standard deviation of one score, where a calibration says."""
        return self.answer.get("error")

    def to_json(self) -> str:
        """Return the settings as text."""
        return json.dumps({**asdict(self), "space": self.space.to_json(), "schema": _SCHEMA}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Return the settings that `to_json` wrote."""
        body = json.loads(text)
        if body.pop("schema") != _SCHEMA:
            raise StudyError("it was made by another version of the tool, which stores studies differently")
        body["space"] = SearchSpace.from_json(body["space"])
        body["recipe"] = Recipe(**body["recipe"])
        for key in ("classes", "images"):
            body[key] = tuple(body[key])
        body["versions"] = tuple((k, v) for k, v in body["versions"])
        return cls(**body)

    def differences(self, other: Settings) -> list[str]:
        """Say what of `other` could not stand in this study, a line each."""
        found = []
        if self.space.fingerprint != other.space.fingerprint:
            found.append(f"space: it searches {_space_words(self.space)}, not {_space_words(other.space)}")
            found += module_differences(self.space.modules, other.space.modules)
        if self.fingerprint != other.fingerprint:
            found.append(
                f"data: it was made on {self.data or 'the demo data'} (fingerprint {self.fingerprint}), "
                f"{other.data or 'the demo data'} has {other.fingerprint}"
            )
        found += [f"recipe: {line}" for line in self.recipe.differences(other.recipe)]
        for key in ("seed", "floor", "score", "objective", "latency_on", "table"):
            if getattr(self, key) != getattr(other, key):
                mine, theirs = (getattr(s, key) for s in (self, other))
                found.append(f"{_WORDS.get(key, key)}: {_or_none(mine)}, not {_or_none(theirs)}")
        versions = dict(other.versions)
        found += [f"version of {k}: {v}, not {versions.get(k)}" for k, v in self.versions if versions.get(k) != v]
        return found


_WORDS = {"latency_on": "latency measured on", "table": "table that is replayed"}


def _or_none(value: object) -> object:
    return "none" if value == "" else value


def _space_words(space: SearchSpace) -> str:
    choices = sum(len(s.choices) - 1 for s in space.active)
    return f"{space.name} ({space.base}{space.scale}, {len(space.active)} slots, {choices} swaps, {space.fingerprint})"


def current_versions() -> tuple[tuple[str, str], ...]:
    """Return the versions that decide results."""
    packages = (
        "swapnas", "torch", "torchvision", "ultralytics", "ultralytics-thop", "optuna", "numpy", "opencv-python",
        "opencv-python-headless",
    )  # fmt: skip
    found = [("python", ".".join(platform.python_version_tuple()[:2]))]
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append((package, metadata.version(package)))
    return tuple(found)


class Study:
    """An open study."""

    def __init__(self, where: StudyPlace, settings: Settings, inner: optuna.Study) -> None:
        self.place = where
        self.settings = settings
        self._inner = inner
        self._settled: dict[int, Trial] = {}  # finished trials change no more, and reading a thousand takes its time

    @classmethod
    def create(cls, where: StudyPlace, settings: Settings, trials: int) -> Study:
        """Make a study and write down how many trials are asked for.

        One that was cut short before it had settings is taken over.

        Raises:
            StudyError: The storage cannot be written, or holds a study of that name.
        """
        with explained(where):
            where.file.parent.mkdir(parents=True, exist_ok=True)
            check_file(where.file, write=True)
            inner = optuna.create_study(
                study_name=where.name, storage=open_storage(where), direction="maximize", load_if_exists=True
            )
            if inner.get_trials(deepcopy=False) or inner.user_attrs.get(_SETTINGS):
                raise StudyError(f"{where.file} holds a study {where.name!r} already")
            inner.set_user_attr(_TARGET, trials)
            inner.set_user_attr(_REQUEST, trials)
            inner.set_user_attr(_SETTINGS, settings.to_json())  # the last one: what has settings is whole
            inner.set_metric_names(["mAP50-95 per GFLOP"])
        return cls(where, settings, inner)

    def change_sampler(self, sampler: str) -> None:
        """Let another sampler choose from here on; what it chooses is scored alike."""
        self.settings = replace(self.settings, sampler=sampler)
        with explained(self.place):
            self._inner.set_user_attr(_SETTINGS, self.settings.to_json())

    @property
    def is_barren(self) -> bool:
        """Whether no trial has finished; trained weights are kept beside the studies and lose nothing with it."""
        return not any(trial.status == "done" for trial in self.trials())

    def discard(self) -> None:
        """Delete the study, to begin it anew with other settings.

        Raises:
            StudyError: Something has come of it.
        """
        if not self.is_barren:
            raise StudyError(f"the study {self.place.name!r} holds what was finished")
        with explained(self.place):
            optuna.delete_study(study_name=self.place.name, storage=open_storage(self.place))

    @classmethod
    def load(cls, where: StudyPlace, *, write: bool = False) -> Study:
        """Open a study.

        Args:
            where: Where it lives.
            write: Whether to check that it can be written.

        Raises:
            StudyError: There is none, or its storage cannot be used.
        """
        if not where.file.exists():
            raise StudyError(f"no study {where.name!r}: {where.file} does not exist; `nas studies` lists what is here")
        with explained(where):
            check_file(where.file, write=write)
            try:
                inner = optuna.load_study(study_name=where.name, storage=open_storage(where))
            except KeyError:
                raise StudyError(
                    f"{where.file} holds no study {where.name!r}; `nas studies` lists what is here"
                ) from None
            text = inner.user_attrs.get(_SETTINGS)
            if not text:
                raise StudyError(
                    f"{where.file} holds {where.name!r}, but it is no study of this tool: it has no settings"
                )
            try:
                settings = Settings.from_json(text)
            except StudyError as error:
                raise StudyError(f"cannot use the study {where.name!r} of {where.file}: {error}") from None
            return cls(where, settings, inner)

    @staticmethod
    def exists(where: StudyPlace) -> bool:
        """Whether there is a study, if only one of another tool; one that was cut short at birth is none.

        Raises:
            StudyError: There is a file, but no storage.
        """
        if not where.file.exists():
            return False
        with explained(where):
            if not check_file(where.file, write=False):
                return False
            storage = open_storage(where)
            if where.name not in optuna.get_all_study_names(storage):
                return False
            inner = optuna.load_study(study_name=where.name, storage=storage)
            return bool(inner.user_attrs or inner.get_trials(deepcopy=False))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study for one search. The lock goes with the process, however that ends.

        Raises:
            StudyError: Another search holds it.
        """
        path = self.place.file.with_name(f"{self.place.file.name}.{self.place.name}.lock")
        with explained(self.place), held(path, f"the study {self.place.name!r}"):
            yield

    @property
    def target(self) -> int:
        """How many trials have been asked for in all."""
        return int(self._attribute(_TARGET, 0))

    @property
    def request(self) -> int:
        """How many trials the last request asked for."""
        return int(self._attribute(_REQUEST, 0))

    def ask_for(self, target: int, request: int) -> None:
        """Write down how many trials are asked for, before the first of them starts."""
        with explained(self.place):
            self._inner.set_user_attr(_TARGET, target)
            self._inner.set_user_attr(_REQUEST, request)

    @property
    def baseline_training(self) -> tuple[EpochScore, ...]:
        """The curve of the baseline that others inherit from; empty before it has been trained."""
        return tuple(EpochScore.from_json(score) for score in self._attribute(_BASELINE, []))

    def _attribute(self, key: str, default: Any) -> Any:
        with explained(self.place):
            return self._inner.user_attrs.get(key, default)

    def keep_baseline_training(self, curve: tuple[EpochScore, ...]) -> None:
        """Store the curve of the baseline that others inherit from."""
        with explained(self.place):
            self._inner.set_user_attr(_BASELINE, [asdict(score) for score in curve])

    @property
    def bank(self) -> dict[str, Any]:
        """What the bank says that a reader of the ranking should know; empty before there is one."""
        return dict(self._attribute(_BANK, {}))

    def keep_bank(self, bank: SwapBank) -> None:
        """Store what a bank says that a reader of the ranking should know."""
        body = {
            "folder": str(bank.folder),
            "teacher_map": bank.teacher_map,
            "drops": bank.drops,
            "failures": {f"{c.candidate.slot}={c.candidate.label}": c.failure for c in bank.failures},
        }
        with explained(self.place):
            self._inner.set_user_attr(_BANK, body)

    def trials(self) -> list[Trial]:
        """Return every trial that has started, in order."""
        with explained(self.place):
            frozen = self._inner.get_trials(deepcopy=False)
        found = []
        for t in frozen:
            if _RECORD in t.user_attrs:
                trial = self._settled.get(t.number) or _thaw(t)
                if t.state.is_finished():
                    self._settled[t.number] = trial
                found.append(trial)
        return found

    def start(self, trial: Trial) -> OpenTrial:
        """Store a new trial as running and return a handle to it; its number is the storage's."""
        with explained(self.place):
            space = self.settings.space
            kinds = {s.key: optuna.distributions.CategoricalDistribution(s.choices) for s in space.active}
            self._inner.enqueue_trial(dict(trial.assignment))
            asked = self._inner.ask(fixed_distributions=dict(kinds))
            handle = OpenTrial(self, asked, replace(trial, number=asked.number))
            handle.store()
            return handle

    def give_up_stale(self) -> int:
        """Settle trials that a search left open; call it with the lock held.

        One whose end is on record is told so; any other was cut short, and is tried again. Returns how many those are.
        """
        cut_short = 0
        with explained(self.place):
            for frozen in self._inner.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                if frozen.state == TrialState.WAITING:
                    self._inner.tell(self._inner.ask(), state=TrialState.FAIL)
                    continue
                if _RECORD not in frozen.user_attrs:  # cut short between being asked for and having a record
                    self._inner.tell(frozen.number, state=TrialState.FAIL)
                    continue
                handle = OpenTrial(self, optuna.Trial(self._inner, frozen._trial_id), _thaw(frozen, settle=False))
                if handle.trial.status == "running":
                    cut_short += 1
                    handle.end(status="interrupted", failure="its search was stopped")
                else:
                    handle.end()
        return cut_short

    def _tell(self, asked: optuna.Trial, trial: Trial) -> None:
        if trial.status == "done":
            self._inner.tell(asked, trial.map_per_gflop)
        else:
            state = TrialState.PRUNED if trial.status == "rejected" else TrialState.FAIL
            self._inner.tell(asked, state=state)


class OpenTrial:
    """A trial that is being tried: what happens to it is stored as it happens."""

    def __init__(self, study: Study, asked: optuna.Trial, trial: Trial) -> None:
        self._study = study
        self._asked = asked
        self.trial = trial

    def store(self) -> None:
        """Write the record; a few plain values stand beside it for whoever looks at the storage with other tools."""
        trial = self.trial
        body = {
            "swaps": trial.describe(),
            "id": trial.variant.id,
            "gflops": trial.gflops,
            "params": trial.params,
        }
        for key, value in {**body, _RECORD: trial.to_json()}.items():
            self._asked.set_user_attr(key, value)

    def report(self, score: EpochScore) -> None:
        """Store an epoch's mAP50-95."""
        if score.validation:
            with explained(self._study.place):
                self._asked.report(score.validation.map, score.epoch)

    def end(self, **changes: Any) -> Trial:
        """Store how it ended and return it."""
        with explained(self._study.place):
            self.trial = replace(self.trial, **changes)
            self.store()
            self._study._tell(self._asked, self.trial)
        return self.trial


def _thaw(frozen: FrozenTrial, *, settle: bool = True) -> Trial:
    """Return a stored trial; with `settle`, one that is open in the storage is running whatever its record says."""
    trial = Trial.from_json(frozen.number, frozen.params, frozen.user_attrs[_RECORD])
    return replace(trial, status="running") if settle and frozen.state == TrialState.RUNNING else trial


def list_studies(storage: str | None = None) -> tuple[list[Study], list[str]]:
    """Return the studies of one storage, or of every ``studies/*.db`` below the current directory.

    Returns:
        The studies, and what is wrong with the files and studies that cannot be opened.
    """
    files = sorted(Path("studies").glob("*.db")) if storage is None else [place("any", storage).file]
    found: list[Study] = []
    problems: list[str] = []
    for file in files:
        where = StudyPlace(file.stem, file)
        try:
            if not file.exists():
                raise StudyError(f"{file} does not exist")
            with explained(where):
                names = optuna.get_all_study_names(open_storage(where)) if check_file(file, write=False) else []
        except StudyError as error:
            problems.append(str(error))
            continue
        for name in names:
            try:
                found.append(Study.load(StudyPlace(name, file)))
            except StudyError as error:
                problems.append(str(error))
    return found, problems
