"""Models with real engines: equal answers, times, and what cannot be taken."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch import nn

import nas.engines.export
from nas.engines import ENGINES, Conditions, chosen_engines
from nas.engines.folder import Subject, model_subject, write_folder
from nas.engines.measure import measure_models
from nas.engines.prepare import as_deployed, new_model, trained_model
from nas.errors import BuildError, OptionError
from nas.model.host import build

YAML = """
nc: 3
scales: {n: [1.0, 1.0, 1024]}
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C2f, [16, True]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [-1, 1, CARAFE, []]
  - [[4, 3], 1, Detect, [nc]]
"""
PLAIN = YAML.replace("CARAFE, []", "nn.Upsample, [None, 2, nearest]")
QUICK = Conditions(imgsz=64, rounds=2, pause_s=0.0)


def quiet(line: str) -> None:
    pass


@pytest.fixture
def subjects():
    return [model_subject("plain", PLAIN, "n", QUICK), model_subject("carafe", YAML, "n", QUICK)]


@pytest.mark.parametrize("name", ["pytorch", "onnxruntime", "openvino", "ncnn"])
def test_an_engine_answers_as_pytorch(subjects, name):
    for package in ENGINES[name].packages:
        pytest.importorskip(package)
    plain, carafe = measure_models(ENGINES[name], subjects, QUICK, quiet)
    for found in (plain, carafe):
        assert not found.failure
        assert found.boxes < 1e-4
        assert found.scores < 1e-4
        assert found.ms > 0
        assert found.runs >= 4
    assert (plain.name, plain.digest) == ("plain", subjects[0].digest)
    assert plain.ratio == pytest.approx(1, abs=0.8)
    assert carafe.digest != plain.digest


def test_the_answers_move(subjects):
    """Else nothing would be proved: boxes and scores of a new model are all the same."""
    model, inputs = subjects[1].make("onnxruntime")
    with torch.no_grad():
        (found,) = model(*inputs)
    assert found[:4].std() / 64 > 0.05
    assert found[4:].std() > 0.05
    assert float(found[4:].max()) < 1


def test_a_new_model_is_always_the_same_and_keeps_the_random_numbers():
    """What explains a failure makes the model again."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one = new_model(YAML, "n").state_dict()
    assert torch.equal(torch.rand(1), expected)
    two = new_model(YAML, "n").state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_trained_model_keeps_its_values_but_the_bias_of_scores():
    given = build(YAML, "n").state_dict()
    found = trained_model(YAML, "n", given).state_dict()
    changed = {key for key in given if not torch.equal(given[key], found[key])}
    assert changed
    assert all(".cv3." in key and key.endswith(".bias") for key in changed)


def test_tensors_of_another_model():
    with pytest.raises(BuildError, match="tensors are of another model"):
        trained_model(YAML, "n", build(PLAIN, "n").state_dict())


def test_a_deployed_model_is_a_copy():
    model = build(YAML, "n")
    before = set(model.state_dict())
    deployed = as_deployed(model, "onnxruntime", 64)
    assert set(model.state_dict()) == before
    assert len(list(deployed.parameters())) < len(list(model.parameters()))


def test_a_module_that_folds_its_branches_is_deployed():
    model = build(PLAIN.replace("Conv, [16, 3, 2]]\nhead", "OREPA, [16, 3, 2]]\nhead"), "n")
    assert not any(parameter.requires_grad for parameter in as_deployed(model, "onnxruntime", 64).parameters())


def test_the_module_that_an_engine_cannot_take_is_named(subjects, monkeypatch):
    original = nas.engines.export.to_onnx

    def picky(model, inputs, folder, conditions):
        if any(type(m).__name__ == "CARAFE" for m in model.modules()):
            raise RuntimeError("Unsupported: operator fold\nmore of it")
        original(model, inputs, folder, conditions)

    monkeypatch.setitem(nas.engines.export.EXPORTERS, "onnxruntime", picky)
    plain, carafe = measure_models(ENGINES["onnxruntime"], subjects, QUICK, quiet)
    assert not plain.failure
    assert carafe.failure == (
        "ONNX Runtime does not support CARAFE: cannot be exported: RuntimeError: Unsupported: operator fold"
    )
    assert carafe.ms is None


def test_a_baseline_that_fails_gives_its_place_to_the_next(subjects, monkeypatch):
    original = nas.engines.export.to_onnx

    def picky(model, inputs, folder, conditions):
        if not any(type(m).__name__ == "CARAFE" for m in model.modules()):
            raise RuntimeError("no")
        original(model, inputs, folder, conditions)

    monkeypatch.setitem(nas.engines.export.EXPORTERS, "onnxruntime", picky)
    plain, carafe = measure_models(ENGINES["onnxruntime"], subjects, QUICK, quiet)
    assert plain.failure
    assert not carafe.failure
    assert carafe.ratio == pytest.approx(1, abs=0.8)


def test_an_export_with_another_answer_is_found(subjects, monkeypatch):
    original = nas.engines.export.to_onnx

    def wrong(model, inputs, folder, conditions):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.02)
        original(model, inputs, folder, conditions)

    monkeypatch.setitem(nas.engines.export.EXPORTERS, "onnxruntime", wrong)
    (found, _) = measure_models(ENGINES["onnxruntime"], subjects, QUICK, quiet)
    assert "differs from PyTorch's" in found.failure or "does not support" in found.failure
    assert found.scores > 1e-3
    assert found.ms is None


def test_a_model_that_cannot_be_built_says_so():
    broken = model_subject("broken", PLAIN.replace("C2f, [16, True]", "Nothing, [16]"), "n", QUICK)
    (found,) = measure_models(ENGINES["onnxruntime"], [broken], QUICK, quiet)
    assert "Nothing" in found.failure


@pytest.mark.parametrize(
    ("names", "conditions", "message"),
    [
        ("tensorflow", Conditions(), "there is no engine 'tensorflow'; there are pytorch, compile, onnxruntime"),
        ("", Conditions(), "no engine is given"),
        ("ncnn", Conditions(batch=2), "NCNN takes one image at a time, not a batch of 2"),
        ("onnxruntime", Conditions(precision="fp16"), "ONNX Runtime is not measured in fp16; it takes fp32"),
    ],
)
def test_engines_that_cannot_be_used(names, conditions, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(OptionError, match=message):
        chosen_engines(names, conditions)


def test_an_engine_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("ncnn", "pnnx") else name)
    assert [engine.name for engine in chosen_engines("onnxruntime, openvino", Conditions())] == [
        "onnxruntime",
        "openvino",
    ]
    with pytest.raises(OptionError, match="NCNN is not installed: pip install ncnn pnnx"):
        chosen_engines("onnxruntime,ncnn", Conditions())


def test_the_version_of_an_engine_in_another_distribution(monkeypatch):
    """Such as onnxruntime in onnxruntime-gpu."""

    def version(name):
        if name == "onnxruntime":
            raise PackageNotFoundError(name)
        return "1.30.0"

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]})
    assert ENGINES["onnxruntime"].versions == "onnxruntime 1.30.0, onnx 1.30.0"
    monkeypatch.setattr("importlib.metadata.packages_distributions", dict)
    assert ENGINES["onnxruntime"].versions == "onnxruntime unknown, onnx 1.30.0"


class Amplifier(nn.Module):
    """Has an error of float32 that is seen: a small difference of two large numbers."""

    def __init__(self, large: float) -> None:
        super().__init__()
        self.large = large

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.large - self.large


@pytest.mark.parametrize(("large", "tolerance"), [(0.0, 1e-3), (1e5, 0.04)])
def test_what_float32_itself_rounds_is_no_fault_of_an_engine(large, tolerance, tmp_path):
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    subject = Subject("it", "it", 0, lambda engine: (Amplifier(large), (x,)))
    write_folder(tmp_path, ENGINES["pytorch"], [subject], QUICK, quiet)
    (model,) = json.loads((tmp_path / "plan.json").read_text())["models"]
    assert model["tolerance"] == pytest.approx(tolerance, rel=0.1)
