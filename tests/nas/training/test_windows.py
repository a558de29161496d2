"""Trainings on windows: paired by seed, cached, resumed and distilled as trainings on whole images are."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data.dataset import load, write_resolved
from nas.data.windows import PAINT
from nas.model.render import render
from nas.space.variant import Variant, make_variant
from nas.training.jobs import ProxyJob
from nas.training.recipe import WHOLE, Recipe
from nas.training.train import open_trainer, train

RECIPE = Recipe(epochs=2, imgsz=64, batch=4, init="scratch", lr0=2e-3, warmup_epochs=1.0, validations=1, windows_at=128)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """Return the data.yaml of images of 96 x 64 px: a disc or a square of 12 px each, on grey that tells the place."""
    root = tmp_path_factory.mktemp("scene")
    rng = random.Random(1)
    across, down = np.meshgrid(np.arange(96), np.arange(64))
    for split, count in (("train", 6), ("val", 3)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            pixels = np.stack([across, down, np.full_like(across, 40 * i)], 2).astype(np.uint8)
            rows = []
            for _ in range(3):
                x, y = rng.randrange(84), rng.randrange(52)
                pixels[y : y + 12, x : x + 12] = 250
                rows.append(f"{rng.randrange(2)} {(x + 6) / 96} {(y + 6) / 64} {12 / 96} {12 / 64}\n")
            Image.fromarray(pixels).save(root / "images" / split / f"{i}.png")
            (root / "labels" / split / f"{i}.txt").write_text("".join(rows))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {0: square, 1: disc}\n")
    return root / "data.yaml"


def job_of(scene: Path, folder: Path, recipe: Recipe = RECIPE, seed: int = 0, **swaps: str) -> ProxyJob:
    dataset = load(scene)
    variant = make_variant("yolov8", "n", {"neck.up_p3": swaps["up"]}) if swaps else Variant("yolov8", "n")
    return ProxyJob(
        name=variant.name, yaml=render(variant).yaml, base="yolov8", scale="n", swaps=variant.swaps,
        data=str(write_resolved(dataset, folder)), data_key=dataset.fingerprint, recipe=recipe, seed=seed,
    )  # fmt: skip


@pytest.fixture
def datasets(scene, tmp_path):
    """Return the training and the validation dataset of a job."""

    def opened(**changes):
        with open_trainer(job_of(scene, tmp_path, replace(RECIPE, **changes)), 1) as trainer:
            trainer.set_up()
            return trainer.train_loader.dataset, trainer.test_loader.dataset

    return opened


def test_training_windows_hold_an_object_at_the_targets_scale(datasets):
    windows, _ = datasets()
    assert len(windows) == 6
    random.seed(0)
    for index in range(6):
        seen = windows.get_image_and_label(index)
        assert seen["img"].shape == (64, 64, 3)
        assert (seen["resized_shape"], seen["ratio_pad"]) == ((64, 64), (1.0, 1.0))
        assert len(seen["cls"]) == len(seen["instances"]) >= 1
        sides = seen["instances"].bboxes[:, 2:] * 64  # 12 px of 96 are 16 of 128, a rounded height apart
        assert ((sides > 0.75 * 15.9) & (sides < 16.2)).all()
    assert windows.imgsz == 128
    assert windows.transforms.transforms[0].transforms[0].imgsz == 64  # mosaic is of windows


def test_what_is_labelled_is_where_the_label_says(datasets):
    windows, _ = datasets()
    random.seed(3)
    labelled = []
    for index in [*range(6)] * 4:
        seen = windows.get_image_and_label(index)
        seen["instances"].convert_bbox("xyxy")
        seen["instances"].denormalize(64, 64)
        for x1, y1, x2, y2 in seen["instances"].bboxes:
            inner = seen["img"][round(y1) + 2 : round(y2) - 2, round(x1) + 2 : round(x2) - 2]
            labelled.append(inner.min())
        rest = seen["img"].copy()
        for x1, y1, x2, y2 in seen["instances"].bboxes:
            rest[max(0, int(y1) - 2) : int(y2) + 3, max(0, int(x1) - 2) : int(x2) + 3] = 0
        assert rest.max() < 240  # no object without a label is left
    assert min(labelled) > 240


def test_ignored_objects_are_painted_over(datasets):
    windows, _ = datasets()
    random.seed(0)
    grey = [(windows.get_image_and_label(i)["img"] == PAINT).all(2).sum() for i in [*range(6)] * 5]
    assert max(grey) > 10


def test_windows_depend_on_the_random_state_only(datasets):
    windows, _ = datasets()

    def drawn(seed):
        random.seed(seed)
        return [windows.get_image_and_label(i)["img"].tobytes() for i in range(6)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_validation_windows_are_fixed_and_know_their_size(datasets):
    _, windows = datasets()
    assert len(windows) == len(windows.fixed) > 3
    random.seed(5)
    before = [windows[i]["img"].numpy().tobytes() for i in range(len(windows))]
    random.seed(6)
    assert [windows[i]["img"].numpy().tobytes() for i in range(len(windows))] == before
    assert {tuple(windows[i]["img"].shape) for i in range(len(windows))} == {(3, 64, 64)}


def test_an_image_smaller_than_the_window_is_padded_as_the_host_does(datasets):
    windows, fixed = datasets(imgsz=96)  # at 128 px the images are 128 x 86
    random.seed(0)
    assert windows.get_image_and_label(0)["img"].shape == (86, 96, 3)
    assert windows[0]["img"].shape == (3, 96, 96)
    assert fixed[0]["img"].shape == (3, 96, 96)
    assert (fixed[0]["img"][:, 0] == 114).all()


def test_whole_images_for_validation(datasets):
    windows, whole = datasets(validated_on=WHOLE)
    assert type(windows) is not type(whole)
    assert (windows.window, len(whole), whole.imgsz) == (64, 3, 128)
    assert max(whole[0]["img"].shape[1:]) >= 128


def test_variants_of_a_seed_see_the_same_windows(scene, tmp_path, monkeypatch):
    from nas.training.windows import WindowDataset

    seen, get = [], WindowDataset.get_image_and_label
    monkeypatch.setattr("nas.training.proxy_trainer._KEPT", {"train": 0, "val": 0})  # nothing is found in the cache

    def kept(self, index):
        found = get(self, index)
        seen.append((self.augment, found["img"].tobytes()))
        return found

    monkeypatch.setattr(WindowDataset, "get_image_and_label", kept)
    runs = []
    for job in (job_of(scene, tmp_path), job_of(scene, tmp_path, up="CARAFE"), job_of(scene, tmp_path, seed=1)):
        monkeypatch.setattr("nas.training.proxy_trainer._DATASETS", {})
        train(job, 1, lambda _: None)
        runs.append(list(seen))
        seen.clear()
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_cached_windows_train_as_drawn_ones_do(scene, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.training.proxy_trainer._DATASETS", {})
    drawn = train(job_of(scene, tmp_path), 1, lambda _: None)
    found = train(job_of(scene, tmp_path), 1, lambda _: None)
    assert [s.train_loss for s in drawn.curve] == [s.train_loss for s in found.curve]
    assert drawn.curve[-1].validation == found.curve[-1].validation
    from nas.training.proxy_trainer import _DATASETS

    assert all(dataset.batches.found for key, dataset in _DATASETS.items())


def test_another_window_or_target_is_another_dataset(scene, tmp_path):
    losses = [
        train(job_of(scene, tmp_path, replace(RECIPE, epochs=1, **changes)), 1, lambda _: None).curve[0].train_loss
        for changes in ({}, {"windows_at": 160}, {"windows_at": 0}, {"imgsz": 96})
    ]
    assert len(set(losses)) == 4
