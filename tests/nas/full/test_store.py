"""Rows of full trainings: claimed once, taken over from the dead, in a file and on a server."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from full_trainings import run_of

import nas.study.leases
from nas.errors import StudyError
from nas.full.run import FullRun
from nas.full.store import FullRuns
from nas.study.catalog import list_studies
from nas.study.optuna_private import set_trial_attribute
from nas.study.study import Study


@pytest.fixture
def wanted(full_study, storage_url, monkeypatch):
    """Return the study, and three trainings that are wanted."""
    monkeypatch.setattr(nas.study.leases, "GRACE_S", 0.6)
    study = full_study(storage_url)
    return study, [replace(run_of(t, 0.5), status="running", scores=None, attempts=0) for t in study.trials()]


def test_each_training_is_claimed_once_and_taken_over_from_the_dead(wanted):
    study, runs = wanted
    here, there = FullRuns(study.location), FullRuns(study.location)
    first, busy = here.claim(runs)
    assert (first.run.key, first.run.attempts, busy) == (runs[0].key, 1, 0)
    second, busy = there.claim(runs)
    assert (second.run.key, busy) == (runs[1].key, 1)
    assert there.claim(runs[:2]) == (None, 2)
    first.store(replace(first.run, seconds=7.0))
    # The first process dies: its lock file is free, or its heartbeat stays.
    if not study.location.server:
        here.leases._held.close()
    for _ in range(30):
        taken, _ = there.claim(runs[:1])
        if taken:
            break
        time.sleep(0.1)
    assert taken
    assert (taken.run.attempts, taken.run.seconds) == (2, 7.0)
    taken.end(replace(run_of(study.trials()[0], 0.5), attempts=2))
    assert there.claim(runs[:1]) == (None, 0)
    stored = there.read()
    assert [run.status for run in stored] == ["done", "running"]
    assert stored[0] == replace(run_of(study.trials()[0], 0.5), attempts=2)
    second.end(second.run.failed("why"))
    again, _ = there.claim(runs[1:2])  # a failure is tried again, and counts no more
    again.end(replace(run_of(study.trials()[1], 0.6), attempts=1))
    assert [(run.status, run.failure) for run in there.read()] == [("done", ""), ("done", "")]
    found, problems = list_studies(study.location.url)
    assert ([s.location.name for s in found], problems) == (["s"], [])


def test_a_study_without_full_trainings_has_none(full_study, storage_url):
    study = full_study(storage_url)
    assert FullRuns(study.location).read() == []
    assert Study.load(study.location).trials() == study.trials()  # what was there is read as before


def test_a_damaged_row_is_said(wanted):
    study, runs = wanted
    here = FullRuns(study.location)
    claim, _ = here.claim(runs)
    body = claim.run.to_json()
    assert FullRun.from_json(body) == claim.run
    for change in ({"seed": "x"}, {"status": "gone"}, {"swaps": [["a\nb", "c"]]}, {"status": "done"}, {"more": 1}):
        set_trial_attribute(here._inner, claim._trial, "record", {**body, **change})
        with pytest.raises(StudyError, match="damaged"):
            FullRuns(study.location).read()
