"""Rungs as they are written, and what each of them trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nas.data.dataset import load, train_share, write_resolved
from nas.data.demo import demo_dataset
from nas.errors import OptionError
from nas.study.budget import Rung, read_rungs, variants_per_rung
from nas.training.recipe import Recipe

OWN = Recipe(epochs=8, imgsz=160, init="bank")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", (Rung(2, 160),)),
        ("0,2", (Rung(0, 160), Rung(2, 160))),
        ("4@96", (Rung(4, 96),)),
        ("2@96/0.25, 2@96, 4/.5", (Rung(2, 96, 0.25), Rung(2, 96), Rung(4, 160, 0.5))),
        ("8/0.5", (Rung(8, 160, 0.5),)),
        ("none", ()),
    ],
)
def test_what_is_written(text, expected):
    assert read_rungs(text, OWN) == expected


def test_what_is_left_out_is_the_studys_own_and_what_is_known_by_is_whole():
    (rung,) = read_rungs("2/0.5", OWN)
    assert (rung.fidelity, rung.words) == ("2@160/0.5", "2 epochs at 160 px with 50% of the training images")
    assert (Rung(0, 96).words, Rung(1, 96).words) == ("no training at 96 px", "1 epoch at 96 px")
    assert rung.recipe(OWN) == replace(OWN, epochs=2)
    assert Rung(4, 96).recipe(OWN) == replace(OWN, epochs=4, imgsz=96)


def test_an_image_side_that_the_study_has_is_not_held_against_a_rung():
    assert read_rungs("2", replace(OWN, imgsz=100)) == (Rung(2, 100),)


WINDOWS = replace(OWN, imgsz=224, windows_at=640)


def test_rungs_of_windows():
    assert read_rungs("2@128/640", OWN) == (Rung(2, 128, windows_at=640),)
    assert read_rungs("2@128/640/0.5", OWN) == (Rung(2, 128, 0.5, 640),)
    assert read_rungs("0, 2/0.5", WINDOWS) == (Rung(0, 224, 1.0, 640), Rung(2, 224, 0.5, 640))
    (shrunk,) = read_rungs("2@160", WINDOWS)  # images are scaled to it, as in any study
    assert shrunk == Rung(2, 160)
    assert (shrunk.recipe(WINDOWS).imgsz, shrunk.recipe(WINDOWS).windows_at) == (160, 0)
    (rung,) = read_rungs("4@128/640", WINDOWS)
    assert (rung.fidelity, rung.words) == ("4@128/640/1", "4 epochs on windows of 128 px at 640 px")
    assert (rung.recipe(OWN).imgsz, rung.recipe(OWN).windows_at) == (128, 640)
    assert Rung.of(WINDOWS) == Rung(8, 224, windows_at=640)


@pytest.mark.parametrize("text", ["2@224/160", "2@224/224", "2@100/640", "2@64/640/2", "2@64/640/0"])
def test_windows_that_cannot_be_cut(text):
    with pytest.raises(OptionError):
        read_rungs(text, OWN)


@pytest.mark.parametrize(
    ("text", "init", "said"),
    [
        ("two", "bank", "cannot read the rung 'two': expected EPOCHS"),
        ("2,,4", "bank", "cannot read the rung ''"),
        ("2@", "bank", "cannot read the rung '2@'"),
        ("-1", "bank", "cannot read the rung '-1'"),
        ("2/1.2.3", "bank", r"cannot read the rung '2/1.2.3'"),
        ("2@100", "bank", "multiple of 32"),
        ("2@0", "bank", "multiple of 32"),
        ("2/0", "bank", "above 0, and at most 1"),
        ("2/1.5", "bank", "above 0, and at most 1"),
        ("0,2", "scratch", "'0' only validates inherited weights; with --init scratch there are none"),
        ("4,2", "bank", "4@160/1 trains as much as the next, 2@160/1, or more"),
        ("2,2", "bank", "as much as the next"),
        ("2,8", "bank", "8@160/1 trains as much as the study's own recipe, 8@160/1, or more"),
        ("4@320", "bank", "as much as the study's own recipe"),
        ("0,0@96", "bank", "as much as the next"),
    ],
)
def test_what_cannot_be_used_is_refused(text, init, said):
    with pytest.raises(OptionError, match=said):
        read_rungs(text, replace(OWN, init=init))


def test_how_many_each_rung_gets():
    rungs = read_rungs("1,2", OWN)
    assert variants_per_rung(27, rungs, 3) == [27, 9, 3]
    assert variants_per_rung(10, rungs, 3) == [10, 4, 2]
    assert variants_per_rung(1, rungs, 4) == [1, 1, 1]
    assert variants_per_rung(0, rungs, 3) == [0, 0, 0]


def test_a_share_is_a_part_of_a_larger_one_and_does_not_depend_on_where_or_in_which_order_files_are():
    whole = load(demo_dataset())
    quarter, half = train_share(whole, 0.25), train_share(whole, 0.5)
    assert (len(quarter), len(half)) == (len(whole.train) // 4, len(whole.train) // 2)
    assert set(quarter) < set(half) < set(whole.train)
    assert list(half) == [image for image in whole.train if image in set(half)]
    assert train_share(whole, 1.0) == whole.train
    assert len(train_share(whole, 1e-6)) == 1
    # Not the first ones: neighbours in a folder are often frames of one video.
    assert set(quarter) != set(whole.train[: len(quarter)])
    moved = replace(
        whole,
        root=Path("/elsewhere"),
        train=tuple(Path("/elsewhere") / image.relative_to(whole.root) for image in reversed(whole.train)),
    )
    there = {image.relative_to("/elsewhere") for image in train_share(moved, 0.25)}
    assert there == {image.relative_to(whole.root) for image in quarter}


def test_a_share_is_written_for_the_host_with_every_validation_image(tmp_path):
    whole = load(demo_dataset())
    file = write_resolved(whole, tmp_path / "share", 0.25)
    written = yaml.safe_load(file.read_text())
    assert Path(written["train"]).read_text().split() == [str(image) for image in train_share(whole, 0.25)]
    assert written["val"] == yaml.safe_load(write_resolved(whole, tmp_path / "whole").read_text())["val"]
    again = load(file)
    assert (len(again.train), again.val) == (len(whole.train) // 4, whole.val)
