"""Proxies of other bases: heads without non-maximum suppression, other losses, one size alone."""

from __future__ import annotations

import math

import pytest

from nas.data.dataset import load, write_resolved
from nas.model.render import render
from nas.space.bases import load_base
from nas.space.variant import parse_swaps
from nas.training.jobs import ProxyJob
from nas.training.recipe import Recipe
from nas.workers.process import ProxyWorker

RECIPE = Recipe(epochs=1, imgsz=64, batch=8, init="scratch", lr0=2e-3, warmup_epochs=1.0)


@pytest.fixture(scope="module")
def worker(own_cache):
    with ProxyWorker(own_cache) as made:
        yield made


@pytest.mark.parametrize("base", ["yolov5", "yolov9t", "yolov10n", "yolo11", "yolo26"])
def test_a_swapped_variant_trains(base, worker, tiny_data, tmp_path):
    dataset = load(tiny_data)
    scale = load_base(base).default_scale
    variant = parse_swaps(base, scale, ["neck.up_*=DySample", "backbone.down_p4=SPConv"])
    result = worker.run(
        ProxyJob(
            variant.name,
            render(variant).yaml,
            base,
            scale,
            variant.swaps,
            str(write_resolved(dataset, tmp_path)),
            dataset.fingerprint,
            RECIPE,
            0,
        )
    )
    assert 0.9 < result.inherited[0] / result.inherited[1] < 1  # all but the swapped layers
    assert math.isfinite(result.curve[0].train_loss)
    assert result.curve[0].train_loss > 0
    assert result.average is not None
    assert math.isfinite(result.average.loss)
