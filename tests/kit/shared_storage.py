"""Storages that several processes share: a file, and a real server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import instant_worker
import pytest
from postgres import Server, server, why_not

import nas.search.runner
from nas.space.space_file import load_space
from nas.study.budget import Confirm, Rung
from nas.study.location import locate
from nas.study.settings import Settings, current_versions
from nas.study.study import Study
from nas.training.recipe import Recipe

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Return a server of PostgreSQL."""
    if reason := why_not():
        pytest.skip(reason)
    with server() as running:
        yield running


@pytest.fixture
def database(postgres: Server) -> str:
    """Return the URL of an empty database."""
    name = f"db{next(_NUMBERS)}"
    postgres.sql(f"CREATE DATABASE {name}")
    return postgres.url(name)


@pytest.fixture(params=["sqlite", "postgres"])
def storage_url(request: pytest.FixtureRequest, tmp_path, monkeypatch) -> str:
    """Return the URL of a storage without studies, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path / 'a.db'}" if request.param == "sqlite" else request.getfixturevalue("database")


@pytest.fixture
def instant_settings() -> Settings:
    """Return settings of a study whose trainings are instant."""
    return Settings(
        space=load_space("seeds"),
        recipe=Recipe(epochs=2, init="scratch"),
        data="",
        fingerprint="f" * 16,
        classes=("a",),
        images=(4, 2),
        seed=0,
        floor=0.02,
        versions=current_versions(),
        sampler="random",
    )


@pytest.fixture
def make_shared(instant_settings: Settings) -> Callable[..., Study]:
    """Return a function that creates a study, with a number of requested variants; the best three are confirmed."""

    def made(url: str | None, name: str = "k", trials: int = 4, rungs: tuple[Rung, ...] = ()) -> Study:
        study = Study.create(locate(name, url), replace(instant_settings, rungs=rungs), trials, confirm=Confirm(3, 3))
        study.set_target(trials, trials)
        return study

    return made


@pytest.fixture
def quick_costs(monkeypatch) -> None:
    """Let costs be known at once, and workers look again soon."""
    monkeypatch.setattr(nas.search.runner, "costed", instant_worker.instant_cost)
    monkeypatch.setattr("nas.search.loop._PAUSE_S", 0.01)


@pytest.fixture
def shared_study(make_shared, tmp_path) -> Study:
    """Return a study of twelve variants in a file."""
    return make_shared(f"sqlite:///{tmp_path / 'a.db'}", trials=12)
