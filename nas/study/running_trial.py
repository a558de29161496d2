"""Running trials: progress is stored at once and the result exactly once; trials of dead workers are settled."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nas.study.leases import Leases
from nas.study.location import StudyLocation
from nas.study.optuna_private import open_trial, read_trial, trial_id
from nas.study.storage import translate_errors, with_retry
from nas.study.trial import DIED, DIED_OFTEN, Trial
from nas.training.scores import EpochScore

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

RECORD, OWNER, BEAT, EPOCH = "record", "owner", "beat", "epoch"
PREPARING = -1
"""The epoch of a trial while its inherited weights are prepared; a crash then is not counted against its variant."""
TAKEN_OVER = "taken over by another worker, after this one could not be seen for too long"


@dataclass(frozen=True)
class Ledger:
    """The handle for writing trials of a study: its location, the Optuna study, and the leases of this process."""

    where: StudyLocation
    inner: optuna.Study
    leases: Leases

    def write(self, action: Callable[[], Any]) -> bool:
        """Run a write to the storage, with retries; return False if its trial was finished already.

        Raises:
            StorageError: The storage cannot be written.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        def attempt() -> bool:
            try:
                action()
            except UpdateFinishedTrialError:
                return False
            return True

        with translate_errors(self.where):
            return with_retry(self.where, attempt)


class RunningTrial:
    """A trial that this process has claimed."""

    def __init__(self, ledger: Ledger, optuna_trial: optuna.Trial, trial: Trial) -> None:
        self._ledger = ledger
        self._optuna_trial = optuna_trial
        self.trial = trial
        self._stored = trial_attributes(trial)
        self._id = trial_id(optuna_trial)
        ledger.leases.hold(self._id)

    def store(self) -> None:
        """Store the attributes of the record that have changed."""
        self._ledger.write(self._store)

    def _store(self) -> None:
        new = trial_attributes(self.trial)
        for key, value in new.items():
            if self._stored.get(key) != value:
                self._optuna_trial.set_user_attr(key, value)
        self._stored = new

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Mark the trial as `PREPARING` while its inherited weights are prepared."""
        self._ledger.write(lambda: self._optuna_trial.set_user_attr(EPOCH, PREPARING))
        yield
        self._ledger.write(lambda: self._optuna_trial.set_user_attr(EPOCH, 0))

    def report(self, score: EpochScore) -> None:
        """Store the epoch, and its mAP50-95 if it was validated."""

        def write() -> None:
            self._optuna_trial.set_user_attr(EPOCH, score.epoch)
            if score.validation:
                self._optuna_trial.report(score.validation.map, score.epoch)

        self._ledger.write(write)

    def end(self, **changes: Any) -> Trial:
        """Store the result and return the trial; it is interrupted if another worker has taken it over meanwhile."""
        self.trial = replace(self.trial, **changes)
        try:
            self._ledger.write(self._end)
            kept = self._frozen()  # another worker may have taken this process for dead, and settled the trial
            if kept.user_attrs.get(RECORD) != json.loads(json.dumps(self.trial.to_json())):
                self.trial = replace(load_trial(kept), status="interrupted", failure=TAKEN_OVER)
        finally:
            self._ledger.leases.release(self._id)
        return self.trial

    def _end(self) -> None:
        from optuna.trial import TrialState

        self._store()
        states = {"done": TrialState.COMPLETE, "rejected": TrialState.PRUNED}
        value = self.trial.map_per_gflop if self.trial.status == "done" else None
        inner = self._ledger.inner
        inner.tell(self._optuna_trial, value, states.get(self.trial.status, TrialState.FAIL), skip_if_finished=True)

    def _frozen(self) -> FrozenTrial:
        where, inner = self._ledger.where, self._ledger.inner
        with translate_errors(where):
            return with_retry(where, lambda: read_trial(inner, self._id))


def trial_attributes(trial: Trial) -> dict[str, Any]:
    """Return the record, and a few plain values for users who read the storage with other tools."""
    plain: dict[str, Any] = {"swaps": trial.describe(), "id": trial.variant.id, "seed": trial.seed}
    if trial.fidelity:
        plain["fidelity"] = trial.fidelity
    if trial.variant.width is not None:
        plain["width"] = trial.variant.width
    if trial.status == "done":
        plain["map50_95"] = round(trial.map, 5)
    if trial.latency_ms is not None:
        plain["latency_ms"] = round(trial.latency_ms, 3)
    if trial.machine:
        plain["machine"] = trial.machine
    if trial.failure:
        plain["failure"] = trial.failure
    return {**plain, "gflops": trial.gflops, "params": trial.params, RECORD: trial.to_json()}


def load_trial(frozen: FrozenTrial, *, settle: bool = True) -> Trial:
    """Return a stored trial; with `settle`, one that is open in the storage counts as running in any case."""
    trial = Trial.from_json(frozen.number, frozen.params, frozen.user_attrs[RECORD])
    return replace(trial, status="running") if settle and frozen.state.name == "RUNNING" else trial


_MOST_DEATHS = 3
"""Attempts of one run after which it has failed if the worker of each died in the same epoch."""


def take_over(ledger: Ledger) -> int:
    """Settle the trials of dead workers; call it within the study's `leases.claim_lock`.

    A trial with a recorded result is ended with it. Any other is interrupted, and will be retried; but after three
    attempts whose workers died in the same epoch it has failed, because the variant may be what kills them.

    Returns:
        How many were interrupted.
    """
    from optuna.trial import TrialState

    inner, interrupted = ledger.inner, 0
    with translate_errors(ledger.where):
        frozen = with_retry(ledger.where, lambda: inner.get_trials(deepcopy=False))
        for f in frozen:
            if f.state == TrialState.WAITING:  # created by another tool, such as a dashboard
                inner.tell(inner.ask(), state=TrialState.FAIL)
            if f.state != TrialState.RUNNING:
                continue
            owner, beat = f.user_attrs.get(OWNER, ""), f.user_attrs.get(BEAT, 0)
            if not ledger.leases.is_stale(trial_id(f), owner, beat):
                continue
            if RECORD not in f.user_attrs:  # of an old version, which did not claim and record in one transaction
                inner.tell(f.number, state=TrialState.FAIL)
                continue
            handle = RunningTrial(ledger, open_trial(inner, trial_id(f)), load_trial(f, settle=False))
            if handle.trial.status != "running":
                handle.end()
                continue
            interrupted += 1
            if not handle.trial.variant.is_baseline and _deaths_at_epoch(f, frozen) >= _MOST_DEATHS - 1:
                handle.end(status="failed", failure=DIED_OFTEN)
            else:
                handle.end(status="interrupted", failure=DIED)
    return interrupted


def _deaths_at_epoch(trial: FrozenTrial, every: list[FrozenTrial]) -> int:
    """Return how many earlier attempts of the same run ended in the same epoch with their worker's death.

    While it was being prepared, none counts.
    """
    key, at = load_trial(trial).key, trial.user_attrs.get(EPOCH, 0)
    return (
        0
        if at == PREPARING
        else sum(
            t.number != trial.number
            and t.user_attrs.get(EPOCH, 0) == at
            and t.user_attrs.get(RECORD, {}).get("failure") == DIED
            and load_trial(t).key == key
            for t in every
        )
    )
