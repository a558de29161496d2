"""Datasets that cannot be trained on: the data.yaml or the images are wrong, or several things at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_data import complaint, describe, make, picture, text
from PIL import Image

from nas.data import dataset as data
from nas.data import validate as sample

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
    assert "images/train/gif.png: is a GIF file despite its name" in message
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
