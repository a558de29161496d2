"""Latency: measured once for each model, machine and size; what it says of itself; what cannot be timed."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import nas.model.latency
from nas.errors import BuildError, OptionError, OutputError, ProxyError
from nas.model.latency import EAGER, GRAPH, Latency, LatencyMeter, _captured, _times, machine, measure_latency
from nas.model.render import render
from nas.ops.kernels.runtime import KernelError
from nas.space.variant import Variant

YAML = render(Variant("yolov8", "n")).yaml


@pytest.fixture
def quick(monkeypatch):
    """Time few runs."""
    for name, value in (
        ("_WARM_RUNS", 1),
        ("_WARM_S", 0.0),
        ("_GPU_WARM_S", 0.0),
        ("_LEAST_RUNS", 3),
        ("_MEASURE_S", 0.0),
    ):
        monkeypatch.setattr(nas.model.latency, name, value)


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """Answer in place of measuring, and count."""
    calls: list[str] = []

    def calibrated(model, device, imgsz, on):
        calls.append(on)
        return Latency(1.0 + len(calls), 0.1, 3, imgsz, on)

    monkeypatch.setattr(nas.model.latency, "measure_latency", calibrated)
    return calls


def test_a_model_is_timed(quick):
    found = measure_latency(nas.model.latency.build(YAML, "n"), "cpu", 64, "here")
    assert 0.1 < found.ms < 10_000
    assert (found.runs, found.imgsz, found.on) == (3, 64, "here")


def test_it_leaves_the_threads_as_they_were(quick):
    before = torch.get_num_threads()
    measure_latency(nas.model.latency.build(YAML, "n"), "cpu", 64, "here")
    assert torch.get_num_threads() == before


def test_measured_once(counted, tmp_path):
    first = LatencyMeter(tmp_path, "cpu", 64).measure(YAML, "n")
    again = LatencyMeter(tmp_path, "cpu", 64).measure("# a comment\n" + YAML.replace("\n", "  # said\n", 1), "n")
    assert first == again
    assert len(counted) == 1


def test_whatever_it_depends_on_is_measured_anew(counted, tmp_path, monkeypatch):
    LatencyMeter(tmp_path, "cpu", 64).measure(YAML, "n")
    LatencyMeter(tmp_path, "cpu", 96).measure(YAML, "n")
    LatencyMeter(tmp_path, "cpu", 64).measure(YAML, "s")
    LatencyMeter(tmp_path, "cpu", 64).measure(render(Variant("yolov8", "n", (("neck.up_p4", "CARAFE"),))).yaml, "n")
    monkeypatch.setattr(nas.model.latency, "machine", lambda device: "another machine")
    LatencyMeter(tmp_path, "cpu", 64).measure(YAML, "n")
    assert len(counted) == 5
    assert counted[-1] == "another machine"


def test_a_torn_file_is_measured_anew(counted, tmp_path):
    meter = LatencyMeter(tmp_path, "cpu", 64)
    meter.measure(YAML, "n")
    for file in tmp_path.iterdir():
        file.write_text('{"ms": 1')
    assert meter.measure(YAML, "n").ms == 3.0
    assert len(list(tmp_path.iterdir())) == 1


def test_the_machine_is_named():
    assert "1 thread" in machine("cpu")
    assert torch.__version__ in machine("cpu")
    with pytest.raises(OptionError, match="--device 99: "):
        machine("99")


@pytest.fixture
def capturing(monkeypatch):
    """Return the state of a GPU that is made up: whether it captures a graph, and how often that was replayed."""
    state = SimpleNamespace(captures=False, replayed=0)

    class Graph:
        def replay(self):
            state.replayed += 1

    @contextmanager
    def graph(_graph):
        state.captures = True
        try:
            yield
        finally:
            state.captures = False

    stream = SimpleNamespace(wait_stream=lambda _other: None)
    for name, value in {
        "CUDAGraph": Graph,
        "graph": graph,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _stream: nullcontext(),
        "device": lambda _device: nullcontext(),
        "synchronize": lambda _device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return state


def test_a_gpu_is_timed_by_the_replay_of_a_graph(quick, capturing):
    ran = []
    run, by = _captured(lambda: ran.append(capturing.captures), torch.device("cuda:0"))
    assert by == GRAPH
    assert ran == [False, True]  # warmed up before
    before = capturing.replayed
    times = _times(run, torch.device("cuda:0"))
    assert capturing.replayed - before >= len(times) == 3
    assert len(ran) == 2


def test_what_cannot_be_captured_is_timed_as_python_runs_it(quick, capturing):
    def run():
        if capturing.captures:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    assert _captured(run, torch.device("cuda:0")) == (run, EAGER)


def test_a_kernel_that_fails_is_no_variants_failure(quick):
    class NoKernel(nn.Module):
        def fuse(self, verbose):
            return self

        def forward(self, image):
            raise KernelError("carafe_forward<float>: no")

    with pytest.raises(ProxyError, match="a CUDA kernel cannot be used here: carafe_forward"):
        measure_latency(NoKernel(), "cpu", 64, "here")


def test_what_cannot_run_is_the_variants_failure(quick):
    class Broken(nn.Module):
        def fuse(self, verbose):
            return self

        def forward(self, image):
            raise ValueError("no")

    with pytest.raises(BuildError, match="cannot be timed: ValueError: no"):
        measure_latency(Broken(), "cpu", 64, "here")


def test_a_folder_that_cannot_be_written(counted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        LatencyMeter(tmp_path / "file", "cpu", 64).measure(YAML, "n")
