"""Variants of every task: emitted, built by what is emitted, reloaded, fused and exported as a detector's are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

import nas
from nas.data.demo import generate
from nas.emit.bundle import bundle_files, verify_bundle
from nas.emit.forms import Emission, texts_of
from nas.emit.output import write_files
from nas.emit.patch import patch_form
from nas.emit.pretrained import pretrained_checkpoint, read_weights
from nas.model.host import build
from nas.model.render import render
from nas.model.trainer import TRAINERS
from nas.model.transfer import named_state
from nas.space.bases import load_base, task_of_base
from nas.space.import_yaml import variant_of_yaml
from nas.space.model_yaml import parse_model_yaml
from nas.space.variant import Variant, parse_swaps
from nas.task.task import TASKS

GOLDEN = Path(__file__).parents[2] / "golden"
SWAPS = {
    "yolov8-seg": ["neck.up_*=CARAFE", "neck.c2f_p3=C2f_SPConv"],
    "yolov8-pose": ["neck.up_p4=DySample", "backbone.down_p5=SPConv"],
    "yolov8-obb": ["neck.up_*=DySample", "neck.down_n4=DynamicConv"],
    "yolov8-cls": ["backbone.c2f_p4=C2f_SPConv", "backbone.down_p4=SPConv"],
    "yolov8-rtdetr": ["neck.up_*=DySample", "neck.c2f_p3=C2f_SPConv"],
}


@pytest.fixture(params=SWAPS)
def variant(request) -> Variant:
    return parse_swaps(request.param, "n", SWAPS[request.param])


def test_the_bytes_of_the_model_yaml(variant):
    golden, text = GOLDEN / f"{variant.base}.yaml", render(variant).yaml
    if os.environ.get("NAS_REGENERATE"):
        golden.write_text(text, encoding="utf-8", newline="\n")
    assert text == golden.read_text(encoding="utf-8")


def test_it_comes_back_by_import(variant):
    files = render(variant)
    found = variant_of_yaml(parse_model_yaml(files.yaml, f"{files.name}.yaml"))
    assert (found.variant, found.left_out) == (variant, ())


def test_scripts_train_with_the_trainer_of_the_task(variant):
    task, files = task_of_base(variant.base), render(variant)
    assert f'YOLO(MODEL, task="{task.host_name}")' in files.train
    assert f"trainer=nas.{task.trainer}," in files.train
    assert getattr(nas, task.trainer) is TRAINERS[task.name]
    parts = bundle_files(variant, files)
    module, name = task.host_trainer
    assert any(f"from {module} import {name}" in text and f"class Trainer({name})" in text for text in parts.values())
    verify_bundle(parts, files, task.host_name)


def test_a_patched_copy_of_ultralytics_builds_it(variant):
    assert patch_form(Emission(variant, render(variant)))


def test_trainers_are_the_hosts_own():
    from importlib import import_module

    for task in TASKS.values():
        module, name = task.host_trainer
        assert issubclass(TRAINERS[task.name], getattr(import_module(module), name))


def test_a_checkpoint_reloads_fuses_and_exports(variant, tmp_path):
    import onnxruntime
    from ultralytics import YOLO

    stock = build(render(Variant(variant.base, variant.scale)).yaml, variant.scale, 3)
    stock.names = dict(enumerate("abc"))
    torch.save({"model": stock.half(), "ema": None, "epoch": -1, "train_args": {}}, tmp_path / "stock.pt")
    made = pretrained_checkpoint(variant, render(variant), read_weights(tmp_path / "stock.pt", load_base(variant.base)))
    (tmp_path / made.name).write_bytes(made.content)
    loaded = YOLO(str(tmp_path / made.name))
    assert loaded.task == task_of_base(variant.base).host_name
    assert loaded.names == {0: "a", 1: "b", 2: "c"}
    if not task_of_base(variant.base).has_proxies:  # the order of RT-DETR's queries, untrained, depends on rounding
        loaded.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)
        return
    image = torch.rand(1, 3, 64, 64)
    net = loaded.model.float().eval()
    with torch.no_grad():
        expected = [part.clone() for part in tree_leaves(net(image))]
        exported = loaded.export(format="onnx", imgsz=64, opset=17, simplify=False, verbose=False)
        fused = tree_leaves(net.fuse(verbose=False)(image))
    assert torch.allclose(fused[0], expected[0], atol=2e-2, rtol=1e-3)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    np.testing.assert_allclose(got[0], expected[0].numpy(), rtol=1e-3, atol=2e-2)  # boxes are in pixels
    loaded.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)


@pytest.mark.parametrize("base", ["yolov8-pose", "yolo26-pose"])
@pytest.mark.parametrize("form", ["checkpoint", "tensors"])
def test_key_points_of_the_weights_stay(base, form, tmp_path):
    from ultralytics import YOLO

    graph = load_base(base)
    variant = parse_swaps(base, graph.default_scale, ["backbone.down_p5=SPConv"])
    stock = build(render(Variant(base, variant.scale)).yaml, variant.scale, 3, (5, 3))
    whole = {"model": stock, "ema": None, "epoch": -1, "train_args": {"task": "pose"}}
    torch.save(whole if form == "checkpoint" else named_state(stock.state_dict(), graph), tmp_path / "stock.pt")
    given = read_weights(tmp_path / "stock.pt", graph)
    assert (given.nc, given.kpt_shape) == (3, (5, 3))
    made = pretrained_checkpoint(variant, render(variant), given)
    assert {name.partition(":")[0] for name in made.unmatched} == {"backbone.down_p5"}
    (tmp_path / made.name).write_bytes(made.content)
    loaded = YOLO(str(tmp_path / made.name)).model
    assert list(loaded.yaml["kpt_shape"]) == [5, 3]
    head = graph.names[-1]
    own = named_state(loaded.state_dict(), variant.graph())
    assert all(torch.equal(own[name], given.tensors[name]) for name in own if name.startswith(f"{head}:"))


@pytest.mark.slow
@pytest.mark.parametrize("base", ["yolov8-seg", "yolov8-pose", "yolov8-obb", "yolov8-cls", "yolov8-rtdetr"])
@pytest.mark.parametrize("form", ["plugin", "bundle"])
def test_its_scripts_train(base, form, tmp_path):
    """A bundle does where this package is not."""
    variant, task = parse_swaps(base, "n", SWAPS[base]), task_of_base(base)
    files = render(variant)
    write_files(texts_of(variant, files, ["yaml", form]), tmp_path / "out")
    for name, content in generate({"train": 8, "val": 4}, task=task.name if task.has_proxies else "detect").items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "nas.py").write_text("raise ImportError('this package is not there')")
    scripts = {"plugin": f"{files.name}.train.py", "bundle": f"{files.name}/train.py"}
    data = tmp_path / "data" / ("data.yaml" if task.has_objects else "")
    options = ["--epochs", "1", "--imgsz", "64", "--batch", "4", "--device", "cpu", "workers=0", "plots=False"]
    done = subprocess.run(
        [
            sys.executable, tmp_path / "out" / scripts[form], "--data", data, *options,
            f"project={tmp_path / 'runs'}", "name=a",
        ],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "away") if form == "bundle" else "", "YOLO_OFFLINE": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = (tmp_path / "runs" / "a" / "results.csv").read_text(encoding="utf-8")
    assert all(key in results.splitlines()[0] for key in task.keys)
    assert (tmp_path / "runs" / "a" / "weights" / "best.pt").exists()
