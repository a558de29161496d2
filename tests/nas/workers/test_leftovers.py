"""What jobs leave in their training process: nothing."""

from __future__ import annotations

import contextlib
import gc
from dataclasses import replace

import pytest
from ultralytics.data.build import InfiniteDataLoader
from ultralytics.nn.tasks import DetectionModel

from nas.data.dataset import load, write_resolved
from nas.model.render import render
from nas.space.variant import parse_swaps
from nas.training.jobs import ProxyJob
from nas.training.proxy_trainer import ProxyTrainer
from nas.training.recipe import Recipe
from nas.training.train import open_trainer
from nas.workers.worker import handle_job

pytestmark = pytest.mark.usefixtures("inside")
KINDS = (ProxyTrainer, DetectionModel, InfiniteDataLoader)


def alive() -> list[int]:
    """Count what a training keeps alive, without collecting it."""
    found = [type(o) for o in gc.get_objects()]
    return [sum(issubclass(kind, wanted) for kind in found) for wanted in KINDS]


@pytest.fixture(scope="module")
def job(tiny_data, tmp_path_factory):
    dataset = load(tiny_data)
    data = write_resolved(dataset, tmp_path_factory.mktemp("resolved"))
    variant = parse_swaps("yolov8", "n", ["neck.up_p4=CARAFE"])
    recipe = Recipe(epochs=0, imgsz=64, batch=8, init="scratch")
    yaml = render(variant).yaml
    made = ProxyJob(variant.name, yaml, "yolov8", "n", variant.swaps, str(data), dataset.fingerprint, recipe, 0)
    return replace(made, average=False)


def test_a_job_without_epochs_leaves_nothing(job):
    gc.collect()
    before = alive()
    for _ in range(2):
        kind, result = handle_job(job, 1, lambda _: None)
        assert kind == "done"
        assert result.curve[0].validation is not None
        assert alive() == before


def test_a_job_that_fails_leaves_nothing(job):
    def fail(_progress):
        raise ValueError("at the first epoch")

    gc.collect()
    before = alive()
    assert handle_job(job, 1, fail) == ("failed", ("error", "ValueError: at the first epoch"))
    assert alive() == before


def test_loaders_end_with_their_job(job):
    closed = []
    with contextlib.suppress(ValueError), open_trainer(job, 1) as trainer:
        trainer.set_up()
        for name in ("train_loader", "test_loader"):
            getattr(trainer, name).close = lambda name=name: closed.append(name)
        raise ValueError("at once")
    assert closed == ["train_loader", "test_loader"]
