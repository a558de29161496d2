"""Taking over: what becomes of the trials of workers that are gone."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.open_trial import BEAT, EPOCH, OWNER, PREPARING, RECORD, Ledger, OpenTrial, thaw
from nas.storage import explained, patiently
from nas.trial import DIED, DIED_OFTEN

_MOST_DEATHS = 3
"""Tries of one run that may end in the same epoch with the death of their worker."""


def take_over(ledger: Ledger) -> int:
    """Settle the trials of workers that are gone; call it within the study's `leases.alone`.

    One whose end is on record is told so. Any other was cut short, and is tried again; but one whose worker died in
    three tries without coming further has failed: it may be what kills them. Returns how many were cut short.
    """
    inner, cut_short = ledger.inner, 0
    with explained(ledger.where):
        frozen = patiently(ledger.where, lambda: inner.get_trials(deepcopy=False))
        for f in frozen:
            if f.state == TrialState.WAITING:  # nothing here makes such trials; a dashboard can
                inner.tell(inner.ask(), state=TrialState.FAIL)
            if f.state != TrialState.RUNNING:
                continue
            owner, beat = f.user_attrs.get(OWNER, ""), f.user_attrs.get(BEAT, 0)
            if not ledger.leases.is_gone(f._trial_id, owner, beat):
                continue
            if RECORD not in f.user_attrs:  # of a version that did not claim and record at once
                inner.tell(f.number, state=TrialState.FAIL)
                continue
            handle = OpenTrial(ledger, optuna.Trial(inner, f._trial_id), thaw(f, settle=False))
            if handle.trial.status != "running":
                handle.end()
                continue
            cut_short += 1
            if not handle.trial.variant.is_baseline and _deaths_there(f, frozen) >= _MOST_DEATHS - 1:
                handle.end(status="failed", failure=DIED_OFTEN)
            else:
                handle.end(status="interrupted", failure=DIED)
    return cut_short


def _deaths_there(trial: FrozenTrial, every: list[FrozenTrial]) -> int:
    """Return how often earlier tries of the same run died in the same epoch; never while it was prepared."""
    key, at = thaw(trial).key, trial.user_attrs.get(EPOCH, 0)
    return (
        0
        if at == PREPARING
        else sum(
            t.number != trial.number
            and t.user_attrs.get(EPOCH, 0) == at
            and t.user_attrs.get(RECORD, {}).get("failure") == DIED
            and thaw(t).key == key
            for t in every
        )
    )
