"""Latency: how long one image takes on this machine.

A latency is true of one machine: a processor or GPU, and the versions that run on it. It is measured with the model
fused, as it is deployed, in float32, at batch 1 and a stated image size, warm, and its median is kept; the same model
is not measured twice on the same machine. On a CPU it is the time of one thread that computes alone, so that trainings
and other work beside it move it little: several threads would wait for each other, up to a hundredfold.
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

from nas.errors import BuildError, StudyError, one_line
from nas.files import write_atomic
from nas.model.host import build, version

_WARM_RUNS, _WARM_S = 5, 0.3
_LEAST_RUNS, _MOST_RUNS, _MEASURE_S = 10, 200, 2.0


@dataclass(frozen=True)
class Latency:
    """What was measured.

    Attributes:
        ms: Median milliseconds of one image.
        spread_ms: Range of the middle half of the runs.
        runs: How many.
        imgsz: Image side in pixels.
        on: The machine, as `machine` says it.
    """

    ms: float
    spread_ms: float
    runs: int
    imgsz: int
    on: str


def machine(device: str) -> str:
    """Return all that a latency depends on besides model and image size, in one line.

    Args:
        device: ``cpu`` or a CUDA device number.

    Raises:
        StudyError: There is no such device.
    """
    versions = f"torch {torch.__version__}, ultralytics {version()}"
    if device == "cpu":
        return f"{_processor()}, 1 thread, {versions}"
    try:
        name = torch.cuda.get_device_name(int(device))
    except Exception as error:  # torch raises many kinds for a device that is not there
        raise StudyError(f"cannot measure latency on the device {device!r}: {one_line(error)}") from None
    kernels = os.environ.get("NAS_KERNELS", "auto")
    return f"{name}, CUDA {torch.version.cuda}, kernels {kernels}, {versions}"


class LatencyMeter:
    """Measures models on one machine at one image size, and remembers them in a folder."""

    def __init__(self, folder: Path, device: str, imgsz: int) -> None:
        """Prepare.

        Args:
            folder: Where to keep what was measured; other machines and sizes may share it.
            device: ``cpu`` or a CUDA device number.
            imgsz: Image side in pixels.

        Raises:
            StudyError: There is no such device.
        """
        self.on = machine(device)
        self._folder, self._device, self._imgsz = folder, device, imgsz

    def measure(self, yaml: str, scale: str) -> Latency:
        """Return the latency of a model YAML at a scale.

        Raises:
            BuildError: It cannot be built or run.
            StudyError: What was measured cannot be kept.
        """
        file = self._folder / f"{self._key(yaml, scale)}.json"
        with contextlib.suppress(OSError, ValueError, TypeError):  # missing, or not whole: measured again
            return Latency(**json.loads(file.read_text(encoding="utf-8")))
        found = measure(build(yaml, scale), self._device, self._imgsz, self.on)
        try:
            write_atomic(file, json.dumps(asdict(found)))
        except OSError as error:
            raise StudyError(f"cannot write to {self._folder}: {error.strerror or error}") from None
        return found

    def _key(self, yaml: str, scale: str) -> str:
        """Return a digest of the model and of what it is measured on; comments of the YAML are no part of it."""
        code = "\n".join(line.split(" #")[0].rstrip() for line in yaml.splitlines() if not line.startswith("#"))
        return hashlib.sha256(json.dumps([code, scale, self._imgsz, self.on]).encode()).hexdigest()[:24]


def measure(model: nn.Module, device: str, imgsz: int, on: str) -> Latency:
    """Measure a model that nothing else needs any more: it is fused and moved.

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
    except Exception as error:  # whatever a module's forward raises is the variant's failure
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
