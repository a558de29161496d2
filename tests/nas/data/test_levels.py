"""Where boxes fall: labels as Ultralytics reads them, sizes at a scale, and windows."""

from __future__ import annotations

import numpy as np
import pytest
from made_data import make, text
from PIL import Image

from nas.data.dataset import load
from nas.data.levels import Labelled, Shares, read_labels, shares_of, whole_shares, window_shares


def labelled(shape, *rows) -> Labelled:
    return Labelled(shape, np.array(rows, dtype=np.float64).reshape(-1, 4))


def test_labels_of_both_splits(tmp_path):
    file = make(tmp_path)
    Image.new("RGB", (80, 40)).save(tmp_path / "images/train/a.png")
    text(tmp_path / "labels/train/a.txt", "0 0.5 0.5 0.25 0.5\n0 0.5 0.5 0.25 0.5\n")  # Ultralytics drops the second
    text(tmp_path / "labels/train/b.txt", "1 0.1 0.2 0.5 0.2 0.5 0.9 0.1 0.9\n")
    (tmp_path / "labels/val/c.txt").unlink()
    Image.new("RGB", (30, 20)).save(tmp_path / "images/val/d.png")
    text(tmp_path / "labels/val/d.txt", "0 0.5 0.5 1 1\n")
    train, val = read_labels(load(file))
    assert train[0].shape == (40, 80)
    assert train[0].boxes.tolist() == [[0.375, 0.25, 0.625, 0.75]]
    assert train[1].boxes.tolist() == [[0.1, 0.2, 0.5, 0.9]]  # an outline
    assert val[0].boxes.shape == (0, 4)
    assert val[1].shape == (20, 30)


def test_an_image_that_its_exif_turns(tmp_path):
    file = make(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (80, 40)).save(tmp_path / "images/train/a.png", exif=exif)
    assert read_labels(load(file))[0][0].shape == (80, 40)


def test_a_large_dataset_is_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.data.levels.MOST_IMAGES", 1)
    assert [len(split) for split in read_labels(load(make(tmp_path)))] == [1, 1]


def test_a_level_begins_at_its_bound():
    assert shares_of(np.array([31.9, 32, 95.9, 96, 500.0])).of == (0.2, 0.4, 0.4)
    assert shares_of(np.zeros(0)).of == (0, 0, 0)


def test_the_long_side_is_scaled():
    image = labelled((400, 800), (0, 0, 0.1, 0.2))  # 80 x 80 px
    assert whole_shares([image], 800).of == (0, 1, 0)
    assert whole_shares([image], 1600).of == (0, 0, 1)
    assert whole_shares([image], 200).of == (1, 0, 0)


def test_windows_keep_sizes_and_lose_what_is_larger():
    small, large = labelled((400, 400), (0.4, 0.4, 0.5, 0.5)), labelled((400, 400), (0, 0, 0.9, 0.9))
    assert window_shares([small], 128, 400).of == (0, 1, 0)
    assert whole_shares([small], 128).of == (1, 0, 0)
    found = window_shares([small, large], 128, 400)
    assert found.of == (0, 0.5, 0)
    assert found.words == "P3 0%, P4 50%, P5 0%, 50% too large to be seen"
    assert found.distance(whole_shares([small, large], 400)) == pytest.approx(0.5)
    assert window_shares([labelled((400, 400))], 128, 400).boxes == 0


def test_distance_and_idle_levels():
    target, proxy = Shares((0.01, 0.31, 0.68), 100), Shares((0.92, 0.08, 0.0), 100)
    assert proxy.distance(target) == pytest.approx(0.91)
    assert proxy.idle_for(target) == ["P5"]
    assert target.idle_for(proxy) == []  # 1 % is little, but not nothing
    assert Shares((0.0, 0.0, 1.0), 1).idle_for(target) == ["P4"]  # the target itself hardly uses P3
