"""Datasets that can be trained on: what is read from them, what Ultralytics is given, and the fingerprint."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from made_data import BOX, describe, make, picture, text

from nas.data import dataset as data
from nas.data import validate as sample
from nas.data.dataset import load, write_resolved
from nas.errors import OutputError

# ---- what can be trained on -----------------------------------------------------------------------------------------


def test_a_plain_dataset(tmp_path):
    file = make(tmp_path)
    found = load(file)
    assert found.yaml == file
    assert found.names == ("cat", "dog", "emu")
    assert [image.relative_to(tmp_path.resolve()).as_posix() for image in found.train] == [
        "images/train/a.png",
        "images/train/b.png",
    ]
    assert [image.name for image in found.val] == ["c.png"]
    assert found.boxes == (4, 2)
    assert len(found.fingerprint) == 16
    assert int(found.fingerprint, 16) >= 0
    assert load(str(tmp_path)) == found  # the folder, as text


def test_a_relative_argument(tmp_path, monkeypatch):
    file = make(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert load("set/data.yaml").yaml == file


@pytest.mark.parametrize("path", [..., ".", "", None, "../set"])
def test_path_counts_from_the_yaml(tmp_path, monkeypatch, path):
    file = make(tmp_path / "set", path=path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(file).root == (tmp_path / "set").resolve()


def test_absolute_path(tmp_path):
    make(tmp_path / "set")
    (tmp_path / "yamls").mkdir()
    file = describe(tmp_path / "yamls", path=str(tmp_path / "set"))
    assert load(file).boxes == (4, 2)


def test_roboflow_layout(tmp_path):
    for split in ("train", "valid"):
        picture(tmp_path / f"{split}/images/a.jpg")
        text(tmp_path / f"{split}/labels/a.txt", BOX)
    found = load(describe(tmp_path, train="../train/images", val="../valid/images"))
    assert found.boxes == (1, 1)


def test_validation_is_another_word_for_val(tmp_path):
    assert len(load(make(tmp_path, val=..., validation="images/val")).val) == 1


@pytest.mark.parametrize("names", [{0: "cat", 1: "dog", 2: "emu"}, {"2": "emu", "0": "cat", "1": "dog"}])
def test_names_as_mapping(tmp_path, names):
    assert load(make(tmp_path, names=names, nc=3)).names == ("cat", "dog", "emu")


def test_subfolders_suffixes_and_other_files(tmp_path):
    file = make(tmp_path)
    for name in ("deep/er/d.JPG", "e.bmp", "f.jpeg", "g.tif", "h.webp"):
        picture(tmp_path / "images/train" / name)
    text(tmp_path / "images/train/notes.txt", "not an image")
    text(tmp_path / "images/train/.hidden.png", "not one either")
    found = load(file)
    assert [image.name for image in found.train] == ["a.png", "b.png", "d.JPG", "e.bmp", "f.jpeg", "g.tif", "h.webp"]
    assert found.boxes == (4, 2)  # the new ones have no label file: background


def test_suffixes_are_those_of_ultralytics():
    host = importlib.util.find_spec("ultralytics")  # read, not imported: that takes seconds
    assert host is not None
    assert host.origin is not None
    source = Path(host.origin).parent / "data/utils.py"
    listed = source.read_text(encoding="utf-8").split("IMG_FORMATS = {", 1)[1].split("}", 1)[0]
    assert {word.strip('", \n') for word in listed.split()} - {""} == sample.SUFFIXES


def test_lists(tmp_path):
    root = tmp_path / "set"
    make(root)
    absolute = root / "images/train/b.png"
    text(root / "lists/train.txt", f"./../images/train/a.png\r\n{absolute}\r\n\r\n")
    text(root / "val.txt", "\ufeffimages/val/c.png\nimages/val/c.png")
    found = load(describe(root, train=["lists/train.txt", "images/val"], val="val.txt"))
    assert [image.name for image in found.train] == ["a.png", "b.png", "c.png"]
    assert [image.name for image in found.val] == ["c.png", "c.png"]  # listed twice, trained on twice
    assert found.boxes == (6, 4)


def test_bom_windows_line_ends_blank_lines_and_duplicates(tmp_path):
    file = make(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    text(tmp_path / "labels/train/a.txt", f"\ufeff{BOX}\r\n\r\n{BOX}\r\n")
    assert load(file).boxes == (4, 2)


def test_outlines_and_rounding(tmp_path):
    file = make(tmp_path)
    text(tmp_path / "labels/train/a.txt", "1.0 0.1 0.1 0.4 0.1 0.2 0.6\n0 0 0 1 0 1 1 0 1")
    text(tmp_path / "labels/train/b.txt", "0 1.0000001 0.5 1e-3 0.2")
    assert load(file).boxes == (3, 2)


def test_background_and_overlap(tmp_path):
    file = make(tmp_path, val=["images/val", "images/train"])
    text(tmp_path / "labels/train/a.txt", "")
    (tmp_path / "labels/train/b.txt").unlink()
    picture(tmp_path / "images/train/z.png")
    text(tmp_path / "labels/train/z.txt", BOX)
    assert load(file).boxes == (1, 3)


def test_the_last_folder_named_images_counts(tmp_path):
    root = tmp_path / "images" / "set"
    assert load(make(root)).boxes == (4, 2)


def test_labels_beside_images(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "a.png")
        text(tmp_path / split / "a.txt", BOX)
    assert load(describe(tmp_path, train="train", val="val")).boxes == (1, 1)


# ---- what Ultralytics is given --------------------------------------------------------------------------------------


def test_resolved(tmp_path):
    root = tmp_path.resolve()
    assert load(make(tmp_path, val=["images/val", "images/train"])).resolved() == {
        "path": str(root),
        "train": str(root / "images/train"),
        "val": [str(root / "images/val"), str(root / "images/train")],
        "names": ["cat", "dog", "emu"],
        "nc": 3,
    }


def test_write_resolved(tmp_path):
    root = tmp_path / "sét"
    make(root)
    text(root / "list.txt", "images/val/c.png")  # Ultralytics would look in the working directory
    found = load(describe(root, val="list.txt"))
    written = write_resolved(found, tmp_path / "new" / "run")
    content = yaml.safe_load(written.read_text(encoding="utf-8"))
    assert content == found.resolved() | {"val": str(tmp_path / "new/run/val.txt")}
    assert (tmp_path / "new/run/val.txt").read_text(encoding="utf-8") == f"{found.val[0]}\n"
    assert sorted(path.name for path in written.parent.iterdir()) == ["data.yaml", "val.txt"]
    assert load(write_resolved(found, written.parent)).fingerprint == found.fingerprint


def test_write_resolved_where_nothing_can_be_written(tmp_path):
    found = load(make(tmp_path))
    with pytest.raises(OutputError, match="cannot be written"):
        write_resolved(found, found.yaml / "under")


# ---- the fingerprint ------------------------------------------------------------------------------------------------


def test_fingerprint_moves_with_the_data(tmp_path):
    file = make(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "far" / "there", copy_function=shutil.copyfile)
    there = tmp_path / "far" / "there" / "data.yaml"
    os.utime(there.parent / "images/train/a.png", (1, 1))
    assert load(there).fingerprint == load(file).fingerprint


def test_fingerprint_does_not_depend_on_how_images_are_listed(tmp_path, monkeypatch):
    found = load(make(tmp_path))
    forwards = data.glob.glob
    monkeypatch.setattr(data.glob, "glob", lambda *args, **options: forwards(*args, **options)[::-1])
    assert load(found.yaml) == found
    text(tmp_path / "list.txt", "images/train/b.png\nimages/train/a.png\n")
    assert load(describe(tmp_path, train="list.txt", nc=3)).fingerprint == found.fingerprint


def test_fingerprint_sees_what_matters(tmp_path):
    file = make(tmp_path)
    seen = [load(file).fingerprint]
    changes = (
        lambda: text(tmp_path / "labels/train/a.txt", f"{BOX}\n2 0.1 0.1 0.1 0.11\n"),
        lambda: text(tmp_path / "labels/val/c.txt", BOX),
        lambda: picture(tmp_path / "images/val/c.png", (64, 64)),
        lambda: picture(tmp_path / "images/train/d.png"),
        lambda: (tmp_path / "images/train/d.png").rename(tmp_path / "images/train/e.png"),
        lambda: describe(tmp_path, names=["cat", "dog", "gnu"]),
        lambda: describe(tmp_path, names=["cat", "dog", "gnu"], val=["images/val", "images/train"]),
    )
    for change in changes:
        change()
        seen.append(load(file).fingerprint)
    assert len(set(seen)) == len(seen)


def test_no_heavy_imports():
    code = (
        "import sys, nas.data.dataset, nas.data.demo; "
        "print([m for m in ('torch', 'ultralytics', 'cv2') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_blood_cells():
    root = Path(os.environ.get("NAS_BCCD") or Path(__file__).parents[3] / "../shared/datasets/bccd")
    if not root.is_dir():
        pytest.skip(f"no blood-cell dataset at {root}: set NAS_BCCD")
    found = load(root)
    assert (len(found.train), len(found.val), sum(found.boxes)) == (272, 92, 4886)
    assert found.names == ("Platelets", "RBC", "WBC")
