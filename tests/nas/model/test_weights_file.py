"""Tensors of a .pt file: no code of it runs, and they are those that loading it would give."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import zipfile

import pytest
import torch
from ultralytics import YOLO

from nas.emit.pretrained import read_weights
from nas.errors import WeightsError
from nas.model.host import build
from nas.model.render import render
from nas.model.weights_file import read_checkpoint, read_model, read_state, weights_problem
from nas.space.bases import load_base
from nas.space.variant import Variant


class Evil:
    """Pickles as a call."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = build(render(Variant("yolov8", "n")).yaml, "n", 3)
    made.names = {0: "a", 1: "b", 2: "c"}
    return made


def test_the_tensors_are_those_of_ultralytics(model, tmp_path):
    path = tmp_path / "yolov8n.pt"
    torch.save({"model": model.half(), "ema": None, "train_args": {"x": 1}, "date": "d"}, path)
    found, expected = read_checkpoint(path), YOLO(str(path)).model.float().state_dict()
    assert list(found.tensors) == list(expected)
    assert all(torch.equal(found.tensors[key], value) for key, value in expected.items())
    assert (found.layers, found.layer_count, found.names) == (23, 23, {0: "a", 1: "b", 2: "c"})
    assert found.is_numbered
    assert "scale n" in found.origin


def test_a_model_is_made_again_from_its_checkpoint(model, tmp_path):
    torch.save({"model": model}, tmp_path / "a.pt")
    text, scale, tensors = read_model(tmp_path / "a.pt")
    again = build(text, scale)
    again.load_state_dict(dict(tensors))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x)[0], model.float()(x)[0])


def test_a_model_that_a_checkpoint_does_not_describe(model, tmp_path):
    """Tensors alone, or a YAML with what is no plain data."""
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(model)
    other.yaml["backbone"][0] = Evil(tmp_path / "made")
    torch.save({"model": other}, tmp_path / "evil.pt")
    for name in ("state.pt", "evil.pt"):
        with pytest.raises(WeightsError, match="has no model YAML"):
            read_model(tmp_path / name)
    assert not (tmp_path / "made").exists()


def test_the_averaged_model_comes_first(model, tmp_path):
    other = torch.nn.Linear(2, 2)
    torch.save({"model": model, "ema": other}, tmp_path / "a.pt")
    assert set(read_checkpoint(tmp_path / "a.pt").tensors) == {"weight", "bias"}


def test_buffers_that_are_not_kept_are_left_out(tmp_path):
    module = torch.nn.Linear(1, 1)
    module.register_buffer("passing", torch.zeros(3), persistent=False)
    module.register_buffer("kept", torch.ones(3, dtype=torch.int64))
    torch.save({"model": torch.nn.Sequential(module)}, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    assert set(found.tensors) == {"0.weight", "0.bias", "0.kept"}
    assert found.tensors["0.kept"].dtype == torch.int64


def test_tensors_alone(tmp_path):
    torch.save({"a": torch.ones(2, dtype=torch.float16), "b": "text"}, tmp_path / "a.pt")
    (key, value), *more = read_checkpoint(tmp_path / "a.pt").tensors.items()
    assert (key, value.dtype, more) == ("a", torch.float32, [])


@pytest.mark.parametrize(
    "around",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": state, "ema": None},
        lambda state: {"model_state_dict": state, "arguments": argparse.Namespace(lr=1)},
    ],
)
def test_a_state_dict_is_weights_wherever_weights_are_asked_for(around, model, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(around(model.state_dict()), path)
    assert weights_problem(str(path), "yolov8", "n") == ""
    assert (
        len(read_state(str(path), "yolov8"))
        == len(model.state_dict())
        == len(read_weights(path, load_base("yolov8")).tensors)
    )


def test_a_file_without_tensors(tmp_path):
    for content in ({"epoch": 3}, [1, 2], {"arguments": argparse.Namespace(lr=1)}):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(WeightsError, match="holds no model: expected"):
            read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("where", ["model", "beside", "inside"])
def test_no_code_of_a_file_runs(where, model, tmp_path):
    ran = tmp_path / "RAN"
    module = torch.nn.Linear(1, 1)
    content = {"model": module, "ema": None}
    if where == "inside":
        module.extra = Evil(ran)
    else:
        content[where] = Evil(ran)
    torch.save(content, tmp_path / "a.pt")
    expected = set() if where == "model" else {"weight", "bias"}
    assert set(read_checkpoint(tmp_path / "a.pt").tensors) == expected
    assert not ran.exists()


def test_a_plain_pickle_is_not_read(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Evil(tmp_path / "RAN")))
    with pytest.raises(WeightsError, match=r"no file that torch\.save wrote"):
        read_checkpoint(tmp_path / "a.pt")
    torch.save({"m": Evil(tmp_path / "RAN")}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"no file that torch\.save wrote"):
        read_checkpoint(tmp_path / "old.pt")
    assert not (tmp_path / "RAN").exists()


def test_damaged_and_foreign_files(model, tmp_path):
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for name, content in (("cut.pt", whole[:-40]), ("text.pt", b"weights"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match="is no checkpoint that can be read"):
            read_checkpoint(tmp_path / name)
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "script.pt")
    with pytest.raises(WeightsError, match="TorchScript archive"):
        read_checkpoint(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_checkpoint(tmp_path / "zip.pt")
    with pytest.raises(WeightsError, match="never downloaded"):
        read_checkpoint(tmp_path / "none.pt")


def test_a_class_that_is_not_installed_is_no_hindrance(tmp_path):
    """As in a fork's checkpoint."""
    namespace = {}
    exec("from torch import nn\nclass OfAFork(nn.Linear): pass", namespace)
    cls = namespace["OfAFork"]
    cls.__module__ = "fork_that_is_gone"
    import sys
    import types

    sys.modules["fork_that_is_gone"] = types.ModuleType("fork_that_is_gone")
    sys.modules["fork_that_is_gone"].OfAFork = cls
    torch.save({"model": cls(1, 1)}, tmp_path / "a.pt")
    del sys.modules["fork_that_is_gone"]
    assert set(read_checkpoint(tmp_path / "a.pt").tensors) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("yolo11n.yaml", "has 24 layers, yolov8 has 23: it is of another model or task"),
        ("yolov8s.yaml", "of the 355 tensors of yolov8n: it is of another model or scale"),
        ("yolov8n-seg.yaml", "it is of another task: its head has layers that a detector has not"),
        ("yolov8n-pose.yaml", "it is of another task: its head has layers that a detector has not"),
    ],
)
def test_another_family_scale_or_task_is_named_with_what_would_do(model, problem, tmp_path):
    torch.save({"model": YOLO(model).model, "ema": None}, tmp_path / "x.pt")
    found = weights_problem(str(tmp_path / "x.pt"), "yolov8", "n")
    assert problem in found
    assert found.endswith("that was trained for detection")


def test_weights_that_only_code_could_make_are_named_so(tmp_path):
    class Made:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": Made()}, tmp_path / "x.pt")
    assert weights_problem(str(tmp_path / "x.pt"), "yolov8", "n") == (
        "it holds no tensor that can be read without running its code; give a .pt of yolov8n that was trained for "
        "detection, or its state_dict alone"
    )
    assert not (tmp_path / "ran").exists()
