"""Tables: what a study measured comes back, and a search in it finds what training would have found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from nas.cli import cli
from nas.errors import OutputError, ProxyFailure, StudyError, TableError
from nas.samplers import SAMPLERS
from nas.samplers.history import History
from nas.search.table import Replay, Table, export_table, read_table, write_table
from nas.space.search_space import SearchSpace
from nas.space.space_file import load_space
from nas.study.location import locate
from nas.study.settings import Settings, current_versions
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation

SPACE = load_space("quick")
FAILED = {"neck.up_*": "keep", "neck.down_*": "SPConv", "neck.c2f_*": "C2f_DCNv4"}


def score(assignment: dict[str, str]) -> float:
    return 0.4 + 0.01 * (assignment["neck.up_*"] == "CARAFE") + 0.02 * (assignment["neck.c2f_*"] == "C2f_DCNv4")


def finished(folder: Path, space: SearchSpace = SPACE, latency: bool = True) -> Study:
    """Return a study of every variant of a space but the last two; one has failed."""
    made = Settings(
        space=space,
        recipe=Recipe(init="scratch"),
        data="/d.yaml",
        fingerprint="f" * 16,
        classes=("a",),
        images=(4, 2),
        seed=5,
        floor=0.5,
        versions=current_versions(),
        latency_on="this machine" if latency else "",
    )
    study = Study.create(locate("whole", f"sqlite:///{folder / 'whole.db'}"), made, 25)
    for assignment in list(space.assignments())[:-2]:
        swaps = len(space.variant(assignment).swaps)
        handle = study.start(Trial(-1, space.variant(assignment), assignment, "running", seed=5, score="map_last"))
        if assignment == FAILED:
            handle.end(status="failed", failure="nan: loss")
            continue
        curve = tuple(EpochScore(e, 2.0, 0.1, Validation(0.6, score(assignment), 1.5)) for e in (7, 8))
        costs = {"gflops": 8.0 + swaps, "stock_gflops": 8.0, "params": 100, "latency_ms": 5.0 if latency else None}
        handle.end(status="done", curve=curve, average=curve[0].validation, seconds=33.0, **costs)
    return study


@pytest.fixture
def table(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_table(export_table(finished(tmp_path)), tmp_path / "t.json")
    return tmp_path / "t.json"


def nas(*arguments: str):
    return CliRunner().invoke(cli, arguments)


def test_a_table_holds_what_was_measured(table):
    read = read_table(table)
    assert len(read.rows) == 25
    assert read.seeds == (5,)
    assert read.space == SPACE
    assert read.about["fingerprint"] == "f" * 16
    replay = Replay(read, 5)
    best = {"neck.up_*": "CARAFE", "neck.down_*": "keep", "neck.c2f_*": "C2f_DCNv4"}
    cost, latency_ms = replay.cost(best)
    assert (cost.gflops, cost.stock_gflops, cost.params, latency_ms) == (14.0, 8.0, 100, 5.0)
    result = replay.run(best)
    assert result.seconds == 33.0
    assert result.curve == (EpochScore(8, 2.0, 33.0, Validation(0.6, score(best), 1.5)),)
    with pytest.raises(ProxyFailure, match="in the table: nan: loss"):
        replay.run(FAILED)


def test_what_has_no_row_is_not_asked_for(table):
    among = Replay(read_table(table), 5).assignments
    history = History(SPACE, [], among=among)
    missing = list(SPACE.assignments())[-2:]
    assert history.size == 25
    assert not any(history.is_new(a) for a in missing)
    assert not any(a in missing for a in history.assignments())
    assert len(history.candidates()) == 25
    other = replace(SPACE, forbid=((("neck.up_*", "CARAFE"),),))
    assert 0 < len(list(History(other, [], among=among).assignments())) < 25


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_goes_through_a_table(table, sampler):
    run = nas("search", "--replay", str(table), "--sampler", sampler, "--trials", "40", "--json")
    assert run.exit_code == 0, run.output
    body = json.loads(run.stdout)
    assert body["settings"]["sampler"] == sampler
    assert len(body["rows"]) == 24  # one has failed
    assert "every variant of the space has been tried: the search ends after 25 trials" in run.stderr
    assert {row["seed_list"] for row in body["rows"]} == {"5"}


def test_what_a_replay_finds_can_be_emitted(table):
    assert nas("search", "--replay", str(table), "--trials", "9").exit_code == 0
    run = nas("emit-yaml", "--study", "t-replay", "--best", "-o", "out")
    assert run.exit_code == 0, run.output
    (file,) = Path("out").glob("*.yaml")
    assert "backbone:" in file.read_text()


def test_a_replay_is_gone_on_with_and_says_that_it_is_one(table):
    assert nas("search", "--replay", str(table), "--trials", "3").exit_code == 0
    run = nas("search", "--replay", str(table), "--trials", "2", "--sampler", "random")
    assert run.exit_code == 0
    assert "by sampler random, seed 5; nothing is trained" in run.stderr
    assert "Replay: nothing was trained" in run.stdout
    study = Study.load(locate("t-replay", None))
    assert (sum(t.spent for t in study.trials()), study.settings.sampler) == (5, "random")
    run = nas("search", "--study", "t-replay", "--trials", "2")
    assert (run.exit_code, "replays a table: give --replay TABLE" in run.stderr) == (1, True)


def test_a_replay_of_a_removed_sampler_resumes_with_the_default_one(table):
    assert nas("search", "--replay", str(table), "--trials", "3").exit_code == 0
    study = Study.load(locate("t-replay", None))
    study.settings = replace(study.settings, sampler="evolution")
    study.store_settings()
    assert nas("rank", "t-replay").exit_code == 0
    run = nas("search", "--replay", str(table), "--trials", "2")
    assert run.exit_code == 0, run.output
    assert "by sampler auto, seed 5" in run.stderr
    assert Study.load(study.location).settings.sampler == "auto"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("quick", "--epochs", "3"), "trains nothing, so there is nothing for SPACE, --epochs to change"),
        (("--seed", "4"), "no finished baseline for --seed 4; its seeds: 5"),
        (("--max-gflops", "7"), "no variant is within the limits of the space"),
    ],
)
def test_what_a_replay_cannot_do_is_said(table, options, words):
    run = nas("search", *options, "--replay", str(table), "--trials", "9")
    assert run.exit_code == 1
    assert words in run.stderr.replace("\n", " ")


def test_other_settings_are_refused(table):
    nas("search", "--replay", str(table), "--trials", "3")
    run = nas("search", "--replay", str(table), "--objective", "map")
    assert (run.exit_code, "objective: map_per_gflop, not map" in run.stderr) == (1, True)
    body = table.read_text().replace('"map50": 0.6', '"map50": 0.7')
    table.write_text(body)
    run = nas("search", "--replay", str(table), "--trials", "3")
    assert (run.exit_code, "table that is replayed: " in run.stderr) == (1, True)


def test_latency_has_to_be_in_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(export_table(finished(tmp_path, latency=False)), Path("t.json"))
    for options in (("--objective", "map,latency"), ("--max-latency", "3")):
        run = nas("search", "--replay", "t.json", *options)
        assert (run.exit_code, "has no latencies" in run.stderr) == (1, True)


def test_the_command_exports(table):
    storage = f"sqlite:///{table.parent / 'whole.db'}"
    run = nas("studies", "export", "whole", "--storage", storage, "-o", "u.json")
    assert (run.exit_code, run.stdout) == (0, "25 trainings written to u.json\n")
    assert Path("u.json").read_text() == table.read_text()
    run = nas("studies", "export", "whole", "--storage", storage, "-o", "u.json")
    assert (run.exit_code, "u.json exists" in run.stderr) == (1, True)
    with pytest.raises(OutputError, match="cannot write"):
        write_table(read_table(table), Path("nowhere/t.json"))


def test_a_study_without_a_finished_trial_has_no_table(tmp_path):
    study = finished(tmp_path)
    empty = Study.create(locate("empty", f"sqlite:///{tmp_path / 'empty.db'}"), study.settings, 3)
    with pytest.raises(StudyError, match="'empty' has no finished trial"):
        export_table(empty)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.update(schema=99), "schema 99, this version reads 1"),
        (lambda body: body.pop("space"), "it is not a table of"),
        (lambda body: body["rows"][0]["slots"].update({"neck.up_*": "Nope"}), "does not fit the slots"),
        (lambda body: body["rows"][0]["slots"].pop("neck.up_*"), "does not fit the slots"),
        (lambda body: body["rows"][0].update(gflops=0), "GFLOPs that are not above 0"),
        (lambda body: body["rows"][0].update(map=float("nan")), "scores that are not finite"),
    ],
)
def test_a_table_that_is_none_is_refused(table, change, words):
    body = json.loads(table.read_text())
    change(body)
    table.write_text(json.dumps(body))
    with pytest.raises(TableError, match=words):
        read_table(table)


def test_a_table_that_cannot_be_read(tmp_path):
    with pytest.raises(TableError, match="cannot read the table"):
        read_table(tmp_path / "no.json")
    (tmp_path / "t.txt").write_text("rank,id")
    with pytest.raises(TableError, match="cannot use the table"):
        read_table(tmp_path / "t.txt")


def test_failures_and_seeds_are_rows_of_their_own(table):
    read = read_table(table)
    rows = [*read.rows.values(), *(replace(row, seed=6) for row in list(read.rows.values())[:3])]
    both = Table(read.space, rows, read.about)
    assert both.seeds == (5, 6)
    assert len(Replay(both, 6).assignments) == 3
    assert Table.from_json(both.to_json()).rows == both.rows


def test_nothing_is_trained_beside_a_table(table, tmp_path):
    """Scores of trainings would stand among those of the table, which may be of another kind."""
    assert nas("search", "--replay", str(table), "--study", "r", "--trials", "4").exit_code == 0
    refused = nas("rank", "r", "--aa", "6")
    assert refused.exit_code == 1
    assert "replays a table: there is nothing to train" in refused.output
