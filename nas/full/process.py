"""The process of a full training, seen from its parent: started, watched by the host's ``results.csv``, and ended."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nas.errors import OutputError, ProxyFailure, full_disk, says_full_disk
from nas.files import dataclass_from_plain, write_atomic
from nas.full.run import FullEpoch, FullScores
from nas.full.training import JOB, LOG, RESULT
from nas.model.offline import offline_environment

_LOOK_S = 0.5
_COLUMNS = ("precision", "recall", "mAP50", "mAP50-95")
_PARTS = ("M", "P", "B")
"""Of masks, of poses and of boxes, which are in the file too where the others are."""


def run_training(
    job: Mapping[str, Any], folder: Path, stopped: threading.Event, on_epoch: Callable[[tuple[FullEpoch, ...]], None]
) -> FullScores:
    """Train in a new process, and return the scores.

    Args:
        job: As `nas.full.training.train` takes it, with ``modules`` and ``cache``.
        folder: The run's folder, which the host writes into.
        stopped: Ends the training when it is set; it can be resumed.
        on_epoch: Called with the curve after each epoch.

    Raises:
        ProxyFailure: It failed, was stopped or its process died.
        OutputError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).unlink(missing_ok=True)
        write_atomic(folder / JOB, json.dumps({**job, "parent": os.getpid()}, indent=1))
        log = open(folder / LOG, "a", encoding="utf-8")  # noqa: SIM115  # closed below, the process has its own
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {full_disk(error) or error.strerror or error}") from None
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nas.full.training", str(folder / JOB)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **offline_environment(Path(job["cache"])), "YOLO_VERBOSE": "true"},
            start_new_session=True,  # Ctrl-C goes to the parent, and all of its processes can be ended at once
        )
    epochs = 0
    try:
        while process.poll() is None:
            if stopped.wait(_LOOK_S):
                raise ProxyFailure("died", "stopped")
            if len(curve := read_curve(folder)) != epochs:
                epochs = len(curve)
                on_epoch(curve)
    finally:
        _end(process)
    return _result(folder, process.returncode)


def read_curve(folder: Path) -> tuple[FullEpoch, ...]:
    """Return the epochs of the host's ``results.csv``; of one that was trained twice, after a kill, the later."""
    found: dict[int, FullEpoch] = {}
    with contextlib.suppress(OSError), open(folder / "results.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, skipinitialspace=True):
            with contextlib.suppress(ValueError, TypeError, KeyError, StopIteration):  # a row that is being written
                plain = {key.strip(): value for key, value in row.items() if key}
                epoch = int(float(plain["epoch"]))
                part = next(part for part in _PARTS if f"metrics/mAP50({part})" in plain)
                found[epoch] = FullEpoch(epoch, *(float(plain[f"metrics/{name}({part})"]) for name in _COLUMNS))
    return tuple(found[epoch] for epoch in sorted(found))


def is_of_machine(failure: ProxyFailure) -> bool:
    """Return whether a failure is the machine's, so that the training is to be resumed, not given up."""
    return failure.out_of_memory or failure.kind == "kernel" or says_full_disk(str(failure))


def _result(folder: Path, code: int) -> FullScores:
    try:
        body = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        hint = "; the system kills processes so when memory runs out" if code == -9 else ""
        raise ProxyFailure(
            "died", f"its process died (exit code {code}){hint}; see {folder / LOG}", out_of_memory=code == -9
        ) from None
    if "failure" in body:
        raise ProxyFailure(body["kind"], f"{body['failure']}; see {folder / LOG}")
    return dataclass_from_plain(FullScores, body["scores"])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    process.wait()
