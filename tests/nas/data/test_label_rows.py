"""Rows of labels of each task, valid and not; and datasets that are of another task."""

from __future__ import annotations

import pytest
from made_data import BOX, make, text

from nas.data.dataset import Dataset, load
from nas.data.label_rows import RowRule, wrong_row
from nas.errors import DataError

OUTLINE = "0 .1 .1 .2 .1 .2 .2"
CORNERS = "0 .1 .1 .3 .1 .3 .2 .1 .2"
POINTS = f"{BOX} .4 .4 2 .6 .6 0"
SHAPE = {"kpt_shape": [2, 3], "flip_idx": [1, 0], "kpt_oks_sigmas": [0.1, 0.05]}
GOOD = {"detect": BOX, "segment": OUTLINE, "pose": POINTS, "obb": CORNERS}


def labelled(root, row: str, **changes: object):
    """Return the data.yaml of a dataset with this row in every file."""
    file = make(root, **changes)
    for split, stem in (("train", "a"), ("train", "b"), ("val", "c")):
        text(root / f"labels/{split}/{stem}.txt", f"{row}\n")
    return file


def of_task(root, task: str) -> Dataset:
    return load(labelled(root, GOOD[task], **(SHAPE if task == "pose" else {})), task)


@pytest.mark.parametrize("task", GOOD)
def test_valid_rows_of_each_task(tmp_path, task):
    found = of_task(tmp_path, task)
    assert found.boxes == (2, 1)
    assert {k: v for k, v in found.resolved().items() if k in SHAPE} == (SHAPE if task == "pose" else {})


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("segment", BOX, "for instance segmentation each row has a class and 3 or more points"),
        ("obb", BOX, "for oriented boxes each row has a class and 4 corners"),
        ("obb", "0 .1 .1 .3 .1 .3 .2", "for oriented boxes each row has a class and 4 corners"),
        (
            "pose",
            BOX,
            "for pose estimation each row has `class x y width height` and x, y and visibility of 2 key points",
        ),
    ],
)
def test_labels_of_another_task_are_one_problem(tmp_path, task, row, message):
    shape = {"kpt_shape": [2, 3]} if task == "pose" else {}
    with pytest.raises(DataError) as caught:
        load(labelled(tmp_path, row, **shape), task)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("data.yaml: 1 problem")
    assert len(lines) == 2
    assert message in lines[1]


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("segment", "0 .1 .1 .2 .1", "a box, where a class and 3 or more points"),
        ("segment", "0 .1 .1 .2 .1 .2 .2 .3", "8 values, where a class and 3 or more points"),
        ("segment", "0 .1 .1 .2 .1 .3 .1", "the outline has no width or no height"),
        ("segment", "0 .1 .1 .2 .1 1.3 .2", "1.3 is not within 0 to 1"),
        ("pose", f"{BOX} .4 .4 2", "8 values, where `class x y width height` and x, y and visibility of 2 key points"),
        ("pose", f"{BOX} .4 .4 2 .6 .6 3", "3 is no visibility of a key point: 0 not labelled, 1 hidden, 2 visible"),
        ("pose", f"{BOX} .4 1.4 2 .6 .6 0", "1.4 is not within 0 to 1"),
        ("pose", "0 .5 .5 0 .2 .4 .4 2 .6 .6 0", "width 0 and height .2 must both be more than 0"),
        ("obb", f"{CORNERS} .5 .5", "11 values, where a class and 4 corners"),
        ("obb", "9 .1 .1 .3 .1 .3 .2 .1 .2", "class 9, but data.yaml names 3 classes"),
    ],
)
def test_a_wrong_row_names_file_and_line(tmp_path, task, row, message):
    of_task(tmp_path, task)
    text(tmp_path / "labels/train/a.txt", f"{GOOD[task]}\n{GOOD[task]}\n{row}\n")
    with pytest.raises(DataError) as caught:
        load(tmp_path, task)
    assert f"labels/train/a.txt, line 3: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "kpt_shape is missing: give [points, 2]"),
        ({"kpt_shape": [2]}, "kpt_shape is [2]: give [points, 2]"),
        ({"kpt_shape": [2, 4]}, "kpt_shape is [2, 4]: give"),
        ({"kpt_shape": [2, 3], "flip_idx": [0, 0]}, "flip_idx is [0, 0]: give each of the 2 points"),
        ({"kpt_shape": [2, 3], "flip_idx": ["1", "0"]}, "give each of the 2 points"),
        ({"kpt_shape": [2, 3], "kpt_oks_sigmas": [0.1]}, "kpt_oks_sigmas is [0.1]: give 2 numbers above 0"),
        ({"kpt_shape": [2, 3], "kpt_oks_sigmas": [0.1, 0]}, "kpt_oks_sigmas is [0.1, 0]: give 2 numbers above 0"),
    ],
)
def test_key_points_that_are_described_wrongly(tmp_path, changes, message):
    with pytest.raises(DataError) as caught:
        load(labelled(tmp_path, POINTS, **changes), "pose")
    assert message in str(caught.value)
    assert "1 problem" in str(caught.value)


@pytest.mark.parametrize("row", [OUTLINE, POINTS])
def test_a_pose_dataset_is_none_of_outlines(tmp_path, row):
    file = labelled(tmp_path, row, kpt_shape=[2, 3])
    with pytest.raises(DataError, match="kpt_shape makes it a pose dataset: give one") as caught:
        load(file, "segment")
    assert "1 problem" in str(caught.value)


def test_labels_that_kpt_shape_does_not_match_are_one_problem(tmp_path):
    with pytest.raises(DataError) as caught:
        load(labelled(tmp_path, POINTS, kpt_shape=[17, 3]), "pose")
    assert "1 problem\n" in str(caught.value)
    assert "data.yaml: kpt_shape does not match the labels: labels/train/" in str(caught.value)
    assert "line 1: 11 values, where `class x y width height` and x, y and visibility of 17 key points, 56" in str(
        caught.value
    )


def test_the_range_of_each_value_of_key_points():
    rule = RowRule(1, "data.yaml", "keypoints", (1, 2))
    assert wrong_row(f"{BOX} .4 .4".split(), 0, rule) == ("", "")
    assert wrong_row(f"{BOX} .4 2".split(), 0, rule)[0] == "range"
