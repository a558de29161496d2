"""A folder for another machine, and what comes back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nas.engines import ENGINES, Conditions
from nas.engines.folder import model_subject
from nas.engines.remote import export_folder, read_results
from nas.errors import OptionError, OutputError, TableError

YAML = """
nc: 2
scales: {n: [1.0, 1.0, 1024]}
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[1], 1, Detect, [nc]]
"""
QUICK = Conditions(imgsz=64, rounds=2, pause_s=0.0)
ENGINE = ENGINES["onnxruntime"]


def subject(name: str = "one", yaml: str = YAML):
    return model_subject(name, yaml, "n", QUICK)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return the results of a folder that was run where there is no `nas`."""
    folder = tmp_path_factory.mktemp("board") / "out"
    export_folder(folder, ENGINE, [subject(), subject("two", YAML.replace("16, 3", "24, 3"))], QUICK, quiet)
    subprocess.run([sys.executable, "run.py"], cwd=folder, check=True, capture_output=True)
    return folder / "latencies.json"


def test_there_and_back(measured):
    renamed = [subject("mine"), subject("other", YAML.replace("16, 3", "24, 3"))]
    found = read_results(measured, renamed)
    assert found.engine == "onnxruntime"
    assert found.conditions.imgsz == 64
    assert [model.name for model in found.models] == ["one", "two"]
    for model in found.models:
        assert not model.failure
        assert model.scores < 1e-4
        assert model.ms > 0
    assert "1 thread, ONNX Runtime" in found.on


def test_latencies_of_another_model(measured):
    with pytest.raises(TableError, match=r"latencies of other models: 'two'; here are mine\. A model is known by"):
        read_results(measured, [subject("mine")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body.pop("machine"), "lacks the entry 'machine'"),
        (lambda body: body.update(format=99), "of another version: format 99"),
        (lambda body: body.update(engine="abacus"), "engine 'abacus'"),
        (lambda body: body["models"][0].update(ms="fast"), "ms is 'fast'"),
        (lambda body: body["models"][1].update(ms=None), "no time of 'two'"),
        (lambda body: body["models"][1].update(ms=-1.0), "no time of 'two'"),
        (lambda body: body["models"][1].update(ratio=float("inf")), "no time of 'two'"),
    ],
)
def test_results_that_cannot_be_read(measured, tmp_path, change, message):
    body = json.loads(measured.read_text())
    change(body)
    file = tmp_path / "latencies.json"
    file.write_text(json.dumps(body))
    with pytest.raises(TableError, match=message):
        read_results(file, [subject(), subject("two", YAML.replace("16, 3", "24, 3"))])


def test_what_is_no_file_of_results(tmp_path):
    (tmp_path / "x.json").write_text("[1")
    for name in ("x.json", "none.json"):
        with pytest.raises(TableError, match=r"expected the latencies\.json that run\.py writes"):
            read_results(tmp_path / name, [subject()])


def test_a_folder_in_use_is_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(OutputError, match="exists and is not empty"):
        export_folder(tmp_path, ENGINE, [subject()], QUICK, quiet)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_pytorch_has_nothing_to_export(tmp_path):
    with pytest.raises(OptionError, match="has no file to export; onnxruntime, openvino, ncnn have"):
        export_folder(tmp_path / "out", ENGINES["pytorch"], [subject()], QUICK, quiet)


def test_nothing_that_can_be_exported(tmp_path):
    broken = subject("broken", YAML.replace("Detect", "Nothing"))
    with pytest.raises(OptionError, match=r"no model can be exported:\n  broken: .*Nothing"):
        export_folder(tmp_path / "out", ENGINE, [broken], QUICK, quiet)
    assert not (tmp_path / "out").exists()
