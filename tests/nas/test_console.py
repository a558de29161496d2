"""What a person reads, in the cases that are easily forgotten."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nas import console
from nas.proxy import EpochScore, Recipe
from nas.rank import rank
from nas.space_file import load_space
from nas.storage import place
from nas.study import Settings, Study, current_versions
from nas.trial import Trial


def make_study(folder, scores: list[tuple[dict[str, str], str, float, float]]) -> Study:
    settings = Settings(load_space("quick"), Recipe(), "", "f" * 16, ("a",), (4, 2), 0, 0.02, current_versions())
    study = Study.create(place("s", f"sqlite:///{folder / 's.db'}"), settings, 9)
    for changed, status, score, gflops in scores:
        assignment = {**settings.space.baseline(), **changed}
        trial = Trial(-1, settings.space.variant(assignment), assignment, "running", gflops=gflops, stock_gflops=gflops)
        curve = (EpochScore(1, score + 0.2, score, 1.0, 1.0, 1.0),)
        study.start(trial).end(
            status=status, curve=curve if status == "done" else (), failure="why" if score == 0 else ""
        )
    return study


SWAP = {"neck.up_*": "CARAFE"}
OTHER = {"neck.c2f_*": "C2f_SPConv"}


def test_conclusion_of_a_gain(tmp_path):
    study = make_study(tmp_path, [({}, "done", 0.4, 8.0), (SWAP, "done", 0.41, 8.0), (OTHER, "done", 0.3, 7.0)])
    told, following, _ = console.conclusion(study)
    assert told == (
        "Compared 3 variants of yolov8n. First: neck.up_*=CARAFE, with +2.5% mAP50-95 per GFLOP over the baseline"
        " (+0.010 mAP50-95, +0.0 % GFLOPs)."
    )
    assert following.endswith(f"nas emit-yaml --study s --storage {study.place.url} --best -o out/")


def test_conclusion_without_a_gain_or_a_start(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    study = make_study(tmp_path / "a", [({}, "done", 0.4, 8.0), (SWAP, "done", 0.4, 8.5)])
    assert "No swap beats the baseline" in console.conclusion(study)[0]
    (tmp_path / "d").mkdir()
    study = make_study(tmp_path / "d", [({}, "done", 0.4, 8.0)])
    assert console.conclusion(study)[0] == "Only the baseline has finished yet."
    study = make_study(tmp_path / "b", [({}, "done", 0.001, 8.0), (SWAP, "done", 0.4, 8.5)])
    assert "The baseline has hardly learnt anything" in console.conclusion(study)[0]
    study = make_study(tmp_path / "c", [({}, "failed", 0, 8.0), (SWAP, "done", 0.4, 8.5)])
    assert console.conclusion(study) == [
        "The baseline has not finished: there is nothing to compare these variants with yet."
    ]


def test_what_went_wrong_is_said(tmp_path):
    study = make_study(tmp_path, [({}, "done", 0.4, 8.0), (SWAP, "failed", 0, 8.0), (OTHER, "rejected", 0, 9.0)])
    notes = "\n".join(console.ranking_notes(study))
    assert "failed: " in notes
    assert "(neck.up_*=CARAFE) why" in notes
    assert "over a limit: " in notes
    assert "One seed a variant" in notes


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits(tmp_path, width):
    study = make_study(tmp_path, [({}, "done", 0.4, 8.0), (SWAP, "done", 0.41, 8.0), (OTHER, "done", 0.3, 7.0)])
    text = io.StringIO()
    Console(file=text, width=width).print(console.ranking_table(rank(study.trials(), 0.02), width))
    lines = text.getvalue().splitlines()
    assert len(lines) == 4 if width == 140 else len(lines) <= 6
    assert "neck.up_*=CARAFE" in text.getvalue()
    assert "(below the floor)" in text.getvalue()
    assert ("params" in lines[0]) == (width == 140)
    assert all(t.variant.id in text.getvalue() for t in study.trials())


def test_progress_on_a_terminal(tmp_path):
    study = make_study(tmp_path, [({}, "done", 0.4, 8.0)])
    text = io.StringIO()
    with console.Progress(Console(file=text, force_terminal=True, width=120), study) as progress:
        progress.baseline_training(Recipe())
        progress.trial_started(study.trials()[0], 2, 9)
        progress.epoch(EpochScore(1, 0.5, 0.3, 1.0, 1.0, 1.0), 8)
        assert progress._best() == "best so far: baseline, 0.0500 mAP50-95 per GFLOP"
    assert "[2/9] baseline" in text.getvalue()
    assert "epoch 1/8  mAP50-95 0.300" in text.getvalue()
