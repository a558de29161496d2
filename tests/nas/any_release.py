"""What has to work with every supported release of Ultralytics; `.ci/hosts` runs this file with several of them.

Its name keeps it out of the other tests: what it has in common with those is tested there in depth, with the release
that is installed.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import ultralytics
from click.testing import CliRunner
from ultralytics.utils.torch_utils import get_flops

import nas
from nas.cli import cli
from nas.data.dataset import load, write_resolved
from nas.data.demo import generate
from nas.emit.forms import FORMS
from nas.errors import NotANumber
from nas.model.cost import model_cost
from nas.model.host import build
from nas.model.render import render
from nas.ops import listing
from nas.space.bases import task_of_base
from nas.space.variant import Variant, parse_swaps
from nas.study.location import locate
from nas.study.study import Study
from nas.task.task import POSE
from nas.training.host_version import further_of, levels_of
from nas.training.jobs import ProxyJob
from nas.training.proxy_trainer import ProxyTrainer
from nas.training.recipe import Recipe
from nas.training.train import open_trainer, train

SPACE = """
slots:
  neck.c2f_p3: [keep, C2f_SPConv]
"""
SMALL = {"epochs": 1, "imgsz": 64, "batch": 8, "device": "cpu"}
RECIPE = Recipe(epochs=2, imgsz=64, batch=8, init="scratch", lr0=2e-3, warmup_epochs=1.0, warmup_bias_lr=0.1)


@pytest.fixture(scope="module")
def make_job(tiny_data, tmp_path_factory):
    dataset = load(tiny_data)
    data = write_resolved(dataset, tmp_path_factory.mktemp("resolved"))

    def make(recipe: Recipe = RECIPE, **changes) -> ProxyJob:
        variant = parse_swaps("yolov8", "n", ["neck.up_p3=DySample"])
        job = ProxyJob(
            variant.name, render(variant).yaml, "yolov8", "n", variant.swaps, str(data), dataset.fingerprint, recipe, 0
        )
        return replace(job, **changes)

    return make


def seen(result):
    """Return what of a result does not depend on the clock."""
    return [replace(score, seconds=0.0) for score in result.curve], result.average


def test_it_is_the_release_that_was_asked_for():
    asked = os.environ.get("NAS_TESTS_RELEASE", "newest")
    assert asked in ("newest", ultralytics.__version__)
    assert importlib.metadata.version("ultralytics") == ultralytics.__version__
    assert listing.absent() == {}, "from 8.3.0 on, every module has what it is made of"


@dataclass
class Steps:
    """What the steps of trainings took: names of the images, and the learning rates of the groups."""

    images: list[list[str]] = field(default_factory=list)
    rates: list[list[float]] = field(default_factory=list)


@pytest.fixture
def steps(monkeypatch) -> Steps:
    """Return what keeps the steps of trainings in this process."""
    kept = Steps()
    of_host = ProxyTrainer.preprocess_batch

    def preprocess_batch(trainer, batch):
        if trainer.model.training and not torch.is_inference_mode_enabled():
            kept.images.append([Path(file).name for file in batch["im_file"]])
            kept.rates.append([group["lr"] for group in trainer.optimizer.param_groups])
        return of_host(trainer, batch)

    monkeypatch.setattr(ProxyTrainer, "preprocess_batch", preprocess_batch)
    return kept


@pytest.mark.usefixtures("inside")
def test_a_proxy_trains_by_its_recipe_alone_and_resumes(make_job, steps, tmp_path):
    """Warm-up, order of the images and mosaic are what the newest release makes of the recipe and the seed."""
    whole = train(make_job(), 1, lambda _: None)
    bias, *others = sorted(zip(*steps.rates, strict=True), reverse=True)
    later = [2e-3 * (1 - 0.99 / 2)] * 2  # linear decay; of the second epoch, of two steps
    assert bias == pytest.approx([0.1, (0.1 + 2e-3) / 2, *later])
    for other in others:
        assert other == pytest.approx([0.0, 1e-3, *later])
    first = steps.images.copy()
    assert [sorted(first[i] + first[i + 1]) for i in (0, 2)] == [[f"{i:02d}.png" for i in range(16)]] * 2

    def stop(score):
        if score.epoch == 2:
            raise KeyboardInterrupt

    steps.images.clear()
    job = make_job(checkpoint=str(tmp_path / "kept"), checkpoint_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(job, 1, stop)
    assert steps.images == first[:4]
    resumed = train(job, 1, lambda _: None)
    assert resumed.resumed == 1
    assert steps.images[4:] == first[2:]
    assert seen(resumed) == seen(whole)

    steps.images.clear()
    train(make_job(replace(RECIPE, epochs=1), seed=1, average=False), 1, lambda _: None)
    assert steps.images != first[:2]


@pytest.mark.usefixtures("inside")
def test_bfloat16_and_a_loss_that_is_no_number(make_job, tmp_path):
    short, file = replace(RECIPE, epochs=1), tmp_path / "w.pt"
    jobs = make_job(replace(short, amp="bf16")), make_job(short, save=str(file))
    narrow, wide = (train(replace(job, average=False), 1, lambda _: None).curve[0].train_loss for job in jobs)
    assert narrow != wide
    assert narrow == pytest.approx(wide, rel=0.05)
    state = torch.load(file)
    state["backbone.stem_p1:conv.weight"].fill_(float("nan"))
    torch.save(state, file)
    with pytest.raises(NotANumber):
        train(make_job(short, init=str(file)), 1, lambda _: None)


@pytest.mark.usefixtures("inside")
def test_a_validation_without_a_right_box_scores_nothing(make_job):
    """Also after one that had some."""
    with open_trainer(make_job(), 1) as trainer:
        trainer.set_up()
        box = trainer.validator.metrics.box
        box.all_ap = box.p = box.r = np.full((1, 10), 0.5)
        assert box.map == 0.5
        assert trainer.validate_now().map < 0.01


@pytest.fixture(scope="module")
def searched(boxes_data, tmp_path_factory) -> Study:
    """Return a study of the baseline and of a swap that starts from a bank."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "space.yaml").write_text(SPACE)
    storage = f"sqlite:///{folder / 's.db'}"
    options = {"imgsz": 64, "batch": 8, "base-epochs": 12, "bank-epochs": 1, "epochs": 1, "trials": 2, "confirm": 0}
    asked = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = ["search", str(folder / "space.yaml"), "--study", "s", "--storage", storage, "--data", str(boxes_data)]
    done = CliRunner().invoke(cli, [*command, *asked])
    assert done.exit_code == 0, done.output
    return Study.load(locate("s", storage))


def test_a_search_with_a_bank(searched):
    trials = searched.trials()
    assert [t.status for t in trials] == ["done"] * 2
    assert {t.variant.describe() for t in trials} == {"baseline", "neck.c2f_p3=C2f_SPConv"}
    assert all(t.map > 0.02 for t in trials), [t.map for t in trials]
    assert searched.bank["teacher_map"] > 0.02
    assert searched.bank["failures"] == {}
    assert all(t.distillation is not None and t.distillation < 1 for t in trials if not t.variant.is_baseline)


def _absolute(data: Path, folder: Path) -> Path:
    (folder / "data.yaml").write_text(f"path: {data.parent}\n{data.read_text()}")
    return folder / "data.yaml"


def _settings(folder: Path, name: str) -> dict[str, object]:
    return {**SMALL, "workers": 0, "plots": False, "exist_ok": True, "project": str(folder), "name": name}


def test_every_form_is_emitted_and_trains(searched, tiny_data, tmp_path):
    forms, out, stock = ",".join(FORMS), tmp_path / "out", tmp_path / "yolov8n.pt"
    torch.save({"model": ultralytics.YOLO("yolov8n.yaml").model, "train_args": {}}, stock)
    swaps = ["--swap", "neck.up_p3=DySample", "--swap", "neck.c2f_p3=C2f_SPConv"]
    given = ["emit-yaml", *swaps, "--form", forms, "--weights", str(stock), "-o", str(out)]
    done = CliRunner().invoke(cli, given)
    assert done.exit_code == 0, done.output
    variant = parse_swaps("yolov8", "n", ["neck.up_p3=DySample", "neck.c2f_p3=C2f_SPConv"])
    name = variant.name
    kinds = {f"{name}{end}" for end in (".yaml", ".snippet.txt", ".train.py", "", ".patch", ".pt")}
    assert {file.name for file in out.iterdir()} >= kinds
    data = _absolute(tiny_data, tmp_path)

    # With this package: the model YAML from the emitted weights, and the checkpoint is read again.
    model = ultralytics.YOLO(out / f"{name}.yaml", task="detect").load(out / f"{name}.pt")
    model.train(data=str(data), trainer=nas.Trainer, **_settings(tmp_path, "yaml"))
    kinds = {type(m).__name__ for m in ultralytics.YOLO(tmp_path / "yaml" / "weights" / "last.pt").model.modules()}
    assert kinds >= {"DySample", "C2f_SPConv"}

    # Without it: the bundle. (The patch and the bundle have been built from when they were written.)
    away = tmp_path / "away"
    away.mkdir()
    (away / "nas.py").write_text("raise ImportError('this package is not there')")
    options = [text for key, value in SMALL.items() for text in (f"--{key}", str(value))]
    rest = ["workers=0", "plots=False", f"project={tmp_path}", "name=bundle"]
    command = [sys.executable, str(out / name / "train.py"), "--data", str(data), *options, *rest]
    environment = os.environ | {"PYTHONPATH": str(away)}
    trained = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert trained.returncode == 0, f"{trained.stdout[-1000:]}\n{trained.stderr[-3000:]}"
    assert (tmp_path / "bundle" / "weights" / "last.pt").exists()

    # The study's best, with its bytes.
    done = CliRunner().invoke(
        cli, ["emit-yaml", "--study", "s", "--storage", searched.location.url, "--best", "-o", str(tmp_path / "best")]
    )
    assert done.exit_code == 0, done.output


def test_costs_are_those_of_the_release_itself():
    variant = parse_swaps("yolov8", "n", [])
    cost = model_cost(build(render(variant).yaml, "n"))
    model = ultralytics.YOLO("yolov8n.yaml").model
    assert cost.params == sum(p.numel() for p in model.parameters())
    assert cost.gflops == pytest.approx(get_flops(model), rel=0.01)


@pytest.mark.parametrize("base", ["yolov8", "yolov8-seg", "yolov8-pose", "yolov8-obb"])
def test_what_the_heads_of_all_tasks_put_out(base):
    task = task_of_base(base)
    net = build(render(Variant(base, "n")).yaml, "n", 3, (5, 3) if task is POSE else None)
    net.model[-1].training = True
    with torch.no_grad():
        raw = net(torch.rand(2, 3, 64, 96))
    anchors = [(64 // stride) * (96 // stride) for stride in (8, 16, 32)]
    assert [tuple(boxes.shape) for boxes, _ in levels_of(raw, 3)] == [(2, 4, 16, n) for n in anchors]
    assert [tuple(classes.shape) for _, classes in levels_of(raw, 3)] == [(2, 3, n) for n in anchors]
    every = sum(anchors)
    expected = {
        "segment": {"mask_coefficient": (2, 32, every), "proto": (2, 32, 16, 24)},
        "pose": {"kpts": (2, 15, every)},
        "obb": {"angle": (2, 1, every)},
    }
    assert {name: tuple(part.shape) for name, part in further_of(raw, task).items()} == expected.get(task.name, {})


@pytest.mark.parametrize("base", ["yolov8-seg", "yolov8-pose", "yolov8-obb", "yolov8-cls"])
def test_a_proxy_of_another_task_trains(base, tmp_path):
    task = task_of_base(base).name
    for name, content in generate({"train": 8, "val": 4}, task=task).items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    dataset = load(tmp_path / "data", task)
    swap = "backbone.down_p4=SPConv" if base == "yolov8-cls" else "neck.up_p3=DySample"
    variant, data = parse_swaps(base, "n", [swap]), str(write_resolved(dataset, tmp_path))
    recipe = replace(RECIPE, epochs=1)
    text = render(variant).yaml
    job = ProxyJob(variant.name, text, base, "n", variant.swaps, data, dataset.fingerprint, recipe, 0)
    result = train(job, 1, lambda _: None)
    assert np.isfinite(result.curve[-1].train_loss)
    assert np.isfinite(result.average.loss)
