"""The demo data: the same bytes everywhere, made once, mended when damaged."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import demo
from nas.data.dataset import load
from nas.data.demo_labels import Shape, label
from nas.errors import DataError, OutputError


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return demo.generate()


@pytest.fixture
def quick(files, monkeypatch) -> list[int]:
    """Saves drawing the set again, and counts how often it would have been drawn."""
    drawn: list[int] = []

    def generate(task: str) -> dict[str, bytes]:
        assert task == "detect"
        drawn.append(1)
        return files

    monkeypatch.setattr(demo, "generate", generate)
    return drawn


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_bytes_are_those_that_were_released(files):
    assert demo.digest(files) == demo.DIGEST


def rows(content: bytes) -> list[list[float]]:
    return [[float(value) for value in row.split()] for row in content.splitlines()]


@pytest.fixture(scope="module", params=[task for task in demo.DIGESTS if task != "classify"])
def others(request) -> tuple[str, dict[str, bytes]]:
    return request.param, demo.generate(task=request.param)


def pixels(bmp: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(bmp)))


def test_images_of_classes_are_parts_of_the_scenes_around_their_shapes(files):
    made = demo.generate(task="classify")
    assert demo.digest(made) == demo.DIGESTS["classify"]
    for name, content in list(made.items())[::23]:
        split, kind, file = name.split("/")
        number, place = file.removesuffix(".bmp").split("-")
        row = rows(files[f"labels/{split}/{number}.txt"])[int(place)]
        assert demo.NAMES[int(row[0])] == kind
        scene, part = pixels(files[f"images/{split}/{number}.bmp"]), pixels(content)
        side, (x, y, width, height) = len(part), (value * demo.SIZE for value in row[1:])
        around = [
            (left, top)
            for left in range(demo.SIZE - side + 1)
            for top in range(demo.SIZE - side + 1)
            if (scene[top, left] == part[0, 0]).all() and (scene[top : top + side, left : left + side] == part).all()
        ]
        ((left, top),) = around
        assert left <= x - width / 2 + 1
        assert x + width / 2 - 1 <= left + side
        assert top <= y - height / 2 + 1
        assert y + height / 2 - 1 <= top + side


def test_the_scenes_of_all_tasks_are_the_same(files, others):
    task, made = others
    assert demo.digest(made) == demo.DIGESTS[task]
    labels = {name for name in files if name.startswith("labels/")}
    assert {name for name in files if files[name] != made[name]} - {"data.yaml"} == labels
    for name in labels:
        for (kind, x, y, width, height), (number, *values) in zip(rows(files[name]), rows(made[name]), strict=True):
            assert number == kind
            box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            if task == "segment":  # the bounds of an outline are the box
                bounds = [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]
                assert bounds == pytest.approx(box, abs=2e-6)
            elif task == "pose":  # the extreme points are on the borders of the box, half a pixel inside
                xs, ys = values[4::3], values[5::3]
                half = 0.5 / demo.SIZE
                bounds = [xs[4] - half, ys[1] - half, xs[2] + half, ys[3] + half]
                assert bounds == pytest.approx(box, abs=2e-6)
                assert (xs[0], ys[0]) == (x, y)
                assert values[6::3][1:] == [2, 2, 2, 2]
            else:  # a rectangle, which encloses what the box encloses
                a, b, c, d = (np.array(values[k : k + 2]) for k in (0, 2, 4, 6))
                assert np.allclose(a + c, b + d, atol=3e-6)
                assert abs((b - a) @ (d - a)) < 3e-6
                assert min(values) >= 0
                assert max(values) <= 1


def test_the_sets_of_other_tasks_are_datasets_of_these_alone(tmp_path):
    sets = {task: demo.demo_dataset(tmp_path, task) for task in ("detect", *demo.DIGESTS)}
    folders = load(sets.pop("classify"), "classify")
    assert (folders.names, folders.boxes) == (tuple(sorted(demo.NAMES)), (372, 271))
    assert {load(file, task).boxes for task, file in sets.items()} == {(502, 348)}
    for given, task, message in (
        ("segment", "pose", "kpt_shape is missing: give"),
        ("segment", "obb", "those of another task: for oriented boxes each row has a class and 4 corners"),
        ("detect", "segment", "those of another task: for instance segmentation each row has a class and 3 or more"),
        ("detect", "obb", "those of another task: for oriented boxes each row has a class and 4 corners"),
        ("pose", "segment", "kpt_shape makes it a pose dataset: give one whose labels are polygons"),
        ("pose", "detect", "kpt_shape makes it a pose dataset: give one whose labels are boxes"),
    ):
        with pytest.raises(DataError, match=message):
            load(sets[given], task)


def test_random_integers_are_those_that_were_released():
    rng = demo._Random(7)
    whole = rng.array(0, 999, 6).tolist()
    again = demo._Random(7)
    assert [again.pick(0, 999) for _ in range(6)] == whole
    assert whole == [581, 721, 159, 443, 436, 689]
    assert {demo._Random(3).pick(-1, 1) for _ in range(3)} <= {-1, 0, 1}
    spread = demo._Random(1).array(-2, 2, 5000)
    assert sorted(set(spread.tolist())) == [-2, -1, 0, 1, 2]
    assert np.bincount(spread + 2).min() > 900


def test_both_readers_see_the_same_picture(files, tmp_path):
    cv2 = pytest.importorskip("cv2")
    content = files["images/train/0003.bmp"]
    ours = demo._scene(demo._Random(list(files).index("images/train/0003.bmp")), "detect")[0]
    assert np.array_equal(ours, cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
    assert np.array_equal(ours[:, :, ::-1], np.asarray(Image.open(io.BytesIO(content))))


def test_made_once_and_accepted(tmp_path, monkeypatch, quick):
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "deep" / "cache"))
    file = demo.demo_dataset()
    assert file == tmp_path / "deep" / "cache" / f"demo-v{demo.VERSION}" / "data.yaml"
    assert [path.name for path in file.parent.parent.iterdir()] == [file.parent.name]  # nothing is left over
    before = stamps(file.parent)
    assert demo.demo_dataset() == file
    assert demo.demo_dataset(tmp_path / "deep" / "cache") == file
    assert stamps(file.parent) == before
    assert len(quick) == 1
    found = load(file)
    assert (len(found.train), len(found.val)) == tuple(demo.COUNTS.values())
    assert found.names == demo.NAMES
    assert found.boxes == (502, 348)


def test_other_files_do_not_matter(tmp_path, quick):
    file = demo.demo_dataset(tmp_path)
    (file.parent / "labels" / "train.cache").write_bytes(b"Ultralytics")
    demo.demo_dataset(tmp_path)
    assert len(quick) == 1


def test_damage_is_mended(tmp_path, quick):
    folder = demo.demo_dataset(tmp_path).parent
    (folder / "images/train/0001.bmp").unlink()
    (folder / "labels/val/0002.txt").write_text("0 0.5 0.5 1 1\n")
    (folder / "data.yaml").write_text("")
    (folder / "images/val/0000.bmp").write_bytes(b"BM")
    kept = (folder / "images/train/0000.bmp").read_bytes()
    demo.demo_dataset(tmp_path)
    assert demo._is_whole(folder, demo.DIGEST)
    assert (folder / "images/train/0000.bmp").read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert len(quick) == 2


def test_a_half_made_set_is_not_used(tmp_path, quick):
    (tmp_path / f"demo-v{demo.VERSION}" / "images").mkdir(parents=True)
    assert load(demo.demo_dataset(tmp_path)).boxes == (502, 348)


def test_several_processes_at_once(tmp_path, monkeypatch):
    few = {"train": 8, "val": 4}
    monkeypatch.setattr(demo, "COUNTS", few)  # less to draw: they come closer together
    monkeypatch.setattr(demo, "DIGEST", demo.digest(demo.generate()))
    code = f"from nas.data import demo; demo.COUNTS = {few}; demo.DIGEST = {demo.DIGEST!r}; print(demo.demo_dataset())"
    environment = os.environ | {"NAS_CACHE": str(tmp_path)}
    several = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    folder = tmp_path / f"demo-v{demo.VERSION}"
    assert [process.communicate()[0].strip() for process in several] == [str(folder / "data.yaml")] * 3
    assert [process.returncode for process in several] == [0, 0, 0]
    assert demo._is_whole(folder, demo.DIGEST)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_who_comes_second_leaves_the_set_alone(tmp_path, files, quick, monkeypatch):
    folder = tmp_path / f"demo-v{demo.VERSION}"
    first = demo._is_whole
    monkeypatch.setattr(demo, "_is_whole", lambda *_: False)  # as it was before the first one finished
    demo.demo_dataset(tmp_path)
    before = stamps(folder)
    answers = iter([False, True])
    monkeypatch.setattr(demo, "_is_whole", lambda *_: next(answers))
    demo.demo_dataset(tmp_path)
    assert stamps(folder) == before
    assert first(folder, demo.DIGEST)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, quick):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"file: the demo data cannot be written \(.*\): set NAS_CACHE to a folder"):
        demo.demo_dataset()


def test_labels_are_whole_pixels_within_the_picture(files):
    sides, classes = [], set()
    for name, content in files.items():
        if not name.startswith("labels/"):
            continue
        rows = [line.split() for line in content.decode("ascii").splitlines()]
        assert rows, name
        for row in rows:
            assert all(len(value) == 8 for value in row[1:])
            x, y, w, h = (float(value) * demo.SIZE for value in row[1:])
            edges = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            assert abs(edges - edges.round()).max() < 2e-4  # whole pixels, but for the sixth decimal
            assert edges.min() > -2e-4
            assert edges.max() < demo.SIZE + 2e-4
            sides.append((w, h))
            classes.add(int(row[0]))
    assert classes == set(range(len(demo.NAMES)))
    assert 4 <= np.min(sides) < 12
    assert 140 < np.max(sides) <= demo.SIZE


def test_every_level_of_a_detector_has_work(files):
    """By the square root of a box's area, as the levels' usual ranges: below 32 px, below 96 px, and above."""
    labels = [row.split() for name, text in files.items() if name[:6] == "labels" for row in text.decode().splitlines()]
    sides = np.array([demo.SIZE * (float(w) * float(h)) ** 0.5 for *_, w, h in labels])
    shares = np.histogram(sides, (0, 32, 96, demo.SIZE + 1))[0] / len(sides)
    assert shares == pytest.approx((0.46, 0.40, 0.14), abs=0.01)


def boxed(seen: np.ndarray, full: int) -> str:
    return label(Shape(2, seen, full, (1, 0, 1)), "detect")


def test_a_label_is_the_box_of_what_is_seen():
    seen = np.zeros((demo.SIZE, demo.SIZE), bool)
    seen[10:30, 40:48] = True
    assert boxed(seen, 400) == f"2 {44 / 160:.6f} {20 / 160:.6f} {8 / 160:.6f} {20 / 160:.6f}"
    assert boxed(seen, 401) == ""  # less than two fifths show
    seen[:] = False
    assert boxed(seen, 0) == ""
    seen[5:60, 5:8] = True
    assert boxed(seen, 100) == ""  # a sliver


@pytest.mark.parametrize("outline", [*demo._SHAPES, *demo._CLUTTER])
def test_outlines_lie_within_their_window(outline):
    """A clipped outline would have labels that are not tight."""
    for seed in range(60):
        rng = demo._Random(seed)
        window, cover, full, _ = demo._cover(rng, outline, 512, 512, 200)
        assert cover[[0, -1]].max() == 0
        assert cover[:, [0, -1]].max() == 0
        assert 0 <= cover.min() < cover.max() <= 16
        assert full == (cover >= 8).sum()
        assert window[0].stop - window[0].start == cover.shape[0]


def test_outlines_at_the_edge_are_cut_but_counted_whole():
    rng = demo._Random(5)
    window, cover, full, _ = demo._cover(rng, demo._SHAPES[0], 0, 8 * demo.SIZE - 1, 160)
    assert cover.shape == (window[0].stop - window[0].start, window[1].stop - window[1].start)
    assert (window[1].start, window[0].stop) == (0, demo.SIZE)
    assert full / 5 < (cover >= 8).sum() < full / 3
