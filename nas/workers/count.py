"""How many trainings a machine has room for: by its cores, its memory and its GPUs."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from pathlib import Path

_BASE_BYTES = 880e6
"""Resident memory of a training process before its first batch: imports, weights, optimizer."""
_BYTES_PER_PIXEL = 750
"""Memory of a training step on a CPU per pixel of the batch, at the width of YOLOv8n (0.25), float32."""
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> float:
    """Return the memory that new processes can use, bytes; infinity where it is unknown."""
    free = math.inf
    with contextlib.suppress(Exception):  # not installed, or not readable in a sandbox
        free = float(importlib.import_module("psutil").virtual_memory().available)
    for file in _CGROUPS:  # the limit of a container, which psutil does not know
        with contextlib.suppress(OSError, ValueError):
            free = min(free, float(Path(file).read_text()))
    return free


def worker_memory(batch: int, imgsz: int, width: float) -> float:
    """Return the memory that one training process needs on a CPU, bytes: estimated by `benchmarks/workers.py`.

    Args:
        batch: Images a step.
        imgsz: Image side, pixels.
        width: Width multiple of the model's scale; activations grow with it.
    """
    return _BASE_BYTES + _BYTES_PER_PIXEL * batch * imgsz**2 * width / 0.25


def fitting_workers(device: str, batch: int, imgsz: int, width: float) -> int:
    """Return the number of parallel trainings for ``--workers auto``.

    On a CPU as many as there are cores, with one thread each, and as memory allows; on a GPU one.
    """
    if device != "cpu":
        return 1
    fitting = available_memory() / worker_memory(batch, imgsz, width)
    return max(1, int(min(available_cores(), fitting)))
