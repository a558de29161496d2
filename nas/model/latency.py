"""Latency: the time of one image on this machine.

A latency is valid for one machine: a processor or GPU, and the software versions on it. It is the median of warm runs
of the fused model, as deployed, in float32, at batch 1 and a given image size; results are cached for each model and
machine. On a CPU it is the CPU time of one thread, which other work on the machine changes little: several threads
would wait for each other, up to a hundredfold.

On a GPU it is the time of a replayed CUDA graph. At batch 1 a GPU waits for Python to launch one kernel after the
other, and a deployed model (TensorRT, a graph) does not pay that. A model that cannot be captured is timed as Python
runs it, and its latency says so.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.device import CPU, choose_device, gpus, processor
from nas.errors import BuildError, OutputError, ProxyError, failure_kind, one_line
from nas.files import write_atomic
from nas.model.host import build, version

_WARM_RUNS, _WARM_S = 5, 0.3
_GPU_WARM_S = 1.0
"""Seconds in which a GPU comes from its idle clocks to those of work."""
GRAPH, EAGER = "a replayed CUDA graph", "eager PyTorch"
"""How a GPU is timed."""
_LEAST_RUNS, _MOST_RUNS, _MEASURE_S = 10, 200, 2.0


@dataclass(frozen=True)
class Latency:
    """A measured latency.

    Attributes:
        ms: Median milliseconds of one image.
        spread_ms: Interquartile range of the runs.
        runs: Number of runs.
        imgsz: Image side in pixels.
        on: The machine, as described by `machine`.
        by: On a GPU, what was timed: `GRAPH`, or `EAGER` for a model that cannot be captured; empty on a CPU.
    """

    ms: float
    spread_ms: float
    runs: int
    imgsz: int
    on: str
    by: str = ""


def machine(device: str) -> str:
    """Return everything that a latency depends on besides model and image size, in one line.

    Args:
        device: ``cpu`` or a CUDA device number.

    Raises:
        OptionError: There is no such device.
    """
    versions = f"torch {torch.__version__}, ultralytics {version()}"
    device = choose_device(device)
    if device == CPU:
        return f"{processor()}, 1 thread, {versions}"
    kernels = os.environ.get("NAS_KERNELS", "auto")
    return f"{gpus()[int(device)].name}, CUDA {torch.version.cuda}, kernels {kernels}, CUDA graphs, {versions}"


class LatencyMeter:
    """Measures models on one machine at one image size, with a cache in a folder."""

    def __init__(self, folder: Path, device: str, imgsz: int) -> None:
        """Prepare.

        Args:
            folder: Folder of the cache; other machines and sizes may share it.
            device: ``cpu`` or a CUDA device number.
            imgsz: Image side in pixels.

        Raises:
            OptionError: There is no such device.
        """
        self.on = machine(device)
        self._folder, self._device, self._imgsz = folder, choose_device(device), imgsz

    def measure(self, yaml: str, scale: str) -> Latency:
        """Return the latency of a model YAML at a scale.

        Raises:
            BuildError: It cannot be built or run.
            OutputError: The cache cannot be written.
        """
        file = self._folder / f"{self._key(yaml, scale)}.json"
        with contextlib.suppress(OSError, ValueError, TypeError):  # missing, or not whole: measured again
            return Latency(**json.loads(file.read_text(encoding="utf-8")))
        found = measure_latency(build(yaml, scale), self._device, self._imgsz, self.on)
        try:
            write_atomic(file, json.dumps(asdict(found)))
        except OSError as error:
            raise OutputError(f"cannot write to {self._folder}: {error.strerror or error}") from None
        return found

    def _key(self, yaml: str, scale: str) -> str:
        """Return a digest of the model and the machine."""
        return _digest(_code(yaml), scale, self._imgsz, self.on)


def model_digest(yaml: str, scale: str) -> str:
    """Return what stored latencies know a model by, whatever its name; comments of the YAML do not count."""
    return _digest(_code(yaml), scale)


def _code(yaml: str) -> str:
    """Return a YAML without its comments."""
    return "\n".join(line.split(" #")[0].rstrip() for line in yaml.splitlines() if not line.startswith("#"))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def measure_latency(model: nn.Module, device: str, imgsz: int, on: str) -> Latency:
    """Measure a model; it is fused and moved to the device, and not usable for training afterwards.

    Raises:
        BuildError: It cannot run.
        ProxyError: A CUDA kernel cannot be used here, which is no fault of the model.
    """
    where = torch.device(CPU if device == CPU else f"cuda:{device}")
    run: Callable[[], object]
    by = ""
    try:
        with _one_thread(), torch.inference_mode():
            fused: Any = model.eval()
            fused = fused.fuse(verbose=False).to(where)
            image = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0)).to(where)
            run = functools.partial(fused, image)
            if where.type == "cuda":
                run, by = _captured(run, where)
            times = _times(run, where)
    except Exception as error:  # any error of a module's forward is the variant's failure
        if failure_kind(error) == "kernel":
            raise ProxyError(f"a CUDA kernel cannot be used here: {error}") from error
        raise BuildError(f"cannot be timed: {one_line(error)}") from error
    quarters = statistics.quantiles(times, n=4)
    return Latency(statistics.median(times), quarters[2] - quarters[0], len(times), imgsz, on, by)


def _captured(run: Callable[[], object], where: torch.device) -> tuple[Callable[[], object], str]:
    """Return a run as a replayed CUDA graph, and how it is timed; itself where it cannot be captured."""
    with torch.cuda.device(where):
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in torch
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what a first run prepares, such as kernels, is not to be captured
            for _ in range(_WARM_RUNS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                run()
            graph.replay()
            torch.cuda.synchronize(where)
        except Exception:  # of many kinds: a module that looks at values, or waits for the GPU
            run()  # raises if capturing has broken more than the graph
            torch.cuda.synchronize(where)
            return run, EAGER
    return graph.replay, GRAPH


def _times(run: Callable[[], object], where: torch.device) -> list[float]:
    """Return the milliseconds of each run, after a warm-up."""
    clock = time.perf_counter if where.type == "cuda" else time.thread_time

    def once() -> float:
        started = clock()
        run()
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        return 1e3 * (clock() - started)

    until, warmed = time.perf_counter() + (_GPU_WARM_S if where.type == "cuda" else _WARM_S), 0
    while warmed < _WARM_RUNS or time.perf_counter() < until:
        once()
        warmed += 1
    until, times = time.perf_counter() + _MEASURE_S, list[float]()
    while len(times) < _LEAST_RUNS or (len(times) < _MOST_RUNS and time.perf_counter() < until):
        times.append(once())
    return times


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
