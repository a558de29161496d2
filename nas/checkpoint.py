"""Checkpoints of running trainings: one that was killed goes on from its last saved epoch, as if it had not been.

The parent names a checkpoint by everything that decides the run (`run_key`), so that only the same training ever finds
it; the training process writes and reads it (`Checkpoint`). What cannot be read whole is as good as none, and what
cannot be written stops no training.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

from nas.jobs import ProxyJob

_MOST_SHARE = 0.02
"""Share of the training's time that its checkpoints may take."""
_KEPT_DAYS = 14.0
"""Days after which a checkpoint that nobody came back for is removed."""
_MARK = b"swapnas checkpoint 1\n"


def run_key(job: ProxyJob, versions: tuple[tuple[str, str], ...]) -> str:
    """Return 32 hex digits over everything that decides what a job gives: files count by what they hold.

    Args:
        job: The training.
        versions: Of the packages that decide results.
    """
    body = {
        "what": [job.yaml, job.base, job.scale, job.swaps, job.data_key, job.seed],
        "recipe": job.recipe.identity(),
        "files": [_digest(file) for file in ([job.init] if job.init else []) + list(job.overlay)],
        "inherits": job.init is not None,
        "average": job.average,
        "modules": [file.import_name for file in job.modules],
        "versions": versions,
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def _digest(file: str) -> str:
    """Return the SHA-256 of a file; of one that cannot be read, which the training will say, of nothing."""
    with contextlib.suppress(OSError):
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return ""


class Checkpoint:
    """The file in which one training keeps how far it is."""

    def __init__(self, path: Path, every_s: float) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            path: The file; its name is a `run_key`, which the file holds too.
            every_s: Seconds between two saves at least, and more where saving itself takes long; 0: at each call.
        """
        self.path = path
        self._every_s = every_s
        self._last = time.monotonic()
        self._swept = False

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last save."""
        return time.monotonic() - self._last >= self._every_s

    def save(self, body: dict[str, Any]) -> bool:
        """Write the state, whole or not at all; say whether it could be written."""
        import torch

        started = time.monotonic()
        payload = io.BytesIO()
        torch.save({**body, "key": self.path.name}, payload)
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._sweep()
            with open(beside, "wb") as file:
                file.write(_MARK + hashlib.sha256(payload.getbuffer()).digest())
                file.write(payload.getbuffer())
            beside.replace(self.path)
        except OSError:  # a full disk, above all: a training is worth more than its checkpoint
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            return False
        finally:
            self._last = time.monotonic()
            if self._every_s:
                self._every_s = max(self._every_s, (self._last - started) / _MOST_SHARE)
        return True

    def load(self) -> dict[str, Any] | None:
        """Return what was saved for this very run; None if there is nothing, or nothing that is whole."""
        import torch

        try:
            content = self.path.read_bytes()
            head = len(_MARK) + hashlib.sha256().digest_size
            payload = content[head:]
            if content[:head] != _MARK + hashlib.sha256(payload).digest():
                return None
            body: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        except Exception:  # whatever a damaged or foreign file raises
            return None
        return body if body.get("key") == self.path.name else None

    def remove(self) -> None:
        """Remove the file; the training has ended."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what trainings have left that nobody took up again."""
        if self._swept:
            return
        self._swept = True
        for file in self.path.parent.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > 86400 * _KEPT_DAYS:
                    file.unlink()
