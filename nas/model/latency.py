"""Latency: the time of one image on this machine.

A latency is valid for one machine: a processor or GPU, and the software versions on it. It is the median of warm runs
of the fused model, as deployed, in float32, at batch 1 and a given image size; results are cached for each model and
machine. On a CPU it is the CPU time of one thread, which other work on the machine changes little: several threads
would wait for each other, up to a hundredfold.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.errors import BuildError, OptionError, OutputError, one_line
from nas.files import write_atomic
from nas.model.host import build, version

_WARM_RUNS, _WARM_S = 5, 0.3
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
    """

    ms: float
    spread_ms: float
    runs: int
    imgsz: int
    on: str


def machine(device: str) -> str:
    """Return everything that a latency depends on besides model and image size, in one line.

    Args:
        device: ``cpu`` or a CUDA device number.

    Raises:
        OptionError: There is no such device.
    """
    versions = f"torch {torch.__version__}, ultralytics {version()}"
    if device == "cpu":
        return f"{_processor()}, 1 thread, {versions}"
    try:
        name = torch.cuda.get_device_name(int(device))
    except Exception as error:  # torch raises many kinds for a device that is not there
        raise OptionError(f"cannot measure latency on the device {device!r}: {one_line(error)}") from None
    kernels = os.environ.get("NAS_KERNELS", "auto")
    return f"{name}, CUDA {torch.version.cuda}, kernels {kernels}, {versions}"


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
        self._folder, self._device, self._imgsz = folder, device, imgsz

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
        """Return a digest of the model and the machine; comments of the YAML do not count."""
        code = "\n".join(line.split(" #")[0].rstrip() for line in yaml.splitlines() if not line.startswith("#"))
        return hashlib.sha256(json.dumps([code, scale, self._imgsz, self.on]).encode()).hexdigest()[:24]


def measure_latency(model: nn.Module, device: str, imgsz: int, on: str) -> Latency:
    """Measure a model; it is fused and moved to the device, and not usable for training afterwards.

    Raises:
        BuildError: It cannot run.
    """
    where = torch.device("cpu" if device == "cpu" else f"cuda:{device}")
    try:
        with _one_thread(), torch.inference_mode():
            fused: Any = model.eval()
            fused = fused.fuse(verbose=False).to(where)
            image = torch.zeros(1, 3, imgsz, imgsz, device=where)
            times = _times(lambda: fused(image), where)
    except Exception as error:  # any error of a module's forward is the variant's failure
        raise BuildError(f"cannot be timed: {one_line(error)}") from error
    quarters = statistics.quantiles(times, n=4)
    return Latency(statistics.median(times), quarters[2] - quarters[0], len(times), imgsz, on)


def _times(run: Callable[[], object], where: torch.device) -> list[float]:
    """Return the milliseconds of each run, after a warm-up."""
    clock = time.perf_counter if where.type == "cuda" else time.thread_time

    def once() -> float:
        started = clock()
        run()
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        return 1e3 * (clock() - started)

    until, warmed = time.perf_counter() + _WARM_S, 0
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


def _processor() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
