"""Datasets that cannot be trained on because of their labels."""

from __future__ import annotations

import pytest
from made_data import BOX, complaint, make, text


@pytest.mark.parametrize(
    ("row", "fragment"),
    [
        ("0 0.5 0.5 0.2", "4 values, where `class x y width height`"),
        ("0 0.5 0.5 0.2 0.2 0.9", "6 values, where `class x y width height`"),
        ("0 .1 .1 .2 .1 .2 .2 .3", "8 values, where `class x y width height`"),
        ("cat 0.5 0.5 0.2 0.2", "'cat 0.5 0.5 0.2 0.2' holds something that is not a number"),
        ("0, 0.5, 0.5, 0.2, 0.2", "'0, 0.5, 0.5, 0.2, 0.2' holds something that is not a number"),
        ("1.5 0.5 0.5 0.2 0.2", "class 1.5 is not a whole number"),
        ("nan 0.5 0.5 0.2 0.2", "class nan is not a whole number"),
        ("7 0.5 0.5 0.2 0.2", "class 7, but data.yaml names 3 classes (0 to 2)"),
        ("3 0.5 0.5 0.2 0.2", "class 3, but data.yaml names 3 classes (0 to 2)"),
        ("-1 0.5 0.5 0.2 0.2", "class -1, but data.yaml names 3 classes (0 to 2)"),
        ("0 1.2 0.5 0.2 0.2", "1.2 is not within 0 to 1: positions and sizes are fractions of the image's"),
        ("0 0.5 -0.3 0.2 0.2", "-0.3 is not within 0 to 1"),
        ("0 120 80 40 40", "120 is not within 0 to 1"),
        ("0 0.5 nan 0.2 0.2", "nan is not within 0 to 1"),
        ("0 0.1 0.1 0.2 0.1 0.2 inf", "inf is not within 0 to 1"),
        ("0 0.5 0.5 0 0.2", "width 0 and height 0.2 must both be more than 0"),
        ("0 0.5 0.5 0.2 -0.005", "width 0.2 and height -0.005 must both be more than 0"),
        ("0 0.1 0.1 0.1 0.5 0.1 0.9", "the outline has no width or no height"),
    ],
)
def test_wrong_rows(tmp_path, row, fragment):
    file = make(tmp_path)
    good = "0 0.1 0.1 0.2 0.1 0.2 0.2" if len(row.split()) > 6 else BOX
    text(tmp_path / "labels/train/a.txt", f"{good}\n\n{row}\n{good}\n")
    assert complaint(file).startswith(f"{file}: 1 problem\n  labels/train/a.txt, line 3: {fragment}")


def test_boxes_and_outlines_in_one_file(tmp_path):
    file = make(tmp_path)
    text(tmp_path / "labels/train/a.txt", f"{BOX}\n0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    assert "labels/train/a.txt, line 1: a box, but line 2 is an outline" in complaint(file)


def test_one_class(tmp_path):
    assert "line 2: class 2, but data.yaml names 1 class (0)" in complaint(make(tmp_path, names=["cat"]))


def test_unreadable_labels(tmp_path):
    file = make(tmp_path)
    (tmp_path / "labels/train/a.txt").write_bytes(b"\xff\xfe0\x00")
    (tmp_path / "labels/val/c.txt").unlink()
    (tmp_path / "labels/val/c.txt").mkdir()
    message = complaint(file)
    assert "labels/train/a.txt: is not text in UTF-8" in message
    assert "labels/val/c.txt: cannot be read: " in message
    assert "2 problems" in message


def test_no_label_files(tmp_path):
    file = make(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "annotations")
    message = complaint(file)
    first = tmp_path.resolve() / "labels/train/a.txt"
    assert f"train: none of 2 images has a label file: looked for {first}, and so on" in message
    assert "val: none of 1 images has a label file" in message


def test_no_boxes(tmp_path):
    file = make(tmp_path)
    text(tmp_path / "labels/val/c.txt", "\n")
    assert "1 problem\n  val: not one box in the label files of 1 images" in complaint(file)
    for stem in "ab":
        text(tmp_path / f"labels/train/{stem}.txt", "")
    assert "train: not one box in the label files of 2 images" in complaint(file)
