"""Datasets that can be trained on, and every way in which one cannot."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from nas import data, sample
from nas.data import load, write_resolved
from nas.errors import DataError, OutputError

BOX = "0 0.5 0.5 0.2 0.2"


def picture(path: Path, size: tuple[int, int] = (32, 24), **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path, **options)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", newline="")
    return path


def describe(root: Path, **changes: object) -> Path:
    content = {"train": "images/train", "val": "images/val", "names": ["cat", "dog", "emu"]} | changes
    kept = {key: value for key, value in content.items() if value is not ...}
    return text(root / "data.yaml", yaml.safe_dump(kept, sort_keys=False))


def make(root: Path, **changes: object) -> Path:
    """Two training images and one to validate, all with a box. Returns the data.yaml."""
    for split, stems in (("train", "ab"), ("val", "c")):
        for stem in stems:
            picture(root / f"images/{split}/{stem}.png")
            text(root / f"labels/{split}/{stem}.txt", f"{BOX}\n2 0.1 0.1 0.1 0.1\n")
    return describe(root, **changes)


def complaint(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(path)
    return str(caught.value)


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


# ---- the data.yaml is wrong -----------------------------------------------------------------------------------------


def test_no_such_file(tmp_path):
    assert "nowhere.yaml: no such file: give a data.yaml" in complaint(tmp_path / "nowhere.yaml")
    assert "holds no data.yaml, nor any other YAML file" in complaint(tmp_path)
    text(tmp_path / "coco.yaml", "")
    assert "holds no data.yaml, but coco.yaml: give the file itself" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"train: [images", "not valid YAML: "),
        (b"- a\n- b\n", "holds ['a', 'b'], where a mapping with train, val and names is needed"),
        (b"", "holds nothing, where a mapping"),
        (b"BM\x80\xff\x00", "not a YAML file: it is not text in UTF-8"),
    ],
)
def test_not_a_data_yaml(tmp_path, content, fragment):
    (tmp_path / "data.yaml").write_bytes(content)
    assert fragment in complaint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"train": ...}, "data.yaml: train is missing: give a folder of images, a .txt file"),
        ({"val": ...}, "data.yaml: val is missing: give a folder"),
        ({"val": []}, "data.yaml: val is []: give a folder"),
        ({"train": ["images/train", 3]}, "data.yaml: train is ['images/train', 3]: give a folder"),
        ({"names": ...}, "data.yaml: names is missing: list the class names"),
        ({"names": ..., "nc": 3}, "data.yaml: names is missing: list the class names"),
        ({"names": "cat"}, "data.yaml: names is 'cat': list the class names"),
        ({"names": {1: "a", 2: "b", 3: "c"}}, "data.yaml: names has the keys [1, 2, 3]: number 3 classes 0 to 2"),
        ({"names": {"a": "cat"}}, "data.yaml: names has the keys ['a']: number 1 classes 0 to 0"),
        ({"names": ["cat", None, "emu"]}, "data.yaml: names: class 1 is nothing: give it a name"),
        ({"nc": 4}, "data.yaml: nc is 4, but names has 3: remove nc, or correct"),
        ({"path": ["a"]}, "data.yaml: path is ['a']: give a folder"),
        ({"kpt_shape": [4, 2]}, "data.yaml: kpt_shape makes it a pose dataset"),
        ({"channels": 1}, "data.yaml: channels is 1: remove it"),
    ],
)
def test_wrong_yaml(tmp_path, changes, fragment):
    message = complaint(make(tmp_path, **changes))
    assert message.startswith(f"{tmp_path / 'data.yaml'}: 1 problem\n  {fragment}")


def test_places_that_do_not_exist(tmp_path):
    message = complaint(make(tmp_path, path="coco8"))
    assert f"data.yaml: path: coco8 means {tmp_path.resolve() / 'coco8'}, which is no folder" in message
    assert message.count("\n") == 1  # the splits in it are not listed too
    message = complaint(make(tmp_path, val="images/vla"))
    assert f"data.yaml: val: images/vla means {tmp_path.resolve() / 'images/vla'}, which does not exist" in message


def test_messages_name_the_users_file(tmp_path):
    file = make(tmp_path, nc=4).rename(tmp_path / "zoo.yaml")
    text(tmp_path / "labels/train/a.txt", "3 0.5 0.5 0.1 0.1")
    message = complaint(file)
    assert "zoo.yaml: nc is 4" in message
    assert "but zoo.yaml names 3 classes" in message


# ---- the images are wrong -------------------------------------------------------------------------------------------


def test_empty_split(tmp_path):
    file = make(tmp_path)
    (tmp_path / "images/val/c.png").unlink()
    assert f"val: no image in {tmp_path.resolve() / 'images/val'}: files may end in .avif, .bmp" in complaint(file)
    text(tmp_path / "val.txt", "# nothing yet\n")
    assert f"val: no image in {tmp_path.resolve() / 'val.txt'}" in complaint(describe(tmp_path, val="val.txt"))


def test_wrong_lists(tmp_path):
    make(tmp_path)
    text(tmp_path / "list.txt", "images/val/c.png\nimages/val/gone.png")
    message = complaint(describe(tmp_path, train="images/train/a.png", val="list.txt"))
    assert f"train: {tmp_path.resolve() / 'images/train/a.png'} cannot be read: not a list of image paths" in message
    assert "images/val/gone.png: no such file, though a list names it" in message
    assert "2 problems" in message


def test_damaged_images(tmp_path):
    file = make(tmp_path)
    folder = tmp_path / "images/train"
    for name in ("cut.png", "cut.jpg", "cut.bmp", "tail.jpg"):
        picture(folder / name, (64, 64))
    for name in ("cut.png", "cut.jpg", "cut.bmp"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-40])
    (folder / "tail.jpg").write_bytes((folder / "tail.jpg").read_bytes() + b"\0\0")
    text(folder / "text.jpg", "<html>not found</html>")
    text(folder / "empty.jpg", "")
    (folder / "folder.jpg").mkdir()
    picture(folder / "tiny.png", (9, 40))
    Image.new("RGB", (32, 32)).save(folder / "gif.png", format="GIF")
    message = complaint(file)
    assert "9 problems" in message
    assert "images/train/cut.png: is damaged: " in message
    assert "images/train/cut.jpg: is damaged: image file is truncated" in message
    assert "images/train/cut.bmp: is damaged: image file is truncated" in message
    assert "images/train/text.jpg: is not an image that Pillow can read" in message
    assert "images/train/empty.jpg: is not an image that Pillow can read" in message
    assert "images/train/folder.jpg: cannot be read: " in message
    assert "images/train/gif.png: is a GIF file whatever its name says" in message
    assert "images/train/tail.jpg: does not end as a JPEG file does" in message
    (folder / "gif.png").unlink()
    assert "images/train/tiny.png: is 9x40 pixels" in complaint(file)  # was the ninth, of which eight are listed


def test_many_images_are_not_decoded(tmp_path, monkeypatch):
    file = make(tmp_path)
    cut = picture(tmp_path / "images/train/cut.bmp")
    cut.write_bytes(cut.read_bytes()[:-40])
    jpeg = tmp_path / "images/train/cut.jpg"
    Image.effect_noise((64, 64), 80).save(jpeg)
    jpeg.write_bytes(jpeg.read_bytes()[:-40])
    assert "cut.bmp: is damaged" in complaint(file)
    monkeypatch.setattr(sample, "WHOLE_LIMIT", 4)
    message = complaint(file)
    assert "cut.bmp" not in message
    assert "cut.jpg: does not end as a JPEG file does" in message


# ---- the labels are wrong -------------------------------------------------------------------------------------------


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


# ---- all at once ----------------------------------------------------------------------------------------------------


def test_every_problem_is_reported_and_long_lists_are_cut(tmp_path):
    file = make(tmp_path, nc=2)
    text(tmp_path / "labels/train/a.txt", "\n".join(f"{index} 0.5 0.5 0.1 0.1" for index in range(3, 1203)))
    text(tmp_path / "labels/val/c.txt", "0 0.5\n0 2 2 2 2\n")
    picture(tmp_path / "images/train/b.png", (4, 4))
    message = complaint(file)
    lines = message.splitlines()
    assert lines[0] == f"{file}: 1,204 problems"
    assert "  and 1,192 more like the last" in lines
    assert sum("a.txt, line" in line for line in lines) == 8
    for fragment in ("nc is 2", "b.png: is 4x4 pixels", "c.txt, line 1: 2 values", "c.txt, line 2: 2 is not within"):
        assert fragment in message
    assert len(lines) == 1 + 8 + 1 + 4


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    file = make(tmp_path)

    def forbid(module: object, name: str, *endings: str) -> None:
        allowed = getattr(module, name)

        def guarded(path, *args, **options):
            if str(path).endswith(endings):
                raise PermissionError(13, "Permission denied", str(path))
            return allowed(path, *args, **options)

        monkeypatch.setattr(module, name, guarded, raising=False)

    forbid(Image, "open", "a.png")
    forbid(data.os, "scandir", "val")
    monkeypatch.setitem(vars(sample), "open", open)
    forbid(sample, "open", "b.txt")
    message = complaint(file)
    assert "images/train/a.png: cannot be read: Permission denied" in message
    assert "labels/train/b.txt: cannot be read: Permission denied" in message
    assert f"val: {tmp_path.resolve() / 'images/val'} cannot be read: Permission denied" in message
    forbid(Path, "read_bytes", "data.yaml")
    assert "data.yaml: cannot be read: Permission denied" in complaint(file)


def test_no_heavy_imports():
    code = "import sys, nas.data, nas.demo; print([m for m in ('torch', 'ultralytics', 'cv2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_blood_cells():
    root = Path(os.environ.get("NAS_BCCD") or Path(__file__).parents[2] / "../shared/datasets/bccd")
    if not root.is_dir():
        pytest.skip(f"no blood-cell dataset at {root}: set NAS_BCCD")
    found = load(root)
    assert (len(found.train), len(found.val), sum(found.boxes)) == (272, 92, 4886)
    assert found.names == ("Platelets", "RBC", "WBC")
