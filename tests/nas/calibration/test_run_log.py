"""The file of finished runs: what a run is known by, and what survives a kill."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from nas.calibration.run_log import Finished, Run, RunFile
from nas.errors import CalibrationError, OutputError
from nas.space.variant import Variant, make_variant
from nas.training.jobs import ProxyResult
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation, scores

RECIPE = Recipe(epochs=2, init="bank")
BASELINE = Variant("yolov8", "n")
RUN = Run("bank-2", RECIPE, make_variant("yolov8", "n", {"neck.up_p4": "CARAFE"}), 0)
CURVE = (EpochScore(1, 3.0, 1.5), EpochScore(2, 2.0, 1.25, Validation(0.5, 0.25, 1.75)))
RESULT = ProxyResult(CURVE, Validation(0.75, 0.5, 1.5), (350, 355), 7.5, 3.0)


def key(run: Run = RUN, fingerprint: str = "f", versions=(("a", "1"),), yaml: str = "y", inherits: str = "b") -> str:
    return run.key(fingerprint, versions, yaml, inherits)


@pytest.fixture
def file(tmp_path) -> RunFile:
    return RunFile(tmp_path / "deep" / "runs.jsonl")


def test_nothing_is_there_at_first(file):
    assert file.read() == {}


def test_what_was_finished_is_found_again(file):
    file.append(RUN, Finished("k1", RESULT))
    file.append(RUN, Finished("k2", None, "nan: it diverged"))
    file.append(replace(RUN, variant=BASELINE, controls=("neck.up_p4",)), Finished("k3", replace(RESULT, average=None)))
    found = file.read()
    assert list(found) == ["k1", "k2", "k3"]
    assert found["k1"] == Finished("k1", RESULT)
    assert found["k2"] == Finished("k2", None, "nan: it diverged")
    assert found["k2"].scores == {}
    assert found["k3"].result.average is None
    text = file.path.read_text()
    assert "neck.up_p4=CARAFE" in text
    assert "control neck.up_p4" in text


def test_numbers_keep_seven_digits(file):
    odd = replace(RESULT, cpu_seconds=math.pi * 1e5, average=Validation(1 / 3, 1 / 7, 1e-9 / 3))
    file.append(RUN, Finished("k", odd))
    kept = file.read()["k"].result
    assert kept.cpu_seconds == 314159.3
    assert kept.average.map == pytest.approx(1 / 7, rel=1e-6)
    assert kept.average.loss == pytest.approx(1e-9 / 3, rel=1e-6)


def test_scores_of_a_run():
    two = (EpochScore(1, 3.0, 1.5, Validation(0.3, 0.15, 2.25)), *CURVE[1:])
    assert scores(two, RESULT.average) == {
        "map": 0.25,
        "map_last": 0.2,
        "val_loss": -1.75,
        "train_loss": -2.5,
        "map_average": 0.5,
    }
    assert Finished("k", replace(RESULT, average=None)).scores == {
        "map": 0.25,
        "map_last": 0.25,
        "val_loss": -1.75,
        "train_loss": -2.5,
    }


@pytest.mark.parametrize(
    "other",
    [
        replace(RUN, seed=1),
        replace(RUN, recipe=replace(RECIPE, epochs=3)),
        replace(RUN, recipe=replace(RECIPE, bank_epochs=3)),
        replace(RUN, recipe=replace(RECIPE, start="fresh")),
        replace(RUN, recipe=replace(RECIPE, init="baseline")),
        replace(RUN, controls=("neck.up_p4",)),
    ],
)
def test_what_decides_a_result_is_in_its_key(other):
    assert key(other) != key()


def test_so_is_what_it_stands_on():
    assert len({key(), key(fingerprint="g"), key(versions=(("a", "2"),)), key(yaml="z"), key(inherits="c")}) == 5


def test_a_name_or_an_unused_setting_is_not():
    assert key(replace(RUN, proxy="other")) == key()
    scratch = replace(RUN, recipe=replace(RECIPE, init="scratch"))
    for unused in ({"bank_epochs": 3}, {"base_epochs": 3}, {"start": "fresh"}, {"base_lr0": 0.1}):
        assert key(replace(scratch, recipe=replace(scratch.recipe, **unused))) == key(scratch)


def test_a_torn_last_line_is_dropped(file):
    file.append(RUN, Finished("k1", RESULT))
    whole = file.path.read_bytes()
    file.append(RUN, Finished("k2", RESULT))
    file.path.write_bytes(file.path.read_bytes()[:-20])
    assert list(file.read()) == ["k1"]
    file.append(RUN, Finished("k3", RESULT))
    assert list(file.read()) == ["k1", "k3"]
    assert file.path.read_bytes().startswith(whole)
    assert len(file.path.read_bytes().splitlines()) == 2


def test_a_line_without_its_end_counts_as_torn(file):
    """For reading as for writing: what the next line will overwrite must not be taken for finished."""
    file.append(RUN, Finished("k1", RESULT))
    file.path.write_bytes(file.path.read_bytes().rstrip())
    assert file.read() == {}
    file.append(RUN, Finished("k2", RESULT))
    assert list(file.read()) == ["k2"]


@pytest.mark.parametrize("line", ["something else", "[1]", '{"key": "k"}', '{"key": "k", "result": 3}', ""])
def test_what_is_no_run_is_named(file, line):
    file.append(RUN, Finished("k1", RESULT))
    file.path.write_text(f"{line}\n" + file.path.read_text())
    with pytest.raises(CalibrationError, match=r"runs.jsonl:1 is not a finished run"):
        file.read()


def test_what_is_no_text_is_named(file):
    file.path.parent.mkdir()
    file.path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match=r"cannot read .*runs.jsonl"):
        file.read()


def test_what_cannot_be_written_is_named(file):
    file.path.parent.write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write .*runs.jsonl"):
        file.append(RUN, Finished("k", RESULT))
