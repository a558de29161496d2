"""Emitted files, byte for byte; then models are trained, exported, reloaded and trained again by plain Ultralytics.

`NAS_REGENERATE=1 pytest tests/nas/model/test_golden.py` writes the expected files anew; read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import nas
from nas.emit.forms import DEFAULT, texts_of
from nas.emit.output import write_files
from nas.emit.selection import files_of_variant
from nas.space.variant import parse_swaps

GOLDEN = Path(__file__).parents[2] / "golden"
VARIANTS = {
    "baseline": [],
    "carafe": ["neck.up_*=CARAFE"],
    "carafe-args": ["neck.up_p4=CARAFE(k_up=3,c_mid=32)", "neck.up_p3=DySample(style=pl,dyscope=true)"],
    "dysample": ["neck.up_*=DySample"],
    "spconv": ["backbone.down_p[345]=SPConv", "neck.c2f_*=C2f_SPConv"],
    "dynamicconv": ["neck.down_*=DynamicConv", "backbone.c2f_p4=C2f_DynamicConv"],
    "dcnv4": ["backbone.down_p5=DCNv4", "neck.c2f_*=C2f_DCNv4"],
    "blocks": ["backbone.c2f_p2=C2f_SPConv", "backbone.c2f_p3=C2f_DynamicConv", "backbone.c2f_p5=C2f_DCNv4"],
    "all-five": ["neck.up_p4=CARAFE", "neck.up_p3=DySample", "backbone.down_p3=SPConv", "neck.down_n4=DynamicConv",
                 "neck.c2f_p3=C2f_DCNv4"],
}  # fmt: skip
TRAINED = ("baseline", "carafe-args", "dcnv4", "blocks", "all-five")
"""Every module of the others, and every way of stating arguments, is in one of these."""
OFFLINE = {"workers": 0, "plots": False, "verbose": False, "device": "cpu", "imgsz": 64, "batch": 8}


@pytest.fixture(scope="module", params=VARIANTS, ids=list(VARIANTS))
def emitted(request, tmp_path_factory):
    variant = parse_swaps("yolov8", "n", VARIANTS[request.param])
    files = files_of_variant(variant)
    folder = tmp_path_factory.mktemp("emitted")
    return request.param, files, write_files(texts_of(variant, files, DEFAULT), folder)


def test_bytes(emitted):
    label, _, paths = emitted
    for path, suffix in zip(paths[:2], ("yaml", "snippet.txt"), strict=True):
        golden = GOLDEN / f"{label}.{suffix}"
        if os.environ.get("NAS_REGENERATE"):
            golden.write_bytes(path.read_bytes())
        assert path.read_bytes() == golden.read_bytes(), f"{golden.name}: see the docstring if the change is meant"


@pytest.mark.parametrize("emitted", TRAINED, indirect=True)
def test_train_export_reload_and_train_again(emitted, tiny_data, tmp_path):
    from ultralytics import YOLO

    nas.register()
    _, _, paths = emitted
    model = YOLO(paths[0])
    model.train(data=str(tiny_data), epochs=1, project=str(tmp_path), name="first", **OFFLINE)
    weights = tmp_path / "first" / "weights" / "last.pt"

    loaded = YOLO(weights)
    image = torch.rand(1, 3, 64, 96)
    expected = loaded.model.float().eval()(image)[0]
    exported = loaded.export(format="onnx", imgsz=(64, 96), opset=17, simplify=False, verbose=False)
    import onnxruntime

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-3, atol=2e-2)  # boxes are in pixels

    again = YOLO(weights)
    again.train(data=str(tiny_data), epochs=1, project=str(tmp_path), name="second", **OFFLINE)
    trained = {type(m).__name__ for m in again.model.modules()}
    assert set(parse_swaps("yolov8", "n", VARIANTS[emitted[0]]).modules) <= trained


def test_those_that_train_have_every_module():
    modules = {label: set(parse_swaps("yolov8", "n", swaps).modules) for label, swaps in VARIANTS.items()}
    assert set().union(*(modules[label] for label in TRAINED)) == set().union(*modules.values())


def test_forward_at_other_sizes(emitted):
    from nas.model.host import build

    _, files, _ = emitted
    model = build(files.yaml, "n")
    for size in ((32, 32), (64, 160), (352, 96)):
        assert model(torch.rand(1, 3, *size))[0].shape[:2] == (1, 84)
