"""What opens a study from the options of a search. Nothing is trained here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import nas.session.search
from nas.session.options import SearchOptions
from nas.session.search import Session
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation


@pytest.fixture
def begin(tiny_data, tmp_path, monkeypatch):
    """Open a session from some options; the others are not given. Any file stands for one of weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nas.session.search, "check_weights", lambda *_: None)

    def opened(**options) -> Session:
        given = {"space": "quick", "data": str(tiny_data), "device": "cpu", **options}
        return Session.open(tmp_path / "cache", SearchOptions(**given))

    return opened


@pytest.fixture
def run_what_is_left():
    """Run a session of a study that has all its trials, and return what was told."""

    def run(session: Session) -> list[str]:
        lines: list[str] = []
        session.run(SimpleNamespace(note=lines.append), [])
        assert "has all" in lines[-1]
        return lines

    return run


@pytest.fixture
def finish_a_trial():
    """Keep a study from being created again."""

    def finish(study: Study) -> None:
        space = study.settings.space
        curve = (EpochScore(1, 2.0, 0.1, Validation(0.5, 0.3, 1.0)),)
        handle = study.start(Trial(-1, space.variant({}), space.baseline(), "running"))
        handle.end(status="done", gflops=8.0, curve=curve, average=curve[0].validation)

    return finish
