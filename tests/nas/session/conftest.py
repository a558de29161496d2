"""What opens a study from the options of a search. Nothing is trained here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nas.session.search import Session
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

OPTIONS = {
    "space": "quick", "study": None, "data": None, "trials": None, "epochs": None, "imgsz": None, "batch": None,
    "scale": None, "proxy": None, "init": None, "weights": None, "base_epochs": None, "bank_epochs": None, "amp": None,
    "seed": None, "seeds": None, "confirm": None, "floor": None, "enable": (), "max_gflops": None, "max_params": None,
    "max_latency": None, "min_map": None, "objective": None, "sampler": None, "latency": False, "replay": None,
    "device": None, "storage": None, "workers": None, "baseline_per_seed": None, "rungs": None, "eta": None,
}  # fmt: skip


@pytest.fixture(scope="session")
def options() -> set[str]:
    """The names of all options."""
    return set(OPTIONS)


@pytest.fixture
def begin(tiny_data, tmp_path, monkeypatch):
    """Open a session from some options; the others are not given."""
    monkeypatch.chdir(tmp_path)

    def opened(**options) -> Session:
        given = {**OPTIONS, "data": str(tiny_data), "device": "cpu", **options}
        assert given.keys() == OPTIONS.keys()
        return Session.open(tmp_path / "cache", **given)

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
    """Keep a study from being begun anew."""

    def finish(study: Study) -> None:
        space = study.settings.space
        curve = (EpochScore(1, 2.0, 0.1, Validation(0.5, 0.3, 1.0)),)
        handle = study.start(Trial(-1, space.variant({}), space.baseline(), "running"))
        handle.end(status="done", gflops=8.0, curve=curve, average=curve[0].validation)

    return finish
