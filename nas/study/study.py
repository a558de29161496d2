"""Studies: the state of a search, stored by Optuna in SQLite or PostgreSQL as it changes, so that it can be resumed.

A study holds its settings (space, recipe, dataset, versions) and its trials. It can be resumed only with the same
settings, because scores under another recipe or dataset cannot be ranked together. Any number of workers can run its
trials in parallel; `nas.study.leases` coordinates them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.bank.store import SwapBank, bank_facts
from nas.engines.stored import Latencies
from nas.errors import LockError, SpaceError, StudyError, escaped
from nas.files import Parsed, from_plain
from nas.locks import held, private_folder
from nas.study.budget import Confirm
from nas.study.leases import Leases, claim_lock, make_leases
from nas.study.location import StudyLocation
from nas.study.optuna_private import Tables, add_trial, open_trial, read_tables, set_trial_attribute, trial_id
from nas.study.running_trial import BEAT, OWNER, RECORD, Ledger, RunningTrial, take_over, trial_attributes
from nas.study.settings import Settings
from nas.study.storage import check_storage, open_storage, translate_damage, translate_errors, with_retry
from nas.study.trial import Trial, variants_spent, with_latencies
from nas.training.scores import EpochScore

if TYPE_CHECKING:
    import optuna

_SETTINGS, _TARGET, _REQUEST, _SEEDS = "nas_settings", "nas_target", "nas_request", "nas_seeds"
_CONFIRM, _BASELINE, _BANK, _OPTIONS = "nas_confirm", "nas_baseline", "nas_bank", "nas_options"
_EXCLUDED, _YARDSTICKS, _LATENCIES = "nas_left_out", "nas_yardsticks", "nas_latencies"
_BEFORE_SETTINGS = {_TARGET, _REQUEST, _SEEDS, _CONFIRM, _OPTIONS}


class Study:
    """An open study."""

    def __init__(self, where: StudyLocation, settings: Settings) -> None:
        self.location = where
        self.settings = settings
        self.tables = Tables(where)
        self._ended: dict[int, Trial | None] = {}

    @cached_property
    def _inner(self) -> optuna.Study:
        """The study in Optuna, by which it is written; reading needs `tables` alone."""
        import optuna

        inner = optuna.load_study(study_name=self.location.name, storage=open_storage(self.location))
        # Variants are proposed by `nas.samplers.propose`; Optuna's default sampler would fit a model for nothing.
        inner.sampler = optuna.samplers.RandomSampler()
        return inner

    @classmethod
    def create(
        cls,
        where: StudyLocation,
        settings: Settings,
        trials: int,
        *,
        seeds: int = 1,
        confirm: Confirm | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Study:
        """Create a study, and store the number of variants and seeds and how the best are confirmed.

        With the options (`SearchOptions.to_store`) it can be created again while it has no results. A study
        whose creation was interrupted before it had settings is completed.

        Raises:
            StorageError: The storage cannot be written.
            StudyError: It holds a study of that name.
        """
        import optuna

        with translate_errors(where):
            if not where.server:
                where.file.parent.mkdir(parents=True, exist_ok=True)
            check_storage(where, write=True)
            inner = optuna.create_study(
                study_name=where.name, storage=open_storage(where), direction="maximize", load_if_exists=True
            )
            if inner.get_trials(deepcopy=False) or inner.user_attrs.get(_SETTINGS):
                raise StudyError(f"{where.shown} holds a study {where.name!r} already")
            for key, number in ((_TARGET, trials), (_REQUEST, trials), (_SEEDS, seeds)):
                inner.set_user_attr(key, number)
            inner.set_user_attr(_CONFIRM, [confirm.top, confirm.seeds] if confirm else [0, 0])
            inner.set_user_attr(_OPTIONS, dict(options or {}))
            inner.set_user_attr(_SETTINGS, settings.to_json())  # last, because a study with settings is complete
            inner.set_metric_names(["mAP50-95 per GFLOP"])
        return cls(where, settings)

    @property
    def shown(self) -> str:
        """The study for messages: its name and storage."""
        return f"the study {self.location.name!r} of {self.location.shown}"

    def store_settings(self, latencies: Latencies | None = None) -> None:
        """Store the settings after a change on which no score depends, such as of the sampler; and new latencies."""
        more = {_LATENCIES: latencies.to_plain()} if latencies else {}
        self._write({**more, _SETTINGS: self.settings.to_json()})

    @property
    def options(self) -> dict[str, Any] | None:
        """The options that it was created with (`SearchOptions.to_store`); None in older studies."""
        return self._attribute(
            _OPTIONS, None, lambda kept: None if kept is None else {**from_plain(Mapping[str, Any], kept)}
        )

    @property
    def has_no_results(self) -> bool:
        """Whether no trial has finished. Trained weights do not count: they are stored outside of the study."""
        return not any(trial.status == "done" for trial in self.runs())

    def recreate(self, settings: Settings, trials: int, **request: Any) -> Study:
        """Delete the study, create another in its place, as `create`, and return that.

        Raises:
            StudyError: It has results.
            LockError: Others work on it.
        """
        import optuna

        with self.locked(), self.leases.claim_lock(), translate_errors(self.location):
            if not self.has_no_results:
                raise StudyError(f"the study {self.location.name!r} has finished trials")
            if self.leases.has_others():
                raise LockError(
                    f"a worker runs trials of the study {self.location.name!r}, which cannot be created again before "
                    "that is stopped"
                )
            optuna.delete_study(study_name=self.location.name, storage=open_storage(self.location))
            return Study.create(self.location, settings, trials, **request)

    @classmethod
    def load(cls, where: StudyLocation, *, write: bool = False) -> Study:
        """Open a study.

        Args:
            where: Its location.
            write: Whether to check that it can be written.

        Raises:
            StudyError: It does not exist, or is of another tool or version.
            StorageError: Its storage cannot be used.
        """
        if not where.server and not where.file.exists():
            raise StudyError(f"no study {where.name!r}: {where.file} does not exist; `nas studies` lists what is here")
        with translate_damage(where), translate_errors(where):
            stored = read_tables(where).attributes() if check_storage(where, write=write) else None
            if stored is None:
                raise StudyError(f"{where.shown} holds no study {where.name!r}; `nas studies` lists what is here")
            text = stored.get(_SETTINGS)
            if not isinstance(text, str) or not text:
                raise StudyError(
                    f"{where.shown} holds {where.name!r}, but it is not a study of this tool: it has no settings"
                )
            try:
                settings = Settings.from_json(text)
            except (StudyError, SpaceError) as error:
                raise StudyError(f"cannot use the study {where.name!r} of {where.shown}: {error}") from None
            return cls(where, settings)

    @staticmethod
    def exists(where: StudyLocation) -> bool:
        """Return whether there is a study, of any tool; one whose creation was interrupted does not count.

        Raises:
            StorageError: The storage exists, but cannot be used.
        """
        with translate_errors(where):
            if not check_storage(where, write=False):
                return False
            tables = read_tables(where)
            with translate_damage(where):
                stored = tables.attributes()
            return stored is not None and bool(stored.keys() - _BEFORE_SETTINGS or tables.trials())

    @staticmethod
    def is_created(where: StudyLocation) -> bool:
        """Return whether there is a study, as `exists`, after any process that is creating it has finished.

        Raises:
            StorageError: The storage exists, but cannot be used.
        """
        if where.server:
            Study.exists(where)  # raises at once if the server cannot be used
        elif not where.file.exists():
            return False
        with claim_lock(where):
            return Study.exists(where)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study for one search on this machine; the system releases the lock when the process ends.

        On a server there is no such lock: the same command on another machine joins the search.

        Raises:
            LockError: Another search holds it.
        """
        if self.location.server:
            yield
            return
        path = self.location.workers / "search"
        hint = f"let it end first, or join it: nas worker --study {self.location.name}"
        with contextlib.ExitStack() as stack:
            with translate_errors(self.location):  # only for the lock, not for what is raised while it is held
                stack.enter_context(held(path, f"the study {self.location.name!r}", hint))
            yield

    @cached_property
    def leases(self) -> Leases:
        """The leases of this process, created at first use, which should be in the main thread."""
        from optuna.trial import TrialState

        with translate_errors(self.location):
            inner = with_retry(self.location, lambda: self._inner)

        def read_beats() -> dict[int, int]:
            running = inner.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            return {trial_id(t): t.user_attrs.get(BEAT, 0) for t in running}

        return make_leases(self.location, lambda trial, beat: set_trial_attribute(inner, trial, BEAT, beat), read_beats)

    @property
    def target(self) -> int:
        """The total number of variants that were requested."""
        return self._attribute(_TARGET, 0, int)

    @property
    def request(self) -> int:
        """The number of variants of the last request."""
        return self._attribute(_REQUEST, 0, int)

    @property
    def seeds(self) -> int:
        """The number of seeds of every variant; 1 in studies that are older than seeds."""
        return self._attribute(_SEEDS, 1, int)

    @property
    def confirm(self) -> Confirm:
        """The confirmation of the ranking; none in studies that are older than confirmations."""
        return self._attribute(_CONFIRM, (0, 0), lambda pair: Confirm(*from_plain(tuple[int, int], pair)))

    def set_target(self, target: int, request: int) -> None:
        """Store the total number of variants, and that of this request, before the first of them starts."""
        self._write({_TARGET: target, _REQUEST: request})

    def set_seeds(self, seeds: int | None, confirm: Confirm | None) -> None:
        """Store the number of seeds, and how the best are confirmed; None leaves a value as it is."""
        wanted: dict[str, Any] = {}
        if seeds is not None:
            wanted[_SEEDS] = seeds
        if confirm is not None:
            wanted[_CONFIRM] = [confirm.top, confirm.seeds]
        if newer := Settings.upgraded(self._attribute(_SETTINGS, "", str)):
            wanted[_SETTINGS] = newer
        self._write(wanted)

    @property
    def baseline_training(self) -> tuple[EpochScore, ...]:
        """The curve of the baseline whose weights are inherited; empty before it has been trained."""
        return self.baseline_training_of(self.settings.seed)

    def baseline_training_of(self, seed: int) -> tuple[EpochScore, ...]:
        """Return the curve of the baseline whose weights the runs of a seed inherit."""
        return self._attribute(
            self._baseline_of(seed), [], lambda scores: tuple(EpochScore.from_json(score) for score in scores)
        )

    def _baseline_of(self, seed: int) -> str:
        return _BASELINE if seed == self.settings.seed else f"{_BASELINE}_{seed}"

    def _attribute(self, key: str, default: Any, parse: Callable[[Any], Parsed]) -> Parsed:
        """Return an attribute of the study, parsed.

        Raises:
            StudyError: It is damaged.
        """
        with translate_damage(self.location), translate_errors(self.location):
            return parse((with_retry(self.location, self.tables.attributes) or {}).get(key, default))

    def _write(self, values: Mapping[str, Any]) -> None:
        """Store attributes of the study, with retries."""
        with translate_errors(self.location):
            with_retry(self.location, lambda: list(starmap(self._inner.set_user_attr, values.items())))

    def store_baseline_training(self, curve: tuple[EpochScore, ...], seed: int | None = None) -> None:
        """Store the curve of the baseline whose weights are inherited; of a further seed where each has its own."""
        key = self._baseline_of(self.settings.seed if seed is None else seed)
        self._write({key: [asdict(score) for score in curve]})

    @property
    def excluded_seeds(self) -> dict[int, str]:
        """Seeds whose own baselines could not be used, with the reason."""
        return self._attribute(_EXCLUDED, {}, lambda seeds: {int(k): escaped(why) for k, why in seeds.items()})

    def exclude_seed(self, seed: int, why: str) -> None:
        """Exclude a seed from the study; call it within `leases.claim_lock`."""
        self._write({_EXCLUDED: {**self._attribute(_EXCLUDED, {}, dict), str(seed): why}})

    @property
    def bank(self) -> dict[str, Any]:
        """The facts about the bank that belong to a ranking; empty before there is a bank."""
        return self._attribute(_BANK, {}, bank_facts)

    def store_bank(self, bank: SwapBank, **more: Any) -> None:
        """Store the facts about a bank that belong to a ranking, and more about its swaps."""
        self._write({_BANK: {**bank.facts, **more}})

    @property
    def yardsticks(self) -> tuple[float, ...]:
        """The width multiples of the yardsticks that were requested, ascending."""
        return self._attribute(_YARDSTICKS, (), lambda widths: from_plain(tuple[float, ...], widths))

    def add_yardsticks(self, widths: Iterable[float]) -> None:
        """Request yardsticks of these width multiples."""
        self._write({_YARDSTICKS: sorted({*self.yardsticks, *widths})})

    @property
    def spent(self) -> int:
        """The number of variants that count towards `target`, on the lowest rung."""
        return variants_spent(self.trials(self.settings.fidelities[0]))

    def trials(self, fidelity: str = "") -> list[Trial]:
        """Return all trials of one fidelity, in order; by default those of the study's own recipe."""
        return [t for t in self.runs() if t.fidelity == fidelity]

    def fidelity_of(self, rung: int | None) -> str:
        """Return the fidelity of a rung, as `Settings.fidelity_of_rung`."""
        return self.settings.fidelity_of_rung(rung)

    def runs(self) -> list[Trial]:
        """Return all trials of variants of the space, of all fidelities, in order."""
        return [t for t in self.every_run() if t.variant.width is None]

    def every_run(self) -> list[Trial]:
        """Return all trials, in order: of variants, and of yardsticks, which neither rankings nor samplers see."""
        with translate_damage(self.location), translate_errors(self.location):
            found = with_retry(self.location, self._read)
        return with_latencies(found, self.latencies.ms) if self.settings.latency_on else found

    @property
    def latencies(self) -> Latencies:
        """The latencies that `nas latency` has stored."""
        return self._attribute(_LATENCIES, None, Latencies.from_plain)

    def _read(self) -> list[Trial]:
        """Return the stored trials; finished ones do not change and are read only once."""
        stored = self.tables.trials()
        parts = self.tables.parts([row.id for row in stored if row.id not in self._ended], RECORD)
        found = dict(self._ended)
        for row in stored:
            if row.id not in self._ended:
                trial = Trial.from_json(row.number, *parts[row.id]) if row.id in parts else None
                found[row.id] = replace(trial, status="running") if trial and row.state == "RUNNING" else trial
                if row.state not in ("RUNNING", "WAITING"):
                    self._ended[row.id] = trial
        return [trial for row in stored if (trial := found[row.id])]

    @cached_property
    def scratch(self) -> Path:
        """The folder for files of this process's trainings; those of killed processes are removed at the next start."""
        return private_folder(self.location.folder / "run", self.leases.owner)

    @property
    def _ledger(self) -> Ledger:
        return Ledger(self.location, self._inner, self.leases)

    def start(self, trial: Trial) -> RunningTrial:
        """Claim a new trial: store it as running and owned by this process. The storage assigns its number.

        If several processes work on the study, call it within `leases.claim_lock`.
        """
        import optuna

        with translate_errors(self.location):
            space = self.settings.space
            kinds = {s.key: optuna.distributions.CategoricalDistribution(s.choices) for s in space.active}
            body = optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=dict(trial.assignment),
                distributions={key: kinds[key] for key in trial.assignment},
                user_attrs={**trial_attributes(trial), OWNER: self.leases.owner},
            )
            # In one transaction, so that no process sees an incomplete trial: Optuna's `ask` needs several.
            made = open_trial(self._inner, with_retry(self.location, lambda: add_trial(self._inner, body)))
            return RunningTrial(self._ledger, made, replace(trial, number=made.number))

    def take_over(self) -> int:
        """Settle the trials of dead workers, as `running_trial.take_over`; call it within `leases.claim_lock`."""
        return take_over(self._ledger)
