"""Studies: what a search keeps, in SQLite through Optuna, so that it survives anything.

A study holds its settings (space, recipe, dataset, versions) and its trials. It can be resumed only with the same
settings: scores of another recipe or dataset cannot stand in one ranking. One search at a time works on a study; a lock
that dies with its process says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.bank import SwapBank
from nas.errors import StudyError
from nas.race import Confirm
from nas.scores import EpochScore
from nas.settings import Settings
from nas.storage import StudyPlace, check_file, explained, held, open_storage, place
from nas.trial import Trial

_SETTINGS, _TARGET, _REQUEST, _RECORD = "nas_settings", "nas_target", "nas_request", "record"
_SEEDS, _CONFIRM = "nas_seeds", "nas_confirm"
_BASELINE, _BANK = "nas_baseline", "nas_bank"


class Study:
    """An open study."""

    def __init__(self, where: StudyPlace, settings: Settings, inner: optuna.Study) -> None:
        self.place = where
        self.settings = settings
        self._inner = inner
        inner.sampler = optuna.samplers.RandomSampler()  # proposals are `nas.propose`'s; another would fit a model here
        self._ended: dict[int, Trial] = {}

    @classmethod
    def create(
        cls, where: StudyPlace, settings: Settings, trials: int, *, seeds: int = 1, confirm: Confirm | None = None
    ) -> Study:
        """Make a study and write down what is asked for: variants, seeds of each, and how the first are confirmed.

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
            inner.set_user_attr(_SEEDS, seeds)
            inner.set_user_attr(_CONFIRM, [confirm.top, confirm.seeds] if confirm else [0, 0])
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
        """How many variants have been asked for in all."""
        return int(self._attribute(_TARGET, 0))

    @property
    def request(self) -> int:
        """How many variants the last request asked for."""
        return int(self._attribute(_REQUEST, 0))

    @property
    def seeds(self) -> int:
        """How many seeds every variant gets; one in studies that are older than seeds."""
        return int(self._attribute(_SEEDS, 1))

    @property
    def confirm(self) -> Confirm:
        """How the first of the ranking are confirmed; not at all in studies that are older than that."""
        return Confirm(*self._attribute(_CONFIRM, (0, 0)))

    def ask_for(self, target: int, request: int) -> None:
        """Write down how many variants are asked for, before the first of them starts."""
        with explained(self.place):
            self._inner.set_user_attr(_TARGET, target)
            self._inner.set_user_attr(_REQUEST, request)

    def ask_for_seeds(self, seeds: int | None, confirm: Confirm | None) -> None:
        """Write down how many seeds are asked for, and how the first are confirmed; None leaves that as it is."""
        with explained(self.place):
            if seeds is not None:
                self._inner.set_user_attr(_SEEDS, seeds)
            if confirm is not None:
                self._inner.set_user_attr(_CONFIRM, [confirm.top, confirm.seeds])
            newer = Settings.renewed(self._inner.user_attrs[_SETTINGS])
            if newer:
                self._inner.set_user_attr(_SETTINGS, newer)

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
        return [self._read(t) for t in frozen if _RECORD in t.user_attrs]

    def _read(self, frozen: FrozenTrial) -> Trial:
        """Return a stored trial; what has ended does not change, and is read once."""
        if not frozen.state.is_finished():
            return _thaw(frozen)
        if frozen.number not in self._ended:
            self._ended[frozen.number] = _thaw(frozen)
        return self._ended[frozen.number]

    def start(self, trial: Trial) -> OpenTrial:
        """Store a new trial as running and return a handle to it; its number is the storage's."""
        with explained(self.place):
            space = self.settings.space
            kinds = {s.key: optuna.distributions.CategoricalDistribution(s.choices) for s in space.active}
            body = optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=dict(trial.assignment),
                distributions=dict(kinds),
                user_attrs=_attributes(trial),
            )
            # In one transaction, and running from its first moment on: `ask` takes several.
            made = self._inner._storage.create_new_trial(self._inner._study_id, template_trial=body)
            asked = optuna.Trial(self._inner, made)
            return OpenTrial(self, asked, replace(trial, number=asked.number))

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
        self._stored = _attributes(trial)

    def store(self) -> None:
        """Write what of the record has changed."""
        new = _attributes(self.trial)
        for key, value in new.items():
            if self._stored.get(key) != value:
                self._asked.set_user_attr(key, value)
        self._stored = new

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


def _attributes(trial: Trial) -> dict[str, Any]:
    """Return the record, and beside it a few plain values for whoever looks at the storage with other tools."""
    plain = {"swaps": trial.describe(), "id": trial.variant.id, "seed": trial.seed}
    return {**plain, "gflops": trial.gflops, "params": trial.params, _RECORD: trial.to_json()}


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
