"""Weights of the stock model go to a variant by layer name, and load in every way that a checkpoint is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import ultralytics
from click.testing import CliRunner
from inserted import channel_gate
from stock import tensor_count

from nas.cli import cli
from nas.emit.forms import texts_of
from nas.emit.output import write_files
from nas.emit.patch import apply_patch
from nas.emit.pretrained import pretrained_checkpoint, read_weights
from nas.errors import WeightsError
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import named_state, numbered_state
from nas.model.weights_file import read_checkpoint
from nas.space.bases import load_base
from nas.space.variant import Variant, parse_swaps

SWAPS = ["neck.up_p4=CARAFE", "neck.c2f_p4=C2f_DCNv4", "backbone.down_p5=SPConv"]
SMALL = ["--imgsz", "64", "--batch", "8", "--device", "cpu", "workers=0", "plots=False"]
GRAPH = load_base("yolov8")


def checkpoint(path, nc=80, scale="n", model=None):
    """Write what Ultralytics publishes: a model in half precision with class names; its norms have seen something."""
    torch.manual_seed(0)
    model = model or build(render(Variant("yolov8", scale)).yaml, scale, nc)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    model.names = {i: f"class {i}" for i in range(nc)}
    torch.save({"model": model.half(), "ema": None, "epoch": -1, "date": None, "train_args": {}}, path)
    return path


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("weights") / "yolov8n.pt")


def made(swaps, path):
    variant = parse_swaps("yolov8", "n", swaps)
    files = render(variant)
    return pretrained_checkpoint(variant, files, read_weights(path, GRAPH)), files


def loaded(result, path):
    """Return the checkpoint's model, by the host's own function."""
    from ultralytics import YOLO

    path.write_bytes(result.content)
    return YOLO(str(path)).model


def test_an_inserted_layer_keeps_every_tensor(stock, tmp_path):
    with channel_gate():
        result, _ = made(["after backbone.c2f_p3=ChannelGate"], stock)
        model = loaded(result, tmp_path / "a.pt")
        assert (result.kept, result.given, result.unmatched) == (tensor_count(), tensor_count(), ())
        assert result.fresh == ("backbone.c2f_p3+ChannelGate",)
        graph = parse_swaps("yolov8", "n", ["after backbone.c2f_p3=ChannelGate"]).graph()
    got = named_state(model.state_dict(), graph)
    for name, tensor in read_weights(stock, GRAPH).tensors.items():
        assert torch.equal(got[name], tensor), name
    assert len(got) == 357


def test_swapped_layers_begin_near_what_they_replace(stock):
    result, _ = made(SWAPS, stock)
    assert set(result.begun) == {swap.partition("=")[0] for swap in SWAPS}
    assert result.shared == result.fresh == ()
    assert result.kept + len(result.unmatched) == result.given == tensor_count()
    layers = {name.partition(":")[0] for name in result.unmatched}
    assert layers <= {"neck.c2f_p4", "backbone.down_p5"}  # an upsampling has no tensors that could be left over


def test_without_a_start_the_tensors_of_the_same_name_are_shared(stock, monkeypatch):
    from dataclasses import replace

    from nas.ops import registry

    for name in ("C2f_DCNv4", "CARAFE"):
        entry = replace(registry.get(name), start=None, starts="")
        monkeypatch.setitem(registry._ENTRIES, name, entry)
    result, _ = made(SWAPS, stock)
    assert result.begun == ("backbone.down_p5",)
    assert result.shared == ("neck.c2f_p4",)
    assert result.fresh == ("neck.up_p4",)


def test_a_yardstick_takes_the_channels_with_the_largest_weights(stock, tmp_path):
    given = read_weights(stock, GRAPH)
    result, files = made(["model=Width(0.2)"], stock)
    assert (result.fresh, result.shared, result.unmatched) == ((), (), ())
    assert "head.detect" in result.begun
    assert "neck.up_p4" not in result.begun
    path = tmp_path / result.name
    path.write_bytes(result.content)
    state = named_state(read_checkpoint(path).tensors, GRAPH)
    wide, narrow = (tensors["backbone.down_p2:bn.running_mean"] for tensors in (given.tensors, state))
    weight, norm, spread = (
        given.tensors[f"backbone.down_p2:{key}"] for key in ("conv.weight", "bn.weight", "bn.running_var")
    )
    size = weight.flatten(1).norm(dim=1) * norm / torch.sqrt(spread + 1e-3)
    assert torch.equal(narrow, wide[size.topk(len(narrow)).indices.sort().values])
    assert len(narrow) == 24 < len(wide)
    assert "[24, 3, 2]" in files.yaml


def test_the_same_again(stock):
    first, second = (made(SWAPS, stock)[0] for _ in range(2))
    assert first == second


def test_classes_are_those_of_the_weights(stock, tmp_path):
    few = checkpoint(tmp_path / "few.pt", nc=3)
    result, _ = made(SWAPS, few)
    assert (result.nc, result.other_nc) == (3, True)
    model = loaded(result, tmp_path / "b.pt")
    assert model.names == {0: "class 0", 1: "class 1", 2: "class 2"}
    assert model.yaml["nc"] == model.model[-1].nc == 3
    assert made(SWAPS, stock)[0].other_nc is False


@pytest.mark.parametrize("named", [False, True])
def test_tensors_alone_do(named, stock, tmp_path):
    tensors = read_weights(stock, GRAPH).tensors
    torch.save(dict(tensors) if named else numbered_state(tensors, GRAPH), tmp_path / "tensors.pt")
    again = read_weights(tmp_path / "tensors.pt", GRAPH)
    assert again.nc == 80
    assert set(again.tensors) == set(tensors)
    assert made(SWAPS, tmp_path / "tensors.pt")[0].kept == made(SWAPS, stock)[0].kept


def test_the_file_names_no_class_of_ours(stock, tmp_path):
    (tmp_path / "c.pt").write_bytes(made(SWAPS, stock)[0].content)
    with zipfile.ZipFile(tmp_path / "c.pt") as file:
        (pickle,) = [n for n in file.namelist() if n.endswith("data.pkl")]
        assert b"nas" not in file.read(pickle).replace(b"swapnas", b"")


def wrong_model(path):
    from ultralytics.nn.tasks import DetectionModel

    return checkpoint(path, model=DetectionModel("yolo11n.yaml", verbose=False))


def other_keys(path):
    torch.save({"model.stem.weight": torch.zeros(1)}, path)


def text(path):
    path.write_text("weights")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: None, "is no file; weights are never downloaded"),
        (lambda p: p.mkdir(), "is no file"),
        (text, "is no checkpoint that can be read"),
        (lambda p: p.write_bytes(b""), "is no checkpoint that can be read"),
        (lambda p: torch.save([1, 2], p), "holds no model"),
        (other_keys, "holds no detection model"),
        (wrong_model, r"has 24 layers \(yolo11n, scale n\), YOLOv8 has 23"),
        (lambda p: checkpoint(p, scale="s"), r"of another model or scale than yolov8n .*scale s\): \d+ of the 270"),
    ],
)
def test_files_that_do_not_do(write, words, tmp_path):
    write(tmp_path / "yolov8n.pt")
    with pytest.raises(WeightsError, match=words):
        made(SWAPS, tmp_path / "yolov8n.pt")


LOAD = """
import sys
{register}
import torch
from ultralytics import YOLO
yaml, weights = sys.argv[1:]
whole = YOLO(weights)
assert whole.names[0] == "class 0", whole.names
onto = YOLO(yaml).load(weights)
image = torch.rand(1, 3, 64, 64)
a, b = (m.model.float().eval()(image)[0] for m in (whole, onto))
assert torch.equal(a, b)
torch.save((image, a.detach()), "output.pt")
print([m for m in sys.modules if m == "nas"])
"""


@pytest.mark.parametrize("safe", ["0", "1"])
def test_in_a_process_that_imports_nas(safe, stock, tmp_path):
    result, files = made(SWAPS, stock)
    (tmp_path / f"{files.name}.yaml").write_text(files.yaml)
    (tmp_path / result.name).write_bytes(result.content)
    code = LOAD.format(register="import nas; nas.register()")
    environment = os.environ | {"ULTRALYTICS_SAFE_LOAD": safe}
    command = [sys.executable, "-c", code, f"{files.name}.yaml", result.name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    image, expected = torch.load(tmp_path / "output.pt")
    model = build(files.yaml, "n")
    model.load_state_dict(loaded(result, tmp_path / "again.pt").state_dict())
    assert torch.equal(model(image)[0], expected)


def test_a_bundle_trains_from_it_without_nas(stock, tiny_data, tmp_path):
    runner = CliRunner()
    arguments = [part for swap in SWAPS for part in ("--swap", swap)]
    command = ["emit-yaml", *arguments, "--weights", str(stock), "--form", "bundle", "-o", str(tmp_path)]
    done = runner.invoke(cli, [*command, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    folder, name = tmp_path / said["name"], said["name"]
    assert said["weights"][0]["kept"] + len(said["weights"][0]["unmatched"]) == tensor_count()
    assert f"--weights {name}.pt" in (folder / "README.md").read_text()
    again = runner.invoke(cli, command)
    assert again.exit_code == 0, again.output  # the same bytes: nothing differs
    assert f"{name}.pt keeps " in again.output
    assert "start near the layer that they replace: backbone.down_p5, neck.up_p4, neck.c2f_p4" in again.output

    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "nas.py").write_text("raise ImportError('this package is not there')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "away")}

    def run(*command):
        command = [sys.executable, *map(str, command)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    register = f"import {name.replace('-', '_')}_modules"
    assert run("-c", LOAD.format(register=register), f"{name}.yaml", f"{name}.pt").strip() == "[]"
    further = [*SMALL, f"project={tmp_path}", "name=run"]
    run("train.py", "--data", tiny_data, "--epochs", "1", "--weights", f"{name}.pt", *further)
    assert (tmp_path / "run" / "weights" / "last.pt").exists()


def test_in_a_patched_tree(stock, tmp_path):
    result, files = made(SWAPS, stock)
    shutil.copytree(
        Path(ultralytics.__file__).parent, tmp_path / "ultralytics", ignore=shutil.ignore_patterns("__pycache__")
    )
    apply_patch(parse_swaps("yolov8", "n", SWAPS), files, tmp_path)
    (tmp_path / f"{files.name}.yaml").write_text(files.yaml)
    (tmp_path / result.name).write_bytes(result.content)
    code = LOAD.format(register=f"sys.path.insert(0, {str(tmp_path)!r})")
    command = [sys.executable, "-c", code, f"{files.name}.yaml", result.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"


def test_written_beside_the_other_forms(stock, tmp_path):
    result, files = made(SWAPS, stock)
    variant = parse_swaps("yolov8", "n", SWAPS)
    texts = texts_of(variant, files, ["yaml"], weights=result)
    write_files(texts, tmp_path)
    assert (tmp_path / f"{files.name}.pt").read_bytes() == result.content
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".pt", ".yaml"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--scale", "n,s"], "--weights are those of one scale"),
        (["--form", "patch", "--apply", "."], "--weights goes with forms that are written"),
        (["--scale", "s"], "is of another model or scale than yolov8s"),
    ],
)
def test_wrong_use(more, words, stock, tmp_path):
    swap = ["emit-yaml", "--swap", SWAPS[0], "--weights", str(stock), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*swap, *more])
    assert done.exit_code in (1, 2)
    assert words in done.output
    assert not (tmp_path / "out").exists()


def test_a_narrow_layer_begins_near_and_its_readers_follow(stock, tmp_path):
    result, _ = made(["backbone.down_p4=Narrow(0.75)", "neck.c2f_p3=Conv"], stock)
    assert set(result.begun) == {"backbone.down_p4", "neck.c2f_p3"}
    layers = {name.partition(":")[0] for name in result.unmatched}
    assert layers == {"backbone.down_p4", "backbone.c2f_p4", "neck.c2f_p3"}
    assert {n for n in result.unmatched if "c2f_p4" in n} == {
        "backbone.c2f_p4:cv1.conv.weight",
        "backbone.c2f_p4:cv1.bn.running_mean",
    }
    model = loaded(result, tmp_path / "narrow.pt")
    assert model.model[5].conv.out_channels == model.model[6].cv1.conv.in_channels == 96
