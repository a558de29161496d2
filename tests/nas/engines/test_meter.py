"""The latencies of a study: of which engine, measured once, and what cannot be taken."""

from __future__ import annotations

import pytest

import nas.engines.meter
from nas.engines import SEPARATE
from nas.engines.measure import EngineLatency
from nas.engines.meter import EngineMeter, study_machine, study_meter
from nas.errors import BuildError, OptionError
from nas.model.latency import LatencyMeter, machine
from nas.model.render import render
from nas.space.variant import Variant

YAML = render(Variant("yolov8", "n")).yaml


@pytest.fixture
def counted(monkeypatch) -> list[list[str]]:
    """Answer in place of measuring, and keep the names: each call takes 1 ms more, and each model twice the first."""
    calls: list[list[str]] = []

    def answer(engine, subjects, conditions, note):
        calls.append([subject.name for subject in subjects])
        figures = {"spread_ms": 0.5, "runs": 9}
        return [
            EngineLatency(s.name, s.digest, ms=float(len(calls)), ratio=2.0 if k else 1.0, **figures)
            for k, s in enumerate(subjects)
        ]

    monkeypatch.setattr(nas.engines.meter, "measure_models", answer)
    return calls


def test_measured_once_for_each_model_size_and_machine(counted, tmp_path):
    first = EngineMeter(tmp_path, "onnxruntime", 64).measure(YAML, "n")
    assert EngineMeter(tmp_path, "onnxruntime", 64).measure("# said\n" + YAML, "n") == first
    EngineMeter(tmp_path, "onnxruntime", 96).measure(YAML, "n")
    EngineMeter(tmp_path, "onnxruntime", 64).measure(YAML, "s")
    assert len(counted) == 3
    assert (first.ms, first.spread_ms, first.imgsz) == (1.0, 0.5, 64)


def test_a_torn_file_is_measured_anew(counted, tmp_path):
    meter = EngineMeter(tmp_path, "onnxruntime", 64)
    meter.measure(YAML, "n")
    for file in tmp_path.iterdir():
        file.write_text('{"ms": 1')
    assert meter.measure(YAML, "n").ms == 2.0


def test_the_machine_names_the_engine_and_its_version():
    on = study_machine("onnxruntime", "cpu")
    assert "1 thread, ONNX Runtime fp32, onnxruntime " in on
    assert on == EngineMeter("", "onnxruntime", 640).on
    assert study_machine("", "cpu") == machine("cpu")


def test_what_the_engine_cannot_take_is_the_variants_failure(monkeypatch, tmp_path):
    def fail(engine, subjects, conditions, note):
        return [EngineLatency("it", "abc", failure="NCNN does not support CARAFE: NCNN has no layer F.fold")]

    monkeypatch.setattr(nas.engines.meter, "measure_models", fail)
    with pytest.raises(BuildError, match=r"cannot be timed: NCNN does not support CARAFE: NCNN has no layer F\.fold"):
        EngineMeter(tmp_path, "onnxruntime", 64).measure(YAML, "n")
    assert not list(tmp_path.iterdir())


def test_without_an_engine_it_is_pytorch(tmp_path):
    assert isinstance(study_meter("", tmp_path, "cpu", 64), LatencyMeter)
    assert isinstance(study_meter("onnxruntime", tmp_path, "cpu", 64), EngineMeter)


def test_an_engine_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else name)
    with pytest.raises(OptionError, match="OpenVINO is not installed: pip install openvino"):
        study_meter("openvino", tmp_path, "cpu", 64)


def test_a_latency_is_the_baselines_times_the_ratio_to_it(counted, tmp_path):
    """So that what a machine does between two measurements changes no difference."""
    other = YAML.replace("Conv", "GhostConv", 1)
    meter = EngineMeter(tmp_path, "onnxruntime", 64, Variant("yolov8", "n"))
    assert meter.measure(other, "n").ms == 2.0
    assert meter.measure(YAML, "n").ms == 1.0
    assert counted == [["the model"], ["the baseline", "the model"]]
    assert EngineMeter(tmp_path, "onnxruntime", 64).measure(other, "n").ms == 3.0  # not that of a comparison


def test_stored_latencies_have_no_engine_here(tmp_path):
    assert isinstance(study_meter(SEPARATE, tmp_path, "cpu", 64), LatencyMeter)
