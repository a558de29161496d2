"""Workers that join a study, from the command line: what they are told, and what is refused."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import nas.session.worker
from nas.cli import cli
from nas.errors import StudyError
from nas.study.location import locate
from nas.study.study import Study

TINY = ["--epochs", "1", "--imgsz", "64", "--batch", "8", "--init", "scratch", "--device", "cpu", "--confirm", "0"]


@pytest.fixture
def nas_cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*args: str):
        return CliRunner().invoke(cli, [str(a) for a in args])

    return call


@pytest.fixture
def asked(tiny_data, nas_cli, tmp_path, monkeypatch):
    """Return a study that asks for three trials and has none, as another machine would have made it."""

    def made(url: str | None = None) -> Study:
        with monkeypatch.context() as patch:
            patch.setattr("nas.session.search.Session.run", lambda self, *_: self.study.set_target(3, 3))
            storage = ["--storage", url] if url else []
            done = nas_cli("search", "quick", "--data", tiny_data, "--study", "t", "--trials", "3", *TINY, *storage)
            assert done.exit_code == 0, done.output
        return Study.load(locate("t", url))

    return made


@pytest.mark.slow
def test_a_worker_does_what_is_left_and_two_train_side_by_side(asked, database, nas_cli):
    study = asked(database)
    done = nas_cli("worker", "--study", "t", "--storage", database, "--workers", "2")
    assert done.exit_code == 0, done.output
    assert "joining the study t (postgresql://nas:***@127.0.0.1:" in done.stderr
    assert "0 of 3 trials are done or under way" in done.stderr
    spans = sorted((t.datetime_start, t.datetime_complete) for t in study._inner.get_trials())
    assert spans[1][0] < spans[0][1]  # the second begins before the first ends
    assert "the study t has no trials left; `nas rank t" in done.stderr
    assert sorted(t.status for t in study.trials()) == ["done"] * 3
    again = nas_cli("worker", "--study", "t", "--storage", database)
    assert "3 of 3 trials are done" in again.stderr
    assert "secret" not in done.output + again.output
    rows = json.loads(nas_cli("rank", "t", "--storage", database, "--json").stdout)["rows"]
    assert len(rows) == 3
    said = nas_cli("rank", "t", "--storage", database).output
    assert "--storage postgresql://nas:***@127.0.0.1:" in said.replace("\n", " ")
    assert "secret" not in said


def test_nothing_to_join(nas_cli):
    done = nas_cli("worker", "--study", "t")
    assert done.exit_code == 1
    assert "no study 't' in studies/t.db to join; `nas search SPACE --study t` creates it" in done.stderr


def test_a_worker_that_waits_sees_the_study_come(asked, nas_cli, monkeypatch):
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            asked()

    monkeypatch.setattr(nas.session.worker, "_pause", pause)
    monkeypatch.setattr("nas.session.worker.Joining.run", lambda self, _: None)
    assert nas_cli("worker", "--study", "t", "--wait", "5").exit_code == 0
    assert len(pauses) == 3


def test_a_worker_that_waits_outlasts_a_server_that_is_not_up(asked, nas_cli, postgres, database, monkeypatch):
    asked(database)
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            postgres.start()

    monkeypatch.setattr(nas.session.worker, "_pause", pause)
    monkeypatch.setattr("nas.session.worker.Joining.run", lambda self, _: None)
    worker = ("worker", "--study", "t", "--storage")
    postgres.stop()
    try:
        at_once = nas_cli(*worker, database)
        assert (at_once.exit_code, pauses) == (1, [])
        assert "cannot reach postgresql://nas:***@127.0.0.1:" in at_once.stderr
        waiting = nas_cli(*worker, database, "--wait", "5")
    finally:
        if len(pauses) < 2:
            postgres.start()
    assert (waiting.exit_code, len(pauses)) == (0, 2), waiting.output
    elsewhere = nas_cli(*worker, database.replace(":secret@", ":wrong@"), "--wait", "5")
    nowhere = nas_cli(*worker, f"{database}x", "--wait", "5")
    assert (elsewhere.exit_code, nowhere.exit_code, len(pauses)) == (1, 1, 2)  # that will not pass
    assert "refuses this user or password" in elsewhere.stderr
    assert "the server has no database" in nowhere.stderr


def test_other_data_and_other_versions_are_refused(asked, nas_cli, tmp_path, monkeypatch, tiny_data):
    asked()
    other = tmp_path / "other.yaml"
    other.write_text(
        tiny_data.read_text().replace("square", "box").replace("train:", f"path: {tiny_data.parent}\ntrain:")
    )
    done = nas_cli("worker", "--study", "t", "--data", other)
    assert done.exit_code == 1
    assert (
        "this worker cannot join the study 't': its trainings would differ from those of other workers:" in done.stderr
    )
    assert "data: it was made on" in done.stderr
    monkeypatch.setattr("nas.session.settings.current_versions", lambda: (("torch", "1.0"),))
    done = nas_cli("worker", "--study", "t")
    assert done.exit_code == 1
    assert "version of torch: " in done.stderr
    assert ", not 1.0" in done.stderr


def test_wrong_use(nas_cli):
    for args in (["worker"], ["worker", "--study", "t", "--workers", "0"], ["search", "quick", "--workers", "0"]):
        assert nas_cli(*args).exit_code == 2
    bad = nas_cli("worker", "--study", "t", "--storage", "postgres//x")
    assert bad.exit_code == 1
    assert "expected sqlite:///PATH or postgresql://USER@HOST:PORT/DATABASE" in bad.stderr


def test_a_replayed_table_has_nothing_to_train(asked, nas_cli, tmp_path, monkeypatch):
    study = asked()
    monkeypatch.setattr("nas.study.settings.Settings.from_json", _with_table(study))
    with pytest.raises(StudyError, match="the study 't' replays a table: there is nothing to train"):
        nas.session.worker.Joining.open(tmp_path, study.location, data=None, workers=1, wait=0)


def _with_table(study):
    from dataclasses import replace

    changed = replace(study.settings, table="abc")
    return lambda _text: changed


def test_copying_from_the_command_line(asked, nas_cli):
    asked()
    done = nas_cli("studies", "copy", "t", "--to", "sqlite:///there/b.db", "--as", "u")
    assert done.exit_code == 0, done.output
    assert "0 runs copied to there/b.db, as u" in done.stdout
    assert "they stay in studies/weights" in done.stderr
    again = nas_cli("studies", "copy", "t", "--to", "sqlite:///there/b.db", "--as", "u")
    assert again.exit_code == 1
    assert "holds a study 'u' already; --as gives the copy another name" in again.stderr
