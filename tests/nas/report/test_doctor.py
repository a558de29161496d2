"""What a bug report says about the CUDA kernels."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from nas.device import Gpu
from nas.engines import Engine
from nas.ops.kernels import runtime
from nas.report.doctor import environment_report


@pytest.mark.parametrize(
    ("chosen", "missing", "words"),
    [
        ("auto", "", "compiled at first use on a GPU, kept in "),
        ("auto", "cuda-core is not installed", "plain PyTorch on GPUs: cuda-core is not installed"),
        ("cuda", "cuda-core is not installed", "PROBLEM: cuda-core is not installed"),
        ("reference", "", "not used: NAS_KERNELS=reference"),
        ("fast", "", "PROBLEM: NAS_KERNELS='fast': expected auto, cuda or reference"),
    ],
)
def test_kernels(chosen, missing, words, monkeypatch):
    monkeypatch.setenv("NAS_KERNELS", chosen)
    monkeypatch.setattr(runtime, "unavailable", lambda: missing)
    assert environment_report()["kernels"].startswith(words)


def test_engines(monkeypatch):
    monkeypatch.setattr(Engine, "missing", property(lambda engine: engine.packages if engine.name == "ncnn" else ()))
    found = environment_report()["engines"]
    assert found.startswith(f"onnxruntime {version('onnxruntime')}, onnx {version('onnx')}; ")
    assert found.endswith("; NCNN: pip install ncnn pnnx")


@pytest.mark.parametrize(
    ("gpus", "found", "trainings"),
    [
        ((), "none", "run on the CPU in fp32"),
        (
            (Gpu("Tesla T4", (7, 5), bf16=False, code=True),),
            "0: Tesla T4, compute capability 7.5",
            "run on GPU 0 (Tesla T4, compute capability 7.5) in fp32, because it has no native bfloat16",
        ),
        (
            (Gpu("Tesla P40", (6, 1), bf16=False, code=False),),
            "0: Tesla P40, compute capability 6.1 (PROBLEM: the installed PyTorch has no code for it",
            "run on the CPU in fp32; GPU 0: the installed PyTorch has no code for it",
        ),
    ],
)
def test_devices_and_precision(gpus, found, trainings, monkeypatch):
    monkeypatch.setattr("nas.device.gpus", lambda: gpus)
    monkeypatch.setattr("nas.report.doctor.gpus", lambda: gpus)
    monkeypatch.setattr("nas.report.doctor.check_gpus", lambda: ["GPU 0: no"])
    report = environment_report()
    assert report["GPUs"].startswith(found)
    assert report["trainings"].startswith(trainings)
    assert report.get("GPU test") == ("GPU 0: no" if gpus else None)
