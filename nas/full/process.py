"""The processes of full trainings, seen from their parent.

A training is started, watched by the host's ``results.csv``, and ended. Before one of a pruned model another process
prunes its weights from what the study has learnt.
"""

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.errors import STOPPED, OutputError, ProxyFailure, StudyError, full_disk, says_full_disk
from nas.files import dataclass_from_plain, write_atomic
from nas.full.run import FullEpoch, FullScores
from nas.full.start import Start
from nas.full.training import JOB, LOG, RESULT
from nas.model.offline import offline_environment
from nas.search.inheritance import weights_of
from nas.space.variant import Variant
from nas.study.study import Study
from nas.task.task import CLASSIFY
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore
from nas.workers.process import ProxyWorker
from nas.yardstick.store import pruned_weights

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
                if CLASSIFY.keys[1] in plain:
                    top5, top1 = (float(plain[key]) for key in CLASSIFY.keys)
                    found[epoch] = FullEpoch(epoch, None, None, top5, top1)
                    continue
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


@dataclass(frozen=True)
class _Notes:
    """Passes on what is said while a baseline is pruned, without its steps: an `ArtifactObserver`."""

    note: Callable[[str], None]

    def baseline_training(self, recipe: Recipe, seed: int) -> None:
        """See `ArtifactObserver`."""
        self.note(f"training the study's baseline of seed {seed} again on {recipe.device}: its curve is gone")

    def distilling(self, count: int) -> None:
        """See `ArtifactObserver`."""

    def scoring(self, count: int) -> None:
        """See `ArtifactObserver`."""

    def epoch(self, score: EpochScore, epochs: int) -> None:
        """See `ArtifactObserver`."""

    def steps(self, done: int, total: int) -> None:
        """See `ArtifactObserver`."""


@dataclass
class Pruning:
    """Prunes a study's baselines as its search does, in a process of its own; the files are kept with the study's.

    Attributes:
        study: The study.
        data: Its data.yaml, as the host can read it.
        cache: Where the host may write its settings.
        threads: Of a CPU; 0 is all cores.
        note: Called with a line for the reader.
    """

    study: Study
    data: Path
    cache: Path
    threads: int
    note: Callable[[str], None]
    _worker: ProxyWorker | None = field(default=None, init=False)
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)

    def make(self, yardstick: Variant, start: Start) -> Path:
        """Return the file of a yardstick's weights; from a bank they are distilled too.

        Raises:
            NasError: They cannot be made.
        """
        assert start.seed is not None, "it starts from the study's weights"
        recipe = replace(self.study.settings.recipe, init="bank" if start.bank else "baseline")
        with ProxyWorker(self.cache, self.threads or None) as worker:
            self._worker = worker
            if self._stopped.is_set():
                raise StudyError(STOPPED)
            store = weights_of(self.study, self.data, worker, _Notes(self.note))
            store.stopped = self._stopped  # ends a wait for another process that prunes the same
            return pruned_weights(store, yardstick, recipe, start.seed)

    def kill(self) -> None:
        """Stop for good, from another thread."""
        self._stopped.set()
        if self._worker is not None:
            self._worker.kill()
