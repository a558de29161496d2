"""Datasets of classification: their class folders, what is wrong with them, and parts of them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from nas.data import demo
from nas.data.dataset import load, write_resolved
from nas.data.levels import read_labels
from nas.errors import DataError


def picture(file, side: int = 16) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(file)


@pytest.fixture
def folder(tmp_path):
    """Return a dataset of two classes: three training images and one to validate on of each."""
    made = tmp_path / "pets"
    for name in ("cat", "dog"):
        for number in range(3):
            picture(made / "train" / name / f"{number}.png")
        picture(made / "val" / name / "9.png")
    return made


def read(folder):
    return load(folder, "classify")


def test_its_classes_and_images(folder):
    found = read(folder)
    assert found.names == ("cat", "dog")
    assert [len(found.train), len(found.val)] == [6, 2]
    assert found.is_folder
    assert read_labels(found) == ([], [])


def test_where_it_is_does_not_matter_and_its_images_do(folder, tmp_path):
    before = read(folder).fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert read(tmp_path / "copy").fingerprint == before
    picture(folder / "train" / "dog" / "more.png")
    assert read(folder).fingerprint != before


@pytest.mark.parametrize("name", ["validation", "valid", "test"])
def test_other_names_of_the_validation_images(folder, tmp_path, name):
    """Which older releases of the host do not all know: they get a folder with val."""
    (folder / "val").rename(folder / name)
    found = read(folder)
    assert len(found.val) == 2
    made = write_resolved(found, tmp_path / "made")
    assert sorted(path.relative_to(made).as_posix() for path in made.glob("val/*/*")) == [
        "val/cat/9.png",
        "val/dog/9.png",
    ]


def test_the_whole_is_the_folder_and_a_part_is_one_of_links(folder, tmp_path):
    found = read(folder)
    assert write_resolved(found, tmp_path / "made") == folder.resolve()
    made = write_resolved(found, tmp_path / "made", 0.5)
    assert len(list(made.glob("train/*/*.png"))) == 3
    assert len(list(made.glob("val/*/*.png"))) == 2
    assert (made / "train" / "cat").is_dir()
    assert write_resolved(found, tmp_path / "made", 0.5) == made
    assert read(made).names == found.names


def without(path):
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: without(f / "val"), "holds train and no val: put images to validate on in val/CLASS"),
        (lambda f: without(f / "train"), "holds no train; for classification give one that holds train/CLASS/IMAGE"),
        (lambda f: without(f / "val" / "dog"), "val: no class folder dog, which train has: both need the same ones"),
        (lambda f: without(f / "train" / "dog"), "train: it holds one class folder .cat.: classification needs two"),
        (lambda f: (f / "val" / "cat" / "9.png").unlink(), "val/cat: no image: add some, or remove the class"),
        (lambda f: (f / "train" / "fish").mkdir(), "val: no class folder fish, which train has"),
        (lambda f: (f / "train" / "cat" / "0.png").write_bytes(b"no"), "train/cat/0.png: is not an image"),
        (lambda f: picture(f / "train" / "cat" / "s.png", 8), "train/cat/s.png: is 8x8 pixels"),
        (lambda f: picture(f / "train" / "x.png"), "train: 1 images are in no class folder, and Ultralytics ignores"),
    ],
)
def test_what_is_wrong_with_it(folder, change, message):
    change(folder)
    with pytest.raises(DataError, match=message):
        read(folder)


def test_datasets_of_other_tasks(tmp_path):
    file = demo.demo_dataset(tmp_path)
    with pytest.raises(DataError, match="a file, as the other tasks have; for classification give the folder"):
        read(file)
    with pytest.raises(DataError, match=r"holds no train but a data\.yaml: it is a dataset of another task"):
        read(file.parent)
    for kind in ("images", "labels"):
        (tmp_path / "roboflow" / "train" / kind).mkdir(parents=True)
    with pytest.raises(DataError, match="train holds images and labels, so it is a dataset of another task"):
        read(tmp_path / "roboflow")
    with pytest.raises(DataError, match="no such folder: give the one that holds"):
        read(tmp_path / "nowhere")


def test_class_folders_for_another_task(folder):
    with pytest.raises(
        DataError, match=r"but train/CLASS/IMAGE, which is for classification .a base such as yolov8-cls"
    ):
        load(folder)
