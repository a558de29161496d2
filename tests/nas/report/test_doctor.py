"""What a bug report says about the CUDA kernels."""

from __future__ import annotations

import pytest

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
