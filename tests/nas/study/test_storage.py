"""Studies in a file and on a server: the same study, and a clear word where it cannot be used."""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import replace

import pytest

import nas.study.storage
from nas.errors import LockError, OptionError, OutputError, StorageError, StudyError
from nas.study.catalog import copy_study, list_studies
from nas.study.location import locate
from nas.study.storage import translate_errors
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

SEEN = (EpochScore(1, 2.0, 0.1, Validation(0.5, 0.3, 1.0)),)


def finish_one(study: Study) -> Trial:
    space = study.settings.space
    handle = study.start(Trial(-1, space.variant({}), space.baseline(), "running"))
    handle.report(SEEN[0])
    return handle.end(status="done", gflops=8.0, curve=SEEN)


def test_a_study_round_trips(storage_url, make_shared):
    assert not Study.exists(locate("k", storage_url))
    study = make_shared(storage_url, trials=7)
    ended = finish_one(study)
    assert Study.exists(study.location)
    read = Study.load(locate("k", storage_url), write=True)
    assert (read.settings, read.trials(), read.target) == (study.settings, [ended], 7)
    assert [s.location.name for s in list_studies(storage_url)[0]] == ["k"]
    with pytest.raises(StudyError, match="holds no study 'other'"):
        Study.load(locate("other", storage_url))
    with pytest.raises(StudyError, match="holds a study 'k' already"):
        make_shared(storage_url)


def test_looking_makes_no_tables(database, postgres):
    assert not Study.exists(locate("k", database))
    with pytest.raises(StudyError, match="holds no study 'k'"):
        Study.load(locate("k", database))
    assert list_studies(database) == ([], [])
    import psycopg

    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_a_study_moves_to_a_server_and_back(database, make_shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = make_shared(f"sqlite:///{tmp_path / 'a.db'}")
    ended = finish_one(here)
    there = copy_study(here, locate("k", database))
    assert (there.settings, there.trials(), there.target, there.confirm) == (
        here.settings, [ended], here.target, here.confirm,
    )  # fmt: skip
    back = copy_study(there, locate("again", f"sqlite:///{tmp_path / 'b.db'}"))
    assert back.trials() == [ended]
    assert finish_one(back).number == 1
    with pytest.raises(StudyError, match=r"holds a study 'k' already; --as gives the copy another name"):
        copy_study(here, locate("k", database))


def test_a_study_that_is_worked_on_is_not_copied(tmp_path, make_shared):
    study = make_shared(f"sqlite:///{tmp_path / 'a.db'}")
    study.start(Trial(-1, study.settings.space.variant({}), study.settings.space.baseline(), "running"))
    with pytest.raises(StudyError, match="runs of the study 'k' are not finished; copy it when"):
        copy_study(Study.load(study.location), locate("k", f"sqlite:///{tmp_path / 'b.db'}"))


def test_a_password_is_never_shown(database, make_shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = locate("k", database)
    assert "secret" in where.url
    assert "secret" not in where.shown + str(where.folder) + str(where.weights)
    assert (str(where.folder), str(where.weights)) == ("studies/k.server", "studies/weights")
    make_shared(database)
    with pytest.raises(StudyError) as caught:
        make_shared(database)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:pw@127.0.0.1:1/a", r"cannot reach postgresql://me:\*\*\*@127.0.0.1:1/a: .*[Cc]onnection"),
        ("postgresql://me:pw@127.0.0.1:notaport/a", "cannot read the storage's URL: expected sqlite:///PATH or post"),
        ("postgresql://me:pw@127.0.0.1", "names no database"),
        ("mysql://me@host/a", "cannot use the storage 'mysql://me@host/a': expected sqlite:///PATH or postgresql://"),
    ],
)
def test_a_url_that_leads_nowhere(url, words, monkeypatch):
    monkeypatch.setattr(nas.study.storage, "PATIENCE_S", 0.0)
    with pytest.raises(StorageError, match=words):
        Study.load(locate("k", url))


def test_what_a_server_refuses(database, postgres, make_shared):
    make_shared(database)
    name = database.rsplit("/", 1)[1]
    with pytest.raises(StorageError, match=r"refuses this user or password: .*password authentication failed"):
        Study.load(locate("k", postgres.url(name, password="wrong")))
    with pytest.raises(StorageError, match=r"the server has no database 'nowhere'; make it: createdb nowhere"):
        Study.load(locate("k", postgres.url("nowhere")))
    postgres.sql(f"CREATE ROLE reader_{name} LOGIN PASSWORD 'secret'")
    postgres.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}", name)
    reader = locate("k", postgres.url(name, f"reader_{name}"))
    assert Study.load(reader).target == 4
    with pytest.raises(StorageError, match="this user may read studies there, but not write them"):
        Study.load(reader, write=True)
    postgres.sql(f"CREATE DATABASE empty_{name}")
    with pytest.raises(StorageError, match=r"lacks a right that studies need .*permission denied for schema public"):
        make_shared(postgres.url(f"empty_{name}", f"reader_{name}"))


def test_a_database_of_something_else(database, postgres, make_shared):
    name = database.rsplit("/", 1)[1]
    postgres.sql("CREATE TABLE customers (name TEXT)", name)
    with pytest.raises(StorageError, match=r"is a database of another application \(tables: customers\); .*createdb"):
        make_shared(database)


def test_another_schema_of_optuna(database, postgres, make_shared):
    make_shared(database)
    postgres.sql("UPDATE alembic_version SET version_num = 'v0.9.0.a'", database.rsplit("/", 1)[1])
    with pytest.raises(StorageError, match="was made by another version of Optuna"):
        Study.load(locate("k", database))


def test_a_missing_driver_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError, match=r"PostgreSQL needs its driver: pip install 'swapnas\[postgres\]'"):
        Study.load(locate("k", "postgresql://me@127.0.0.1:1/a"))


def test_a_server_that_is_away_for_a_while(make_shared, monkeypatch):
    """What a worker has to say waits; what it had said is there."""
    from postgres import server, why_not

    if reason := why_not():
        pytest.skip(reason)
    monkeypatch.setattr(nas.study.storage, "PATIENCE_S", 120.0)
    with server() as own:
        own.sql("CREATE DATABASE a")
        study = make_shared(own.url("a"))
        first = finish_one(study)
        space = study.settings.space
        handle = study.start(Trial(-1, space.variant({}), space.baseline(), "running", seed=1))
        own.stop()
        back = threading.Timer(2.0, own.start)
        back.start()
        handle.report(SEEN[0])
        back.join()
        own.stop()
        back = threading.Timer(2.0, own.start)
        back.start()
        ended = handle.end(status="done", gflops=8.0, curve=SEEN)
        back.join()
        assert Study.load(study.location).trials() == study.trials() == [first, ended]
        own.stop()
        monkeypatch.setattr(nas.study.storage, "PATIENCE_S", 1.0)
        began = time.monotonic()
        with pytest.raises(StorageError, match="cannot reach"):
            study.trials()
        assert time.monotonic() - began >= 1.0
        own.start()
        assert len(study.trials()) == 2


def test_two_studies_made_at_once_are_one(storage_url, instant_settings, tmp_path):
    """As when the same command starts on many machines."""
    found, barrier = [], threading.Barrier(4)

    def begin() -> None:
        from nas.study.leases import claim_lock

        where = locate("k", storage_url)
        barrier.wait()
        with claim_lock(where):
            found.append(None if Study.exists(where) else Study.create(where, replace(instant_settings), 4))

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(study is not None for study in found) == 1
    assert len(found) == 4


@pytest.mark.parametrize("kind", [OutputError, LockError, StudyError, OptionError])
def test_an_error_that_is_clear_already_is_not_translated(tmp_path, kind):
    """Of the built-in kinds that a storage raises too: OSError, RuntimeError."""
    with (
        pytest.raises(kind, match=r"^as it was: the disk is locked$"),
        translate_errors(locate("a", f"sqlite:///{tmp_path}")),
    ):
        raise kind("as it was: the disk is locked")


def test_a_study_that_cannot_be_read_does_not_hide_the_others(tmp_path, make_shared, monkeypatch):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    make_shared(url)
    copy_study(Study.load(locate("k", url)), locate("l", url))
    load = Study.load

    def breaks(where, **options):
        if where.name == "k":
            raise StorageError("the disk failed")
        return load(where, **options)

    monkeypatch.setattr(Study, "load", breaks)
    found, problems = list_studies(url)
    assert [study.location.name for study in found] == ["l"]
    assert problems == ["the disk failed"]


def test_a_file_is_no_server(tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as db:
        db.execute("CREATE TABLE customers (name TEXT)")
    found, problems = list_studies(f"sqlite:///{tmp_path / 'a.db'}")
    assert not found
    assert "an SQLite database of another application" in problems[0]
