"""Proxies of classification: they train, alike each time, and their score is what the host's own validation says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nas.bank.jobs import Assembled, Candidate, DistilJob, ScoreJob
from nas.data import demo
from nas.data.dataset import load, write_resolved
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import numbered_state
from nas.space.bases import load_base
from nas.space.variant import Variant, parse_swaps
from nas.training.jobs import ProxyJob
from nas.training.recipe import Recipe
from nas.training.train import open_trainer
from nas.workers.process import ProxyWorker

BASE = "yolov8-cls"
STOCK = Variant(BASE, "n")


@pytest.fixture(scope="module")
def worker(own_cache):
    with ProxyWorker(own_cache) as made:
        yield made


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    for name, content in demo.generate({"train": 24, "val": 16}, task="classify").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return load(folder, "classify")


def job_of(variant: Variant, dataset, folder, epochs: int = 2, **further) -> ProxyJob:
    recipe = Recipe(epochs=epochs, imgsz=64, batch=8, init="scratch", lr0=2e-3, warmup_epochs=1.0)
    data, text = str(write_resolved(dataset, folder)), render(variant).yaml
    return ProxyJob(
        variant.name, text, variant.base, variant.scale, variant.swaps, data, dataset.fingerprint, recipe, 0, **further
    )


def test_a_swapped_variant_trains_alike_each_time(worker, dataset, tmp_path):
    job = job_of(parse_swaps(BASE, "n", ["backbone.down_p4=SPConv"]), dataset, tmp_path, init=str(demo.WEIGHTS))
    first, second = (worker.run(job) for _ in range(2))
    assert all(math.isfinite(score.train_loss) and score.train_loss > 0 for score in first.curve)
    assert [s.train_loss for s in first.curve] == [s.train_loss for s in second.curve]
    assert first.curve[-1].validation == second.curve[-1].validation
    assert 0.8 < first.inherited[0] / first.inherited[1] < 1


def test_its_score_is_the_hosts_own(worker, dataset, tmp_path):
    from ultralytics import YOLO

    saved = tmp_path / "named.pt"
    result = worker.run(job_of(STOCK, dataset, tmp_path, 4, init=str(demo.WEIGHTS), save=str(saved)))
    net = build(render(STOCK).yaml, "n", len(dataset.names))
    net.load_state_dict(numbered_state(torch.load(saved, weights_only=True), load_base(BASE)))
    net.names = dict(enumerate(dataset.names))
    torch.save({"model": net, "ema": None, "epoch": -1, "train_args": {"task": "classify"}}, tmp_path / "whole.pt")
    found = YOLO(tmp_path / "whole.pt").val(
        data=str(dataset.root), imgsz=64, batch=16, device="cpu", workers=0, plots=False, verbose=False,
        project=str(tmp_path), name="val",
    )  # fmt: skip
    last = result.curve[-1].validation
    assert found.top1 == pytest.approx(last.map, abs=1e-5)
    assert found.top5 == pytest.approx(last.map50, abs=1e-5)
    assert last.map > 1.5 / len(dataset.names)


def test_modules_keep_what_they_start_from(dataset, tmp_path):
    """The host resets layers where it is told that nothing is pretrained."""
    with open_trainer(job_of(STOCK, dataset, tmp_path), 1) as trainer:
        assert trainer.args.pretrained is True
        assert trainer.args.auto_augment
    job = job_of(STOCK, dataset, tmp_path)
    with open_trainer(replace(job, recipe=replace(job.recipe, mosaic=0.0)), 1) as trainer:
        assert not trainer.args.auto_augment
        assert trainer.args.erasing == 0


def test_a_bank_is_distilled_and_scored(worker, dataset, tmp_path):
    trained = tmp_path / "base.pt"
    worker.run(job_of(STOCK, dataset, tmp_path, 6, init=str(demo.WEIGHTS), save=str(trained)))
    proxy = job_of(STOCK, dataset, tmp_path, init=str(trained))
    proxy = replace(proxy, recipe=replace(proxy.recipe, bank_epochs=3))
    swap = ("backbone.c2f_p4", "C2f_SPConv")
    bank = worker.work(DistilJob(proxy, (Candidate(*swap),), str(tmp_path)), lambda _: None)
    (found,) = bank.candidates
    assert not found.failure
    assert found.error < found.start_error
    files = (str(tmp_path / found.file),)
    variants = (Assembled((), ()), Assembled((swap,), files), Assembled((swap,), ()))
    none, distilled, fresh = worker.work(ScoreJob(proxy, variants, 32), lambda _: None)
    assert none.total == 0
    assert 0 < distilled.total < fresh.total
