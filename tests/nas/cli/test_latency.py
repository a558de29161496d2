"""`nas latency`: models and studies, a table and JSON, and what cannot be measured."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import nas.report.cost_table
from nas.cli import cli
from nas.engines.measure import EngineLatency
from nas.model.host import build
from nas.model.latency import model_digest
from nas.model.render import render
from nas.model.weights_file import read_model
from nas.study.study import Study

YAML = """
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[1], 1, Detect, [nc]]
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.yaml").write_text(YAML)
    (tmp_path / "two.yaml").write_text(YAML.replace("16, 3", "24, 3"))
    return tmp_path


@pytest.fixture
def made_up(monkeypatch):
    """Answer in place of measuring: every model takes 2 ms but the second, which fails."""
    seen = []

    def answer(engine, subjects, conditions, note):
        seen.append((engine.name, [s.name for s in subjects], conditions))
        times = {"ms": 2.0, "spread_ms": 0.25, "runs": 9, "ratio": 1.0, "ratio_low": 0.9, "ratio_high": 1.1}
        found = [EngineLatency(s.name, s.digest, boxes=1e-5, scores=2e-6, **times) for s in subjects]
        found[1:2] = [EngineLatency(s.name, s.digest, "NCNN does not support X: no") for s in subjects[1:2]]
        return found

    monkeypatch.setattr(nas.report.cost_table, "measure_models", answer)
    return seen


def run(*words: str):
    return CliRunner().invoke(cli, ["latency", *words], terminal_width=200)


def test_a_table(models, made_up):
    done = run("one.yaml", "two.yaml", "--engine", "onnxruntime,pytorch", "--imgsz", "64", "--threads", "2")
    assert done.exit_code == 0, done.output
    assert [(name, subjects) for name, subjects, _ in made_up] == [
        ("onnxruntime", ["one", "two"]),
        ("pytorch", ["one", "two"]),
    ]
    assert made_up[0][2].threads == 2
    lines = done.output.splitlines()
    assert lines[0].split() == ["model", "engine", "ms", "IQR", "ratio", "boxes", "scores"]
    assert lines[1].split() == ["one", "ONNX", "Runtime", "2.00", "0.25", "1.000", "1.0e-05", "2.0e-06"]
    assert lines[2].split() == ["two", "ONNX", "Runtime", "failed"]
    assert "failed: two, ONNX Runtime: NCNN does not support X: no" in lines
    assert "64 px, batch 1, fp32, 2 threads" in done.output
    assert "ratio: to one" in done.output


def test_json(models, made_up):
    body = json.loads(run("measure", "one.yaml", "--json").stdout)
    assert body["imgsz"] == 640
    (model,) = body["engines"]["onnxruntime"]["models"]
    assert model["ms"] == 2.0
    assert "onnxruntime" in body["engines"]["onnxruntime"]["machine"]


def test_files_of_one_name_stay_apart(models, made_up):
    (models / "other").mkdir()
    (models / "other" / "one.yaml").write_text(YAML)
    run("one.yaml", "other/one.yaml")
    assert made_up[0][1] == ["one", "other/one.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one.yaml", "--engine", "abacus"], "there is no engine 'abacus'"),
        (["one.yaml", "none.yaml"], "no model YAML is at none.yaml; give files, or the name of one study"),
        (["nothing"], "nothing"),
        (["one.yaml", "--slots"], "--slots times each swap of a study's space"),
        (["one.yaml", "--store"], "--store keeps the latencies of one image and one engine in a study"),
        (["export", "one.yaml", "--engine", "pytorch", "-o", "out"], "has no file to export"),
        (["export", "one.yaml", "--engine", "onnxruntime,openvino", "-o", "out"], "a folder is for one engine"),
        (["import", "none.json", "one.yaml"], "cannot read none.json"),
    ],
)
def test_errors(models, made_up, words, message, monkeypatch):
    monkeypatch.setattr("nas.engines.Engine.missing", ())
    done = run(*words)
    assert done.exit_code == 1
    assert message in done.output


def test_a_folder_there_and_back(models):
    done = run("export", "one.yaml", "-o", "board", "--imgsz", "64")
    assert done.exit_code == 0, done.output
    assert "1 model written to board" in done.output
    assert (models / "board" / "run.py").is_file()
    (model,) = json.loads((models / "board" / "plan.json").read_text())["models"]
    (models / "found.json").write_text(json.dumps(results([model["digest"]], 64)))
    done = run("import", "found.json", "one.yaml")
    assert done.exit_code == 0, done.output
    assert "3.50" in done.output
    assert "Cortex-A76" in done.output
    done = run("import", "found.json", "two.yaml")
    assert done.exit_code == 1
    assert "latencies of other models: 'one'; here are two" in done.output


@pytest.fixture
def study(ranked_study, models):
    """Create a study of a baseline and two variants, and return what gives it to the command."""
    up, down = {"neck.up_*": "CARAFE"}, {"neck.down_*": "SPConv"}
    study = ranked_study([({}, "done", 0.5, 8.0), (up, "done", 0.52, 8.5), ({**up, **down}, "done", 0.51, 8.0)])
    return study, ["s", "--storage", f"sqlite:///{models / 's.db'}"]


def test_a_study_with_each_swap_in_its_place(study, made_up):
    found, words = study
    done = run(*words, "--engine", "onnxruntime", "--slots", "--store")
    assert done.exit_code == 0, done.output
    names = made_up[0][1]
    assert names[:2] == ["baseline", "neck.{down_n4,down_n5}=SPConv  neck.{up_p3,up_p4}=CARAFE"]
    assert len(names) == 3 + 5
    assert made_up[0][2].imgsz == found.settings.deployed_imgsz
    assert "7 stored in the study 's'" in done.output
    assert found.latencies.failures
    assert set(found.latencies.ms.values()) == {2.0}
    assert "nas rank s" in done.output


def test_sums_are_held_against_combinations(study, monkeypatch):
    def answer(engine, subjects, conditions, note):
        figures = {"ms": 10.0, "spread_ms": 0.1, "runs": 9, "ratio_low": 1.0, "ratio_high": 1.0}
        ratios = [1.2 if "CARAFE" in s.name else 0.9 if "SPConv" in s.name else 1.0 for s in subjects]
        return [EngineLatency(s.name, s.digest, ratio=r, **figures) for s, r in zip(subjects, ratios, strict=True)]

    monkeypatch.setattr(nas.report.cost_table, "measure_models", answer)
    text = run(*study[1], "--slots").output  # together 1.2, and 1.1 as the sum of 0.2 and -0.1
    assert "sums of single swaps against measured combinations (1): median error 8.3 %, largest 8.3 %" in text
    body = json.loads(run(*study[1], "--slots", "--json").stdout)
    assert body["engines"]["onnxruntime"]["sums"]["largest"] == pytest.approx(0.1 / 1.2)


def test_imported_latencies_are_stored(study, models):
    found, words = study
    digests = subjects_of(found)
    body = results(digests, imgsz=found.settings.deployed_imgsz)
    (models / "found.json").write_text(json.dumps(body))
    done = run("import", "found.json", *words)
    assert done.exit_code == 0, done.output
    assert "2 stored in" in done.output
    stored = Study.load(found.location)
    assert "Cortex-A76, Linux aarch64, 1 thread, ONNX Runtime 1.20 fp32" in stored.settings.latency_on
    assert sorted(t.latency_ms for t in stored.trials() if t.latency_ms) == [3.5, 7.0]
    body["machine"] = "Cortex-A53"
    (models / "found.json").write_text(json.dumps(body))
    done = run("import", "found.json", *words)
    assert done.exit_code == 1
    assert "has latencies of Cortex-A76" in done.output


def subjects_of(study) -> list[str]:
    """Return the digests of the baseline and of one variant."""
    space = study.settings.space
    variants = [space.variant({**space.baseline(), **more}) for more in ({}, {"neck.up_*": "CARAFE"})]
    return [model_digest(render(v).yaml, v.scale) for v in variants]


def test_a_checkpoint(models, made_up):
    write_checkpoint(models / "best.pt")
    done = run("best.pt")
    assert done.exit_code == 0, done.output
    assert made_up[0][1] == ["best"]


def test_a_checkpoint_answers_with_its_own_values(models):
    model = write_checkpoint(models / "best.pt")
    text, scale, tensors = read_model(models / "best.pt")
    assert model_digest(text, scale)
    assert tensors.keys() == model.state_dict().keys()
    done = run("best.pt", "--imgsz", "64", "--engine", "pytorch")
    assert done.exit_code == 0, done.output
    assert "failed" not in done.output


def write_checkpoint(file) -> nn.Module:
    model = build(YAML, "")
    torch.save({"model": model}, file)
    return model


def results(digests: list[str], imgsz: int) -> dict:
    times = {"spread_ms": 0.1, "runs": 30, "ratio_low": 1.0, "ratio_high": 1.0}
    return {
        "format": 1, "imgsz": imgsz, "batch": 1, "engine": "onnxruntime", "version": "1.20", "machine": "Cortex-A76",
        "system": "Linux aarch64", "precision": "fp32", "threads": 1, "clock": "processor time",
        "models": [
            {"name": "one" if k == 0 else f"other{k}", "digest": digest, "failure": "", "boxes": 0.0, "scores": 0.0,
             "ms": 3.5 * (k + 1), "ratio": k + 1.0, **times}
            for k, digest in enumerate(digests)
        ],
    }  # fmt: skip
