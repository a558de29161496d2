"""What a person reads, in the cases that are easily forgotten."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from nas.calibration.run_log import Finished, Run
from nas.ranking.rank import rank_trials
from nas.report import console
from nas.space.space_file import load_space
from nas.study.study import Study
from nas.training.jobs import ProxyResult
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation, signed

SWAP = {"neck.up_*": "CARAFE"}
OTHER = {"neck.c2f_*": "C2f_SPConv"}


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits(ranked_study, width):
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.41, 8.0), (OTHER, "done", 0.3, 7.0)])
    text = io.StringIO()
    Console(file=text, width=width).print(console.ranking_table(rank_trials(study.trials(), 0.02), width))
    lines = text.getvalue().splitlines()
    assert len(lines) == 4 if width == 140 else len(lines) <= 6
    assert "neck.up_*=CARAFE" in text.getvalue()
    assert "(below the floor)" in text.getvalue()
    assert ("params" in lines[0]) == (width == 140)
    assert all(t.variant.id in text.getvalue() for t in study.trials())


def test_a_table_of_swaps_from_a_bank(ranked_study):
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.41, 8.0)])
    base, swapped = rank_trials(study.trials(), 0.02)[::-1]
    rows = [replace(swapped, trial=replace(swapped.trial, distillation=0.125)), base]

    def lines(rows, width):
        text = io.StringIO()
        Console(file=text, width=width).print(console.ranking_table(rows, width))
        return text.getvalue().splitlines()

    head, first, second = lines(rows, 140)
    assert "distil" in head
    assert "0.12" in first.split()
    assert len(second.split()) < len(first.split())
    assert "distil" not in lines(rows, 80)[0]  # the first to go where it is narrow
    assert "distil" not in lines(rank_trials(study.trials(), 0.02), 140)[0]  # nothing was distilled


def test_progress_on_a_terminal(ranked_study):
    study = ranked_study([({}, "done", 0.4, 8.0)])
    text = io.StringIO()
    with console.Progress(Console(file=text, force_terminal=True, width=120), study) as progress:
        progress.baseline_training(Recipe(), 0)
        progress.distilling(13)
        progress.steps(1, 40)
        progress._live.refresh()
        progress.trial_started(study.trials()[0], 2, 9)
        progress.epoch(EpochScore(1, 0.5, 1.0, Validation(0.5, 0.3, 1.0)), 8)
        assert progress._best() == "best so far: baseline, 0.0500 mAP50-95 per GFLOP"
    assert "13 swaps learn from the baseline" in text.getvalue()
    assert "step 1/40" in text.getvalue()
    assert "[2/9] baseline" in text.getvalue()
    assert "epoch 1/8  mAP50-95 0.300" in text.getvalue()


def plain_progress(study: Study) -> tuple[console.Progress, io.StringIO]:
    text = io.StringIO()
    return console.Progress(Console(file=text, width=200), study), text


def test_progress_in_a_file(ranked_study):
    study = ranked_study([({}, "done", 0.4, 8.0)])
    progress, text = plain_progress(study)
    with progress:
        progress.distilling(13)
        for step in range(1, 101):
            progress.steps(step, 100)
        progress.trial_started(study.trials()[0], 1, 9)
        for epoch in range(1, 5):
            seen = Validation(0.5, 0.3, 1.0) if epoch > 2 else None
            progress.epoch(EpochScore(epoch, 3.14159, 1.0, seen), 4)
    said = text.getvalue().splitlines()
    assert [line.split("step ")[1].split()[0] for line in said if "step" in line] == [
        "1/100", "25/100", "50/100", "75/100", "100/100",
    ]  # fmt: skip
    # What is not validated has only a loss.
    assert [line.split("  ")[2:4] for line in said if "epoch" in line] == [
        ["epoch 1/4", "loss 3.14"], ["epoch 2/4", "loss 3.14"],
        ["epoch 3/4", "mAP50-95 0.300"], ["epoch 4/4", "mAP50-95 0.300"],
    ]  # fmt: skip


@pytest.mark.parametrize("epochs", [0, 1])
def test_weights_that_are_only_validated_have_no_epochs_to_tell_of(ranked_study, epochs):
    study = ranked_study([({}, "done", 0.4, 8.0)])
    progress, text = plain_progress(study)
    with progress:
        progress.trial_started(study.trials()[0], 1, 9)
        progress.epoch(EpochScore(0, 2.0, 1.0, Validation(0.5, 0.3, 1.0)), epochs)
    assert text.getvalue().splitlines() == ["[1/9] baseline (8.00 GFLOPs)"]


def test_what_is_left_of_a_distillation_is_estimated_without_its_preparations(ranked_study, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    progress, text = plain_progress(ranked_study([({}, "done", 0.4, 8.0)]))
    for first in (1, 41):  # one that begins, and one that goes on
        progress.distilling(13)
        clock[0] += 60
        for step in range(first, 101):
            progress.steps(step, 100)
            clock[0] += 2
    lines = [line.rpartition("step ")[2] for line in text.getvalue().splitlines() if "step" in line]
    assert lines[:3] == ["1/100", "25/100  2 min 30 s left", "50/100  1 min 40 s left"]
    assert lines[5:] == ["50/100  1 min 40 s left", "75/100  50 s left", "100/100  0 s left"]


def test_a_difference_that_rounds_to_nothing_has_no_sign(ranked_study):
    assert [signed(x, 4) for x in (0.00004, -0.00004, 0.0, -0.0, 0.00006, -0.00006, 1.0)] == [
        "0.0000", "0.0000", "0.0000", "0.0000", "+0.0001", "-0.0001", "+1.0000",
    ]  # fmt: skip
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.3999, 8.0)])
    text = io.StringIO()
    Console(file=text, width=200).print(console.ranking_table(rank_trials(study.trials(), 0.02), 200))
    swapped = next(line for line in text.getvalue().splitlines() if "CARAFE" in line)
    assert "-0.000" not in swapped
    assert "+0.0" not in swapped


def test_progress_of_a_calibration(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    text = io.StringIO()
    progress = console.CalibrationProgress(Console(file=text, width=200))
    run = Run("bank-4", Recipe(), load_space("quick").variant(SWAP), 2)
    progress.steps(1, 100)
    curve = (EpochScore(1, 2.0, 0.1, Validation(0.5, 0.3, 1.0)),)
    done = Finished("0" * 16, ProxyResult(curve, None, (1, 1), 1.0))
    for position, left in ((1, 50.0), (2, 48.0), (3, 46.0)):  # 4 epochs in 40 s
        progress.run_ended(run, done, position, 9, left)
        clock[0] += 20
    progress.run_ended(replace(run, again=("neck.up_p4",)), Finished("0" * 16, None, "nan: no number"), 4, 9, 44.0)
    progress.run_ended(run, done, 9, 9, 0.0)
    assert text.getvalue().splitlines() == [
        "[1/9] bank-4, seed 2: neck.{up_p3,up_p4}=CARAFE: mAP50-95 0.300",
        "[2/9] bank-4, seed 2: neck.{up_p3,up_p4}=CARAFE: mAP50-95 0.300",
        "[3/9] bank-4, seed 2: neck.{up_p3,up_p4}=CARAFE: mAP50-95 0.300  about 7 min 40 s left",
        "[4/9] bank-4, seed 2: again neck.up_p4: failed: nan: no number  about 7 min 20 s left",
        "[9/9] bank-4, seed 2: neck.{up_p3,up_p4}=CARAFE: mAP50-95 0.300",
    ]
