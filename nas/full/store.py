"""The full trainings of a study: rows of a second Optuna study in the same storage, claimed and leased as proxies are.

That study is named ``NAME~full``, which is no name that a user can give. A row is running until its training has
ended: one that was killed is taken over, not made again, so each training has one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nas.full.run import FullKey, FullRun
from nas.study.catalog import FULL_SUFFIX
from nas.study.leases import Leases, make_leases
from nas.study.location import StudyLocation
from nas.study.optuna_private import Tables, add_trial, set_trial_attribute, trial_id
from nas.study.running_trial import BEAT, EPOCH, OWNER, RECORD
from nas.study.storage import check_storage, open_storage, translate_damage, translate_errors, with_retry

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Stored:
    """A row: the run, its trial's ID in the storage, and whether a process may be working on it."""

    run: FullRun
    id: int
    number: int
    open: bool
    owner: str
    beat: int


class FullRuns:
    """The full trainings of one study, as one process reads and writes them."""

    def __init__(self, study: StudyLocation) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            study: Location of the study that they belong to.
        """
        self.where = replace(study, name=f"{study.name}{FULL_SUFFIX}")
        self.tables = Tables(self.where)

    def read(self) -> list[FullRun]:
        """Return all runs in order, the last of each key.

        Raises:
            StudyError: One is damaged.
            StorageError: The storage cannot be read.
        """
        return [row.run for row in self._latest().values()]

    def _latest(self) -> dict[FullKey, Stored]:
        found: dict[FullKey, Stored] = {}
        for row in self._rows():
            found[row.run.key] = row
        return found

    def _rows(self) -> list[Stored]:
        with translate_damage(self.where), translate_errors(self.where):
            return with_retry(self.where, self._read)

    def _read(self) -> list[Stored]:
        if not check_storage(self.where, write=False) or self.tables.attributes() is None:
            return []
        trials = self.tables.trials()
        ids = [trial.id for trial in trials]
        records, owners, beats = (self.tables.parts(ids, key) for key in (RECORD, OWNER, BEAT))

        def plain(values: Mapping[int, tuple[Any, Any]], trial: int, otherwise: Any) -> Any:
            return values[trial][1] if trial in values else otherwise

        return [
            Stored(
                FullRun.from_json(records[t.id][1]),
                t.id,
                t.number,
                t.state == "RUNNING",
                str(plain(owners, t.id, "")),
                int(plain(beats, t.id, 0)),
            )
            for t in trials
            if t.id in records
        ]

    # ---- writing ----------------------------------------------------------------------------------------------------

    @cached_property
    def _inner(self) -> optuna.Study:
        import optuna

        with translate_errors(self.where):
            check_storage(self.where, write=True)
            inner = optuna.create_study(
                study_name=self.where.name, storage=open_storage(self.where), direction="maximize", load_if_exists=True
            )
            inner.set_metric_names(["mAP50-95"])
            return inner

    @cached_property
    def leases(self) -> Leases:
        """The leases of this process, created at first use, which should be in the main thread."""
        from optuna.trial import TrialState

        inner = self._inner

        def write_beat(trial: int, beat: int) -> None:
            set_trial_attribute(inner, trial, BEAT, beat)

        def read_beats() -> dict[int, int]:
            running = inner.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            return {trial_id(t): t.user_attrs.get(BEAT, 0) for t in running}

        return make_leases(self.where, write_beat, read_beats)

    def claim(self, wanted: Sequence[FullRun]) -> tuple[Claim | None, int]:
        """Claim the first of some runs that is neither finished nor being trained.

        Returns:
            The claimed run, None if there is none; and how many others are being trained by other processes.

        Raises:
            LockError: Another process holds the lock until the timeout.
        """
        with self.leases.claim_lock():
            rows = self._latest()
            busy = 0
            for run in wanted:
                row = rows.get(run.key)
                if row and row.run.status == "done":
                    continue
                if row and row.open:
                    if not self.leases.is_stale(row.id, row.owner, row.beat):
                        busy += 1
                        continue
                    # What is trained is what this process wants, not what a storage of others says.
                    kept = {key: getattr(row.run, key) for key in ("seconds", "curve")}
                    return self._hold(row.id, row.number, replace(run, **kept, attempts=row.run.attempts + 1)), busy
                return self._add(replace(run, attempts=1)), busy
            return None, busy

    def _add(self, run: FullRun) -> Claim:
        import optuna

        with translate_errors(self.where):
            body = optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                user_attrs={**_plain(run), RECORD: run.to_json(), OWNER: self.leases.owner},
            )
            trial = with_retry(self.where, lambda: add_trial(self._inner, body))
            number = next(t.number for t in self.tables.trials() if t.id == trial)
        return self._hold(trial, number, run)

    def _hold(self, trial: int, number: int, run: FullRun) -> Claim:
        self.leases.hold(trial)
        claim = Claim(self, trial, number, run)
        claim.store(run, {OWNER: self.leases.owner})
        return claim


class Claim:
    """A run that this process trains."""

    def __init__(self, runs: FullRuns, trial: int, number: int, run: FullRun) -> None:
        self._runs, self._trial, self._number = runs, trial, number
        self.run = run

    def store(self, run: FullRun, further: Mapping[str, Any] | None = None) -> None:
        """Store what is known of the run, while it is trained."""
        self.run = run
        values = {**_plain(run), RECORD: run.to_json(), EPOCH: len(run.curve), **(further or {})}

        def write() -> None:
            for key, value in values.items():
                set_trial_attribute(self._runs._inner, self._trial, key, value)

        with translate_errors(self._runs.where):
            with_retry(self._runs.where, write)

    def end(self, run: FullRun) -> None:
        """Store the result, and end the row."""
        from optuna.trial import TrialState

        try:
            self.store(run)
            state = TrialState.COMPLETE if run.status == "done" else TrialState.FAIL
            value = run.map if run.status == "done" else None
            inner = self._runs._inner
            with translate_errors(self._runs.where):
                with_retry(
                    self._runs.where, lambda: inner.tell(self._number, value, state=state, skip_if_finished=True)
                )
        finally:
            self._runs.leases.release(self._trial)

    def release(self) -> None:
        """Let the row be taken over: its training was stopped, and is resumed by whoever comes next."""
        self._runs.leases.release(self._trial)


def _plain(run: FullRun) -> dict[str, Any]:
    """Return a few plain values for users who read the storage with other tools."""
    return {"id": run.model, "swaps": run.title, "seed": run.seed, "gflops": run.gflops, "settings": run.settings}
