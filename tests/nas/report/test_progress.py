"""The progress of a search and of a calibration, on a terminal and in a file."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from nas.calibration.run_log import Finished, Run
from nas.report import progress as progress_file
from nas.report.progress import CalibrationProgress, Progress
from nas.space.space_file import load_space
from nas.study.study import Study
from nas.training.jobs import ProxyResult
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation

SWAP = {"neck.up_*": "CARAFE"}


def test_progress_on_a_terminal(ranked_study):
    study = ranked_study([({}, "done", 0.4, 8.0)])
    text = io.StringIO()
    with Progress(Console(file=text, force_terminal=True, width=120), study) as progress:
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


def plain_progress(study: Study) -> tuple[Progress, io.StringIO]:
    text = io.StringIO()
    return Progress(Console(file=text, width=200), study), text


@pytest.fixture
def clock(monkeypatch):
    """Return a list with the seconds that progress sees."""
    seconds = [0.0]
    monkeypatch.setattr(progress_file.time, "monotonic", lambda: seconds[0])
    return seconds


def test_progress_in_a_file(ranked_study, clock):
    """A line for each long stage, and one a minute from whatever takes longer."""
    study = ranked_study([({}, "done", 0.4, 8.0)])
    progress, text = plain_progress(study)
    with progress:
        progress.distilling(13)
        for step in range(1, 101):
            progress.steps(step, 100)
            clock[0] += 1
        second = progress.for_worker(1)
        second.trial_started(study.trials()[0], 1, 9)
        for epoch in range(1, 5):
            clock[0] += 40
            seen = Validation(0.5, 0.3, 1.0) if epoch > 2 else None
            second.epoch(EpochScore(epoch, 3.14159, 1.0, seen), 4)
        second.trial_ended(study.trials()[0])
    assert text.getvalue().splitlines() == [
        "distilling the bank: 13 swaps learn from the baseline at once; it is stored",
        "  distilling the bank: 13 swaps learn from the baseline at once; it is stored  step 62/100  38 s left",
        "  worker 2: [1/9] baseline (8.00 GFLOPs)  epoch 2/4  loss 3.14  1 min 20 s left",
        "  worker 2: [1/9] baseline (8.00 GFLOPs)  epoch 4/4  mAP50-95 0.300  0 s left",
        "trial 0: baseline: mAP50-95 0.400, 0.0500 per GFLOP, 0 s",
    ]


def test_weights_that_are_only_validated_have_no_epochs_to_tell_of(ranked_study, clock):
    study = ranked_study([({}, "done", 0.4, 8.0)])
    progress, text = plain_progress(study)
    with progress:
        progress.trial_started(study.trials()[0], 1, 9)
        clock[0] += 100
        progress.epoch(EpochScore(0, 2.0, 1.0, Validation(0.5, 0.3, 1.0)), 1)
    assert text.getvalue() == ""


def test_what_is_left_of_a_distillation_is_estimated_without_its_preparations(ranked_study, clock):
    progress, text = plain_progress(ranked_study([({}, "done", 0.4, 8.0)]))
    for first in (1, 41):  # one that begins, and one that is resumed
        progress.distilling(13)
        clock[0] += 60
        for step in range(first, 101):
            progress.steps(step, 100)
            clock[0] += 2
    lines = [line.rpartition("step ")[2] for line in text.getvalue().splitlines() if "step" in line]
    assert lines == [
        "2/100  3 min 16 s left", "33/100  2 min 14 s left", "64/100  1 min 12 s left", "95/100  10 s left",
        "42/100  1 min 56 s left", "73/100  54 s left",
    ]  # fmt: skip


def test_progress_of_a_calibration(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress_file.time, "monotonic", lambda: clock[0])
    text = io.StringIO()
    progress = CalibrationProgress(Console(file=text, width=200))
    run = Run("bank-4", Recipe(), load_space("quick").variant(SWAP), 2)
    progress.steps(1, 100)
    curve = (EpochScore(1, 2.0, 0.1, Validation(0.5, 0.3, 1.0)),)
    done = Finished("0" * 16, ProxyResult(curve, None, (1, 1), 1.0))
    for position, left in ((1, 50.0), (2, 48.0), (3, 46.0)):  # 4 epochs in 40 s
        progress.run_ended(run, done, position, 9, left)
        clock[0] += 20
    progress.run_ended(replace(run, controls=("neck.up_p4",)), Finished("0" * 16, None, "nan: no number"), 4, 9, 44.0)
    progress.run_ended(run, done, 9, 9, 0.0)
    assert text.getvalue().splitlines() == [
        "[1/9] bank-4, seed 2: neck.{up_p3,up_p4}=CARAFE: mAP50-95 0.300",
        "[2/9] bank-4, seed 2: neck.{up_p3,up_p4}=CARAFE: mAP50-95 0.300",
        "[3/9] bank-4, seed 2: neck.{up_p3,up_p4}=CARAFE: mAP50-95 0.300  about 7 min 40 s left",
        "[4/9] bank-4, seed 2: control neck.up_p4: failed: nan: no number  about 7 min 20 s left",
        "[9/9] bank-4, seed 2: neck.{up_p3,up_p4}=CARAFE: mAP50-95 0.300",
    ]
