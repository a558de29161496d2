"""A bundle trains, resumes, exports and reloads where this package is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from nas.emit.bundle import bundle_files, module_name, verify_bundle
from nas.emit.forms import texts_of
from nas.emit.output import write_files
from nas.errors import OutputError
from nas.model.render import render
from nas.space.variant import Variant, make_variant, parse_swaps

VARIANT = parse_swaps("yolov8", "n", ["neck.up_p4=CARAFE", "neck.c2f_p4=C2f_DCNv4", "backbone.down_p4=SPConv"])
SMALL = ["--imgsz", "64", "--batch", "8", "--device", "cpu", "workers=0", "plots=False"]


@pytest.fixture(scope="module")
def files():
    return render(VARIANT)


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    paths = write_files(texts_of(VARIANT, files, ["bundle"]), out)
    assert [p.name for p in paths] == [
        f"{files.name}.yaml",
        f"{module_name(files)}.py",
        "train.py",
        "requirements.txt",
        "README.md",
    ]
    return out / files.name


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that runs Python where importing this package is an error."""
    away = tmp_path_factory.mktemp("away")
    (away / "nas.py").write_text("raise ImportError('this package is not there')")

    def start(*arguments, cwd, path=()):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [away, *path]))}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            timeout=300,
        )
        return done.returncode, done.stdout, done.stderr

    return start


@pytest.fixture(scope="module")
def trained(folder, run, tiny_data, tmp_path_factory):
    """Return the checkpoint of one epoch."""
    runs = tmp_path_factory.mktemp("runs")
    code, _, said = run(
        "train.py", "--data", tiny_data, "--epochs", "2", *SMALL, f"project={runs}", "name=a", cwd=folder
    )
    assert code == 0, said[-2000:]
    return runs / "a" / "weights" / "last.pt"


def test_the_model_is_the_searched_one(files, folder):
    assert (folder / f"{files.name}.yaml").read_text() == files.yaml


def test_a_checkpoint_loads_trains_and_predicts_elsewhere(trained, folder, run, tiny_data, tmp_path):
    """In a process that can import the module file, and has imported nothing yet."""
    code = f"""
import sys, torch
from ultralytics import YOLO
model = YOLO({str(trained)!r})
image = torch.rand(1, 3, 64, 64)
kinds = {{type(m).__name__ for m in model.model.modules()}}
assert {{"CARAFE", "C2f_DCNv4", "SPConv"}} <= kinds, kinds
model.predict(image, verbose=False)
model.train(data={str(tiny_data)!r}, epochs=1, imgsz=64, batch=8, device="cpu", workers=0, plots=False,
            project={str(tmp_path)!r}, name="again")
print(sorted(m for m in sys.modules if m.split(".")[0] == "nas"))
"""
    status, out, said = run("-c", code, cwd=tmp_path, path=[folder])
    assert status == 0, said[-2000:]
    assert out.strip().endswith("[]")
    assert (tmp_path / "again" / "weights" / "last.pt").exists()


def test_validates_and_exports(trained, folder, run, tiny_data):
    status, _, said = run("train.py", "--val", trained, "--data", tiny_data, *SMALL, cwd=folder)
    assert status == 0, said[-2000:]
    status, out, said = run("train.py", "--export", trained, "--imgsz", "64", "format=onnx", "opset=17", cwd=folder)
    assert status == 0, said[-2000:]
    assert out.strip().endswith("last.onnx")
    code = f"""
import numpy, onnxruntime, torch
from ultralytics import YOLO
image = torch.rand(1, 3, 64, 64)
expected = YOLO({str(trained)!r}).model.float().fuse().eval()(image)[0].detach().numpy()
session = onnxruntime.InferenceSession({str(trained.with_suffix(".onnx"))!r}, providers=["CPUExecutionProvider"])
(result,) = session.run(None, {{session.get_inputs()[0].name: image.numpy()}})
numpy.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-2)
"""
    status, _, said = run("-c", code, cwd=folder)
    assert status == 0, said[-2000:]


def test_wrong_use_of_the_script(folder, run):
    """Each as a process of its own would see it, in one that has the imports behind it."""
    wrong = [
        ([], "--data is needed"),
        (["--data", "d.yaml", "lr0"], "'lr0': expected key=value"),
        (["--resume", "no.pt"], "no.pt is no file"),
        (["--val", "no.pt", "--data", "d.yaml"], "no.pt is no file"),
    ]
    code = f"""
import contextlib, io, json, runpy, sys
said = []
for arguments in {[arguments for arguments, _ in wrong]!r}:
    sys.argv = ["train.py", *arguments]
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            runpy.run_path("train.py", run_name="__main__")
        except SystemExit as end:
            said.append((end.code, stderr.getvalue()))
print(json.dumps(said))
"""
    status, out, said = run("-c", code, cwd=folder)
    assert status == 0, said[-2000:]
    for (arguments, words), (code, message) in zip(wrong, json.loads(out), strict=True):
        assert code == 2, arguments
        assert words in message


def test_the_stock_model_needs_none():
    variant = Variant("yolov8", "n")
    with pytest.raises(OutputError, match="is the stock model: it needs no bundle; --form yaml writes its model YAML"):
        bundle_files(variant, render(variant))


def test_modules_of_ultralytics_need_none():
    variant = make_variant("yolov8", "n", {"neck.down_n4": "SCDown"})
    with pytest.raises(OutputError, match="is made of Ultralytics' own modules: it needs no bundle"):
        bundle_files(variant, render(variant))
    assert "Ultralytics' own modules: it needs no registration" in render(variant).snippet
    mixed = make_variant("yolov8", "n", {"neck.down_n4": "SCDown", "neck.down_n5": "HWD"})
    (text,) = (text for name, text in bundle_files(mixed, render(mixed)).items() if name.endswith("_modules.py"))
    assert "class HWD(" in text
    assert "import SCDown" not in text
    assert 'for name, module in {"HWD": HWD}.items()' in text
    assert "SCDown" not in render(mixed).snippet


def test_a_bundle_that_does_not_build_is_not_handed_over(files):
    texts = bundle_files(VARIANT, files)
    name = f"{module_name(files)}.py"
    with pytest.raises(OutputError, match=r"cannot be built by itself: .*CARAFE"):
        verify_bundle(texts | {name: texts[name].replace("class CARAFE(", "class Carafe(")}, files, "detect")


def test_an_ultralytics_without_the_place_is_named(files, run, folder, tmp_path):
    (tmp_path / "other.py").write_text("def parse_model(d, ch, verbose=True):\n    return None\n")
    replace = "from ultralytics.nn import tasks; import other; tasks.parse_model = other.parse_model"
    code = f"{replace}; import {module_name(files)}"
    status, _, said = run("-c", code, cwd=folder, path=[tmp_path])
    assert status == 1
    assert "'elif m is Concat:' stands 0 times in parse_model, not once" in said
