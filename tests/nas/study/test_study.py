"""Studies and their storage: what is kept, what is refused, and in which words."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from nas.bank.jobs import Candidate, Distilled
from nas.bank.store import SwapBank
from nas.errors import LockError, StorageError, StudyError
from nas.space.space_file import load_space
from nas.space.variant import Variant
from nas.study.budget import Confirm
from nas.study.catalog import list_studies
from nas.study.location import locate
from nas.study.settings import Settings, current_versions
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation


def settings(**changes) -> Settings:
    made = Settings(
        space=load_space("quick"),
        recipe=Recipe(),
        data="/data/a.yaml",
        fingerprint="0123456789abcdef",
        classes=("a",),
        images=(4, 2),
        seed=0,
        floor=0.02,
        versions=current_versions(),
    )
    return replace(made, **changes)


def test_settings_round_trip(tmp_path):
    where = locate("a", f"sqlite:///{tmp_path / 'a.db'}")
    Study.create(where, settings(), 3)
    assert Study.load(where).settings == settings()
    assert Study.exists(where)
    assert settings().differences(settings()) == []


def test_differences_are_named():
    other = settings(
        recipe=replace(Recipe(), epochs=9, imgsz=64),
        fingerprint="f" * 16,
        data="/data/b.yaml",
        seed=3,
        space=load_space("seeds"),
        versions=(("torch", "1.0"),),
        score="map_average",
    )
    found = "\n".join(settings().differences(other))
    for words in (
        "recipe: epochs: 8, not 9",
        "recipe: imgsz: 160, not 64",
        "data: it was made on /data/a.yaml (fingerprint 0123456789abcdef), /data/b.yaml has ffffffffffffffff",
        "seed: 0, not 3",
        "score: map, not map_average",
        "space: it searches quick (yolov8n, 3 slots",
        "version of torch: ",
    ):
        assert words in found


def test_what_may_move_is_no_difference():
    one, other = (
        settings(
            recipe=replace(Recipe(), init=f"/{at}/i.pt", init_digest="1", weights=f"/{at}/w.pt", weights_digest="2"),
            data=f"/{at}/a.yaml",
            calibration=at,
        )
        for at in ("here", "there")
    )
    assert one.differences(other) == []
    for key in ("init_digest", "weights_digest"):
        changed = one.differences(replace(other, recipe=replace(other.recipe, **{key: "9"})))
        assert [line.split()[1] for line in changed] == [key.removesuffix("_digest") + ":", key + ":"]


def test_default_place():
    where = locate("blood")
    assert str(where.file) == os.path.join("studies", "blood.db")
    assert str(where.folder) == os.path.join("studies", "blood")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 80, "a b"])
def test_bad_names(name):
    with pytest.raises(StudyError, match="a study cannot be called"):
        locate(name)


@pytest.mark.parametrize("url", ["a.db", "sqlite://", "sqlite:///", "mysql://x/y"])
def test_bad_urls(url):
    with pytest.raises(StorageError, match="cannot use the storage"):
        locate("a", url)


def test_no_study(tmp_path):
    with pytest.raises(StudyError, match="does not exist"):
        Study.load(locate("a", f"sqlite:///{tmp_path / 'a.db'}"))
    Study.create(locate("a", f"sqlite:///{tmp_path / 'a.db'}"), settings(), 3)
    with pytest.raises(StudyError, match="holds no study 'b'"):
        Study.load(locate("b", f"sqlite:///{tmp_path / 'a.db'}"))
    with pytest.raises(StudyError, match="holds a study 'a' already"):
        Study.create(locate("a", f"sqlite:///{tmp_path / 'a.db'}"), settings(), 3)


def test_a_study_that_was_cut_short_at_birth_is_none(tmp_path):
    where = locate("a", f"sqlite:///{tmp_path / 'a.db'}")
    optuna.create_study(study_name="a", storage=where.url, direction="maximize")
    assert not Study.exists(where)
    study = Study.create(where, settings(), 7)
    assert Study.exists(where)
    assert Study.load(where).target == study.request == 7


def test_what_was_finished_is_not_replaced(tmp_path):
    where = locate("a", f"sqlite:///{tmp_path / 'a.db'}")
    study = Study.create(where, settings(), 3)
    variant = Variant("yolov8", "n")
    curve = (EpochScore(1, 2.0, 0.1, Validation(0.5, 0.3, 1.0)),)
    handle = study.start(Trial(-1, variant, study.settings.space.baseline(), "running"))
    handle.end(status="done", gflops=8.0, curve=curve)
    with pytest.raises(StudyError, match="has finished trials"):
        study.recreate(study.settings, 5)


def test_a_trained_baseline_lies_beside_the_studies(tmp_path):
    """So a study that has nothing else loses nothing with its name."""
    study = Study.create(locate("a", f"sqlite:///{tmp_path / 'a.db'}"), settings(), 3)
    curve = (EpochScore(1, 0.5, 1.0), EpochScore(2, 0.5, 1.0, Validation(0.5, 0.3, 1.0)))
    study.store_baseline_training(curve)
    assert Study.load(study.location).baseline_training == curve
    assert study.has_no_results
    again = study.recreate(study.settings, 5, options={"trials": 5})
    assert (again.baseline_training, again.target, again.options) == ((), 5, {"trials": 5})
    assert study.location.weights == tmp_path / "weights"
    assert locate("b", f"sqlite:///{tmp_path / 'b.db'}").weights == tmp_path / "weights"
    assert locate("c").weights == Path("studies") / "weights"


def test_what_a_bank_says_is_kept(tmp_path):
    study = Study.create(locate("a", f"sqlite:///{tmp_path / 'a.db'}"), settings(), 3)
    assert study.bank == {}
    made = Distilled(Candidate("neck.up_p4", "CARAFE"), "a.pt", 1.0, 0.25)
    broken = Distilled(Candidate("neck.up_p3", "CARAFE"), "", 1.0, float("nan"), "it diverged")
    candidates = {(d.candidate.slot, d.candidate.label): d for d in (made, broken)}
    study.store_bank(SwapBank(tmp_path / "bank-1", 0.4, {"neck.up_p4": 0.2}, candidates, 5.0))
    assert Study.load(study.location).bank == {
        "folder": str(tmp_path / "bank-1"),
        "teacher_map": 0.4,
        "drops": {"neck.up_p4": 0.2},
        "failures": {"neck.up_p3=CARAFE": "it diverged"},
    }


def test_a_trial_round_trips(tmp_path):
    study = Study.create(locate("a", f"sqlite:///{tmp_path / 'a.db'}"), settings(), 3)
    space = study.settings.space
    assignment = {**space.baseline(), "neck.up_*": "CARAFE"}
    curve = (EpochScore(1, 2.5, 0.1), EpochScore(2, 1.5, 0.1, Validation(0.5, 0.3, 1.0)))
    handle = study.start(Trial(-1, space.variant(assignment), assignment, "running", score="map_average"))
    for score in curve:
        handle.report(score)
    ended = handle.end(
        status="done", gflops=8.0, curve=curve, average=Validation(0.6, 0.4, 0.9), distillation=0.25, inherited=(3, 9)
    )
    (read,) = Study.load(study.location).trials()
    assert read == ended
    assert (read.map, read.map50, read.map_per_gflop) == (0.4, 0.5, 0.4 / 8)
    assert read.scores == {"map": 0.3, "map_last": 0.3, "map_average": 0.4, "val_loss": -1.0, "train_loss": -2.0}
    (stored,) = optuna.load_study(study_name="a", storage=study.location.url).trials
    assert stored.intermediate_values == {2: 0.3}  # an epoch that was not validated has none
    assert stored.value == 0.4 / 8


def test_a_study_of_an_older_version(tmp_path):
    where = locate("a", f"sqlite:///{tmp_path / 'a.db'}")
    Study.create(where, settings(), 3)
    inner = optuna.load_study(study_name="a", storage=where.url)
    body = json.loads(inner.user_attrs["nas_settings"])
    assert body["schema"] == 3
    del body["score"], body["calibration"]
    inner.set_user_attr("nas_settings", json.dumps({**body, "schema": 1}))
    words = (
        f"cannot use the study 'a' of {where.file}: "
        "it was made by another version of the tool, which stores studies differently"
    )
    with pytest.raises(StudyError) as caught:
        Study.load(where)
    assert str(caught.value) == words
    assert list_studies(where.url) == ([], [words])


def test_where_files_go(tmp_path):
    a, b = (locate("x", f"sqlite:///{tmp_path / name}") for name in ("x.db", "x"))
    assert a.folder != b.folder
    assert b.folder != b.file


def test_no_sqlite_file(tmp_path):
    (tmp_path / "a.db").write_text("this is a text, and no database at all\n" * 50)
    where = locate("a", f"sqlite:///{tmp_path / 'a.db'}")
    for attempt in (Study.exists, Study.load):
        with pytest.raises(StorageError, match="is not an SQLite file"):
            attempt(where)
    assert (tmp_path / "a.db").read_text().startswith("this is a text")


def test_foreign_schema_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as db:
        db.execute("CREATE TABLE customers (name TEXT)")
    where = locate("a", f"sqlite:///{tmp_path / 'a.db'}")
    with pytest.raises(StorageError, match=r"database of another application \(tables: customers\)"):
        Study.create(where, settings(), 3)
    with sqlite3.connect(tmp_path / "a.db") as db:
        assert [n for (n,) in db.execute("SELECT name FROM sqlite_master")] == ["customers"]


def test_a_study_of_another_tool(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    optuna.create_study(study_name="a", storage=url)
    with pytest.raises(StudyError, match="not a study of this tool"):
        Study.load(locate("a", url))


def test_another_optuna_schema(tmp_path):
    where = locate("a", f"sqlite:///{tmp_path / 'a.db'}")
    Study.create(where, settings(), 3)
    with sqlite3.connect(where.file) as db:
        db.execute("UPDATE version_info SET schema_version = 3")
        db.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    with pytest.raises(StorageError, match="made by another version of Optuna"):
        Study.load(where)


def test_locked_by_another_program(tmp_path, monkeypatch):
    where = locate("a", f"sqlite:///{tmp_path / 'a.db'}")
    Study.create(where, settings(), 3)
    monkeypatch.setattr("nas.study.storage._CHECK_WAIT_S", 0.2)
    holder = sqlite3.connect(where.file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageError, match="is locked by another program"):
            Study.load(where, write=True)
    finally:
        holder.close()
    Study.load(where, write=True)


def test_storage_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot open"):
        Study.create(locate("a", f"sqlite:///{tmp_path / 'file' / 'a.db'}"), settings(), 3)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_read_only():
    folder = Path(tempfile.mkdtemp())
    where = locate("a", f"sqlite:///{folder / 'a.db'}")
    code = (  # in another process: SQLite lends its open file to every connection of this one
        "import sys; from nas.study.study import Settings, Study; from nas.study.location import locate\n"
        "Study.create(locate('a', sys.argv[1]), Settings.from_json(sys.argv[2]), 3)"
    )
    subprocess.run([sys.executable, "-c", code, where.url, settings().to_json()], check=True)
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    superuser = os.geteuid() == 0  # whom permissions do not bind
    if superuser:
        os.seteuid(65534)
    try:
        with pytest.raises(StorageError, match="read-only"):
            Study.load(where, write=True)
        with pytest.raises(StorageError, match=r"read-only|cannot open"):
            Study.create(locate("b", f"sqlite:///{folder / 'b.db'}"), settings(), 3)
    finally:
        if superuser:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_two_studies_in_one_storage(tmp_path):
    url = f"sqlite:///{tmp_path / 'all.db'}"
    for name in ("a", "b"):
        Study.create(locate(name, url), settings(), 3)
    assert [s.location.name for s in list_studies(url)[0]] == ["a", "b"]
    assert locate("a", url).folder != locate("b", url).folder


def test_list_of_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list_studies() == ([], [])
    Study.create(locate("mine"), settings(), 3)
    (tmp_path / "studies" / "odd.db").write_text("no database " * 100)
    (tmp_path / "studies" / "gone.db").touch()
    found, problems = list_studies()
    assert [s.location.name for s in found] == ["mine"]
    assert problems == [
        f"{Path('studies') / 'gone.db'} holds no study: it is empty or damaged",
        f"{Path('studies') / 'odd.db'} is not an SQLite file",
    ]


def test_the_lock_dies_with_its_process(tmp_path):
    where = locate("a", f"sqlite:///{tmp_path / 'a.db'}")
    study = Study.create(where, settings(), 3)
    code = (
        "import os, sys; from nas.study.study import Study; from nas.study.location import locate\n"
        f"lock = Study.load(locate('a', {where.url!r})).locked(); lock.__enter__(); print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline().strip() == b"held"
        with pytest.raises(LockError, match=rf"process {holder.pid}\)"), study.locked():
            pass
        holder.kill()
        holder.wait()
    with study.locked():
        pass


def test_a_study_of_one_seed_each_is_read_as_it_is_and_renewed_when_it_goes_on(tmp_path):
    """Version 2 knew neither further seeds nor fidelities, in its settings as in its trials."""
    where = locate("a", f"sqlite:///{tmp_path / 'a.db'}")
    study = Study.create(where, settings(), 3)
    variant = Variant("yolov8", "n")
    curve = (EpochScore(1, 2.0, 0.1, Validation(0.5, 0.3, 1.0)),)
    ended = study.start(Trial(-1, variant, study.settings.space.baseline(), "running")).end(status="done", curve=curve)
    inner = optuna.load_study(study_name="a", storage=where.url)
    body = json.loads(inner.user_attrs["nas_settings"])
    inner.set_user_attr("nas_settings", json.dumps({**body, "schema": 2}))
    with sqlite3.connect(where.file) as db:
        db.execute("DELETE FROM study_user_attributes WHERE key IN ('nas_seeds', 'nas_confirm')")
        (record,) = db.execute("SELECT value_json FROM trial_user_attributes WHERE key = 'record'").fetchone()
        older = {k: v for k, v in json.loads(record).items() if k != "fidelity"}
        db.execute("UPDATE trial_user_attributes SET value_json = ? WHERE key = 'record'", (json.dumps(older),))
    study = Study.load(where)
    assert study.settings == settings()
    assert study.trials() == [ended]
    assert (study.seeds, study.confirm) == (1, Confirm())
    study.set_seeds(2, Confirm(3, 3))
    study = Study.load(where)
    assert (study.seeds, study.confirm) == (2, Confirm(3, 3))
    kept = optuna.load_study(study_name="a", storage=where.url).user_attrs["nas_settings"]
    assert json.loads(kept)["schema"] == 3


def test_runs_of_one_variant_are_told_apart_by_their_seeds(tmp_path):
    study = Study.create(locate("a", f"sqlite:///{tmp_path / 'a.db'}"), settings(), 3)
    base = study.settings.space.baseline()
    for seed in (0, 4):
        study.start(Trial(-1, Variant("yolov8", "n"), base, "running", seed=seed)).end(status="failed")
    one, other = Study.load(study.location).trials()
    assert one.key._replace(seed=4) == other.key
    assert (one.key.seed, one.key.fidelity) == (0, "")


@pytest.mark.parametrize("place", [("gflops",), ("params",), ("curve", 0, "validation", "map"), ("average", "loss")])
def test_a_whole_number_that_no_study_holds_is_damage(place):
    score = Validation(0.5, 0.4, 1.0)
    trial = Trial(0, Variant("yolov8", "n"), {}, "done", curve=(EpochScore(1, 2.0, 0.1, score),), average=score)
    body = json.loads(json.dumps(trial.to_json()))
    assert Trial.from_json(0, {}, body) == trial
    inner = body
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = 10**400
    with pytest.raises(ValueError, match=r"1000000000000.*no number of a study is as large"):
        Trial.from_json(0, {}, body)
