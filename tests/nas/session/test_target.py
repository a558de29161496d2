"""The target of a new study: the proxy that is chosen for it, the weights that are found, and what is said of both."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from made_data import describe, picture, text

from nas.bank.maturity import BASE_UNTIL
from nas.data.demo import WEIGHTS, WEIGHTS_OF, current_path
from nas.errors import DataError, OptionError, StudyError
from nas.model.host import build
from nas.model.render import render
from nas.model.weights_file import weights_problem
from nas.session.options import SearchOptions
from nas.session.recipe import new_recipe
from nas.session.target import Target, target_notes, target_of
from nas.space.space_file import load_space
from nas.space.variant import Variant
from nas.study.settings import Settings
from nas.study.study import Study
from nas.training.recipe import FINE_TUNE_LR0, SCRATCH_LR0


@pytest.fixture
def large(tmp_path):
    """Return the data.yaml of images whose objects nearly fill them."""
    for split in ("train", "val"):
        picture(tmp_path / f"large/images/{split}/a.png", (64, 64))
        text(tmp_path / f"large/labels/{split}/a.txt", "0 0.5 0.5 0.8 0.8\n")
    return describe(tmp_path / "large", names=["cat"])


@pytest.fixture
def stock(monkeypatch, tmp_path):
    """Write an Ultralytics checkpoint, and return its path."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("YOLO_CONFIG_DIR", raising=False)

    def write(name: str, scale: str = "n"):
        model = build(render(Variant("yolov8", scale)).yaml, scale, 3)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": model.half(), "ema": None, "train_args": {"imgsz": 640}}, tmp_path / name)
        return tmp_path / name

    return write


def images_of(session):
    recipe = session.study.settings.recipe
    return recipe.imgsz, recipe.windows_at


def test_the_proxy_is_chosen_for_the_target(begin, large):
    assert images_of(begin(study="a")) == (256, 640)
    assert images_of(begin(study="b", target_imgsz=128)) == (128, 0)
    assert images_of(begin(study="c", data=str(large))) == (128, 0)
    settings = begin(study="a", space=None).study.settings
    assert settings.target == 640
    assert [len(shares) for shares in settings.levels] == [3, 3]
    assert settings.levels[0][2] == 1.0  # of 64 px, the images are scaled tenfold
    assert Study.load(begin(study="a", space=None).study.location).settings == settings


def test_a_gpu_trains_at_the_targets_own_size(begin, monkeypatch):
    monkeypatch.setattr("nas.session.target.choose_device", lambda _: "0")
    assert images_of(begin()) == (640, 0)
    assert images_of(begin(study="b", target_imgsz=320)) == (320, 0)


def test_options_choose(begin):
    assert images_of(begin(study="a", imgsz=160)) == (160, 0)
    assert images_of(begin(study="b", window=320)) == (320, 640)
    assert images_of(begin(study="c", window=64, target_imgsz=128)) == (64, 128)
    assert images_of(begin(study="d", data=None)) == (160, 0)  # the demo data
    assert begin(study="d", space=None, data=None).study.settings.target == 0


def test_a_study_with_results_keeps_its_target(begin, finish_a_trial):
    session = begin(study="a", window=320)
    finish_a_trial(session.study)
    assert begin(study="a", space=None).study.settings == session.study.settings
    for options, difference in (
        ({"imgsz": 320}, "recipe: windows_at: 640, not 0"),
        ({"window": 256}, "recipe: imgsz: 320, not 256"),
        ({"target_imgsz": 1280}, "image size of the target: 640, not 1280"),
    ):
        with pytest.raises(StudyError) as caught:
            begin(study="a", space=None, **options)
        assert difference in str(caught.value)


def test_what_cannot_be_trained_is_refused(begin, large, tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / f"small/images/{split}/a.png", (64, 64))
        text(tmp_path / f"small/labels/{split}/a.txt", "0 0.5 0.5 0.03 0.03\n")
    small = describe(tmp_path / "small", names=["cat"])
    for options, error, words in (
        ({"window": 640}, OptionError, "--window 640 is not smaller than the target's images of 640 px"),
        ({"window": 96, "target_imgsz": 64}, OptionError, "give a smaller window, or a larger target"),
        ({"window": 320, "imgsz": 320}, OptionError, "give one of them"),
        (
            {"target_imgsz": 100},
            OptionError,
            "--target-imgsz 100: expected a multiple of 32 from 64 px on, such as 128",
        ),
        ({"target_imgsz": 32}, OptionError, "from 64 px on, such as 64"),
        ({"target_imgsz": 64, "data": str(small)}, DataError, "at 64 px, 100% of the boxes are smaller than 4 px"),
        ({"window": 128, "data": str(large)}, DataError, "windows of 128 px at 640 px show hardly any object"),
        ({"rungs": "0@128/640", "data": str(large)}, DataError, "hardly any object of the training images"),
    ):
        with pytest.raises(error) as caught:
            begin(**options)
        assert words in str(caught.value)
    assert not list(tmp_path.rglob("*.db"))


def test_a_search_says_what_its_proxy_sees(begin):
    session = begin(study="a", imgsz=64)
    lines = target_notes(session.study.settings, session.dataset)
    assert lines[0].startswith("boxes at 640 px (target): P3 0%, P4 0%, P5 100%; proxy, 64 px: P3 100%, P4 0%")
    assert lines[1].startswith("P5 (100% of the boxes) will idle in this proxy, though the target uses it")
    assert lines[1].endswith("windows of 256 px at 640 px would do: --window 256")
    assert lines[2].startswith("no yolov8n.pt was found; the baseline is trained from scratch until its validation is")
    lines = target_notes(begin(study="b").study.settings, session.dataset)
    assert len(lines) == 2
    assert "proxy, windows of 256 px at 640 px" in lines[0]
    assert not target_notes(replace(session.study.settings, target=0), session.dataset)


def test_a_study_without_a_target_is_stored_as_before(begin):
    settings = begin(data=None).study.settings
    stored = json.loads(settings.to_json())
    assert not {"target", "levels"} & set(stored)
    assert not {"windows_at", "validated_on", "base_until"} & set(stored["recipe"])
    assert Settings.from_json(settings.to_json()) == settings


# ---- the baseline ---------------------------------------------------------------------------------------------------


def test_weights_of_the_stock_model_are_found_and_named(begin, stock, tmp_path):
    file = stock("yolov8n.pt")
    session = begin(study="a")
    recipe = session.study.settings.recipe
    assert (recipe.weights, recipe.base_lr0, recipe.base_until) == (str(file), FINE_TUNE_LR0, 0)
    assert target_notes(session.study.settings, session.dataset)[-1] == (
        f"the baseline starts from trained weights: {file}"
    )
    assert not begin(study="b", init="scratch").study.settings.recipe.weights
    assert not begin(study="c", scale="s").study.settings.recipe.weights  # another scale has another name
    assert begin(study="d", data=None).study.settings.recipe.weights == str(WEIGHTS)  # the demo has its own


def test_weights_where_the_host_keeps_them(begin, stock, tmp_path):
    file = stock("kept/yolov8n.pt")
    folder = tmp_path / "config" / "Ultralytics"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"weights_dir": str(file.parent)}))
    assert begin().study.settings.recipe.weights == str(file)
    (folder / "settings.json").write_text("{")
    assert not begin(study="b").study.settings.recipe.weights


def test_a_damaged_file_is_not_used(begin, tmp_path):
    (tmp_path / "yolov8n.pt").write_bytes(b"weights")
    session = begin(study="a")
    recipe = session.study.settings.recipe
    assert (recipe.weights, recipe.base_until) == ("", BASE_UNTIL)
    assert f"{tmp_path / 'yolov8n.pt'} is not used: yolov8n.pt is no checkpoint that can be read" in (
        target_notes(session.study.settings, session.dataset)[-1].replace(f": {tmp_path}/", ": ")
    )


def test_weights_of_another_scale_are_not_used(begin, stock):
    stock("yolov8n.pt", scale="s")
    session = begin()
    assert not session.study.settings.recipe.weights
    assert (
        "tensors of yolov8n: it is of another model or scale"
        in (target_notes(session.study.settings, session.dataset)[-1])
    )


def test_a_given_number_of_epochs_is_trained(begin):
    assert begin(study="a").study.settings.recipe.base_until == BASE_UNTIL
    assert begin(study="b", base_epochs=30).study.settings.recipe.base_until == 0


def test_the_demo_starts_from_its_own_weights(begin, monkeypatch, tmp_path):
    recipe = begin(data=None).study.settings.recipe
    assert (recipe.weights, recipe.base_epochs, recipe.base_until) == (str(WEIGHTS), 3, 0)
    assert weights_problem(recipe.weights, *WEIGHTS_OF) == ""
    assert not begin(study="scratch", data=None, init="scratch").study.settings.recipe.weights
    larger = begin(study="s", data=None, scale="s").study.settings.recipe
    assert (larger.weights, larger.base_epochs) == ("", 16)
    # Installed elsewhere, the file has another path.
    monkeypatch.setattr("nas.data.demo.WEIGHTS", moved := tmp_path / WEIGHTS.name)
    shutil.copy(WEIGHTS, moved)
    assert current_path(str(WEIGHTS)) == str(WEIGHTS)
    assert current_path(f"/gone/{WEIGHTS.name}") == str(moved)
    assert current_path("/gone/other.pt") == "/gone/other.pt"


@pytest.mark.parametrize("base", ["yolov8", "yolov8-seg", "yolov8-pose", "yolov8-obb"])
def test_a_demo_of_another_task_trains_what_its_head_adds(base):
    space, options = replace(load_space("quick"), base=base), SearchOptions(device="cpu")
    target = target_of(space, options, None, None)
    assert target == Target(weights=str(WEIGHTS), new_head=base != "yolov8")
    recipe = new_recipe(options, None, target)
    other = (recipe.base_epochs, recipe.base_lr0)
    assert other == ((6, SCRATCH_LR0) if target.new_head else (3, FINE_TUNE_LR0))
    assert new_recipe(replace(options, base_epochs=5), None, target).base_epochs == 5
