"""Proxies of other tasks: they train, and their scores are what the host's own validation of the weights says."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from nas.data import demo
from nas.data.dataset import load, write_resolved
from nas.data.windows import see
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import numbered_state
from nas.space.bases import load_base, task_of_base
from nas.space.variant import Variant, parse_swaps
from nas.training.jobs import ProxyJob
from nas.training.recipe import Recipe
from nas.training.train import open_trainer
from nas.training.windows import _corners
from nas.workers.process import ProxyWorker

BASES = {"yolov8-seg": "segment", "yolov8-pose": "pose", "yolov8-obb": "obb"}


@pytest.fixture(scope="module")
def worker(own_cache):
    with ProxyWorker(own_cache) as made:
        yield made


@pytest.fixture(params=BASES)
def base(request) -> str:
    return request.param


@pytest.fixture
def dataset(base, tmp_path):
    for name, content in demo.generate({"train": 24, "val": 8}, task=BASES[base]).items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    return load(tmp_path / "data", BASES[base])


def job_of(variant: Variant, dataset, folder, **further) -> ProxyJob:
    recipe = Recipe(epochs=2, imgsz=160, batch=8, init="scratch", lr0=2e-3, warmup_epochs=1.0)
    data, text = str(write_resolved(dataset, folder)), render(variant).yaml
    return ProxyJob(
        variant.name, text, variant.base, variant.scale, variant.swaps, data, dataset.fingerprint, recipe, 0, **further
    )


def test_a_swapped_variant_trains(base, worker, dataset, tmp_path):
    variant = parse_swaps(base, "n", ["neck.up_*=DySample", "backbone.down_p4=SPConv"])
    result = worker.run(job_of(variant, dataset, tmp_path))
    assert 0.9 < result.inherited[0] / result.inherited[1] < 1  # all but the swapped layers
    assert all(math.isfinite(score.train_loss) and score.train_loss > 0 for score in result.curve)
    assert result.average is not None
    assert math.isfinite(result.average.loss)


def test_the_score_is_the_hosts_own(base, worker, dataset, tmp_path):
    """Of weights that find something: those of the demo's detector have all but the parts of the head that it lacks."""
    from ultralytics import YOLO

    variant, saved = Variant(base, "n"), tmp_path / "named.pt"
    result = worker.run(job_of(variant, dataset, tmp_path, init=str(demo.WEIGHTS), save=str(saved)))
    shape = dict(dataset.further).get("kpt_shape")
    net = build(render(variant).yaml, "n", len(dataset.names), shape)
    net.load_state_dict(numbered_state(torch.load(saved, weights_only=True), load_base(base)))
    net.names = dict(enumerate(dataset.names))
    torch.save({"model": net, "ema": None, "epoch": -1, "train_args": {"task": BASES[base]}}, tmp_path / "whole.pt")
    model = YOLO(tmp_path / "whole.pt")
    found = model.val(
        data=str(write_resolved(dataset, tmp_path)), imgsz=160, batch=16, device="cpu", workers=0, plots=False,
        verbose=False, project=str(tmp_path), name="val",
    )  # fmt: skip
    last, (map50, mean) = result.curve[-1].validation, task_of_base(base).keys
    assert found.results_dict[mean] == pytest.approx(last.map, abs=2e-4)
    assert found.results_dict[map50] == pytest.approx(last.map50, abs=2e-4)
    assert found.box.map > 0.01


@pytest.fixture
def windows(base, dataset, tmp_path):
    """Return the validation windows of 96 px, of the whole images of 160 px."""
    job = job_of(Variant(base, "n"), dataset, tmp_path)
    with open_trainer(replace(job, recipe=replace(job.recipe, imgsz=96, windows_at=160)), 1) as trainer:
        trainer.set_up()
        yield trainer.test_loader.dataset


FINE = 8
"""Points of a pixel along each axis that masks are compared at: corners are not at whole pixels."""


def filled(outline, side: int) -> np.ndarray:
    size = FINE * side
    return cv2.fillPoly(np.zeros((size, size), np.uint8), [np.round(outline * size).astype(np.int32)], 1)


def test_windows_show_what_the_labels_of_the_image_say_there(base, windows):
    cut = 0
    for number, (image, (x, y, side)) in enumerate(windows.fixed):
        label, seen = windows.labels[image], windows.get_image_and_label(number)["instances"]
        kept = see(_corners(label, (160, 160)), (x, y, side), (160, 160))[1]
        assert len(seen) == kept.sum()
        if base == "yolov8-pose":
            for points, found in zip(label["keypoints"][kept], seen.keypoints, strict=True):
                there = points[:, :2] * 160 - (x, y)
                inside = ((there >= 0) & (there <= side)).all(1)
                assert np.allclose(found[inside, :2] * side, there[inside], atol=1e-3)
                assert (found[:, 2] == points[:, 2] * inside).all()
                cut += int((~inside).sum())
            continue
        outlines = [outline for outline, wanted in zip(label["segments"], kept, strict=True) if wanted]
        for outline, found in zip(outlines, seen.segments, strict=True):
            whole = filled(outline, 160)
            part = whole[FINE * y : FINE * (y + side), FINE * x : FINE * (x + side)]
            assert (filled(found, side) != part).sum() <= 0.03 * part.sum()
            cut += int(part.sum() < whole.sum())
    assert cut > 0


def test_a_proxy_on_windows_trains(base, worker, dataset, tmp_path):
    job = job_of(Variant(base, "n"), dataset, tmp_path, init=str(demo.WEIGHTS))
    result = worker.run(replace(job, recipe=replace(job.recipe, epochs=1, imgsz=96, windows_at=160)))
    assert math.isfinite(result.curve[-1].train_loss)
    assert math.isfinite(result.average.loss)
