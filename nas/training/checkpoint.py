"""Checkpoints of running trainings: a killed training resumes from its last saved epoch, with identical results.

The parent process names a checkpoint by everything that decides the training (`nas.training.jobs.checkpoint_key`), so
that only the same training finds it; the training process writes and reads it. A checkpoint that cannot be read is
ignored, and a failure to write one does not stop the training.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.files import replacing
from nas.training.jobs import ProxyJob
from nas.training.scores import EpochScore

_MOST_SHARE = 0.02
"""Maximum share of the training's time that its checkpoints may take."""
_KEPT_DAYS = 14.0
"""Days after which a checkpoint that was never resumed is removed."""
_MARK = b"swapnas checkpoint 1\n"


class Checkpoint:
    """The checkpoint file of one training."""

    def __init__(self, path: Path, every_s: float) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            path: The file; its name is a `checkpoint_key`, which the file also contains.
            every_s: Minimum seconds between two saves, and more where saving itself takes long; 0 saves at each call.
        """
        self.path = path
        self._every_s = every_s
        self._last = time.monotonic()
        self._swept = False

    @property
    def due(self) -> bool:
        """True if enough time has passed since the last save."""
        return time.monotonic() - self._last >= self._every_s

    def save(self, body: dict[str, Any]) -> bool:
        """Write the state, whole or not at all; return whether it could be written."""
        started = time.monotonic()
        payload = io.BytesIO()
        torch.save({**body, "key": self.path.name}, payload)
        try:
            with replacing(self.path) as temporary:
                self._sweep()
                with open(temporary, "wb") as file:
                    file.write(_MARK + hashlib.sha256(payload.getbuffer()).digest())
                    file.write(payload.getbuffer())
        except OSError:  # a full disk, above all: a training is worth more than its checkpoint
            return False
        finally:
            self._last = time.monotonic()
            if self._every_s:
                self._every_s = max(self._every_s, (self._last - started) / _MOST_SHARE)
        return True

    def load(self) -> dict[str, Any] | None:
        """Return the saved state of this training; None if there is none, or the file is damaged."""
        try:
            content = self.path.read_bytes()
            head = len(_MARK) + hashlib.sha256().digest_size
            payload = content[head:]
            if content[:head] != _MARK + hashlib.sha256(payload).digest():
                return None
            body: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        except Exception:  # a damaged or foreign file may raise anything
            return None
        return body if body.get("key") == self.path.name else None

    def remove(self) -> None:
        """Remove the file; the training has ended."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove checkpoints of trainings that were never resumed."""
        if self._swept:
            return
        self._swept = True
        for file in self.path.parent.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > 86400 * _KEPT_DAYS:
                    file.unlink()


class Checkpointer:
    """Saves one training's state in its checkpoint, and restores it.

    Attributes:
        curve: The epochs that an earlier process had trained; empty without one.
        cpu_seconds: CPU time of these epochs, and `seconds` their wall time.
    """

    def __init__(self, job: ProxyJob) -> None:
        assert job.checkpoint
        self._file = Checkpoint(Path(job.checkpoint), job.checkpoint_s)
        self._started = time.monotonic(), time.process_time()
        self.curve: tuple[EpochScore, ...] = ()
        self.cpu_seconds = self.seconds = 0.0

    @property
    def resumed(self) -> int:
        """Number of epochs that an earlier process had trained."""
        return len(self.curve)

    def keep(self, trainer: Any, curve: list[EpochScore]) -> None:
        """Save the state at the end of an epoch, if the last save is long enough ago."""
        if not self._file.due:
            return
        wall, cpu = self._started
        drawn: Any = np.random.get_state()
        kind, keys, position, has_gauss, gauss = drawn
        self._file.save(
            {
                "curve": [asdict(score) for score in curve],
                "seconds": self.seconds + time.monotonic() - wall,
                "cpu_seconds": self.cpu_seconds + time.process_time() - cpu,
                "model": trainer.model.state_dict(),
                "optimizer": trainer.optimizer.state_dict(),
                "scaler": trainer.scaler.state_dict(),
                "averages": [[average.updates, average.ema.state_dict()] for average in _averages(trainer)],
                "random": random.getstate(),
                "numpy": [kind, keys.tolist(), position, has_gauss, gauss],
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "buffer": list(getattr(trainer.train_loader.dataset, "buffer", ())),
            }
        )

    def resume(self, trainer: Any) -> bool:
        """Restore the state that an earlier process has saved, after the set-up and before the first step.

        Returns:
            Whether there was a checkpoint.
        """
        body = self._file.load()
        if body is None:
            return False
        self.curve = tuple(EpochScore.from_json(score) for score in body["curve"])
        self.seconds, self.cpu_seconds = body["seconds"], body["cpu_seconds"]
        trainer.model.load_state_dict(body["model"])
        trainer.optimizer.load_state_dict(body["optimizer"])
        trainer.scaler.load_state_dict(body["scaler"])
        for average, (updates, state) in zip(_averages(trainer), body["averages"], strict=True):
            average.updates = updates
            average.ema.load_state_dict(state)
        trainer.start_epoch = self.resumed
        trainer.scheduler.last_epoch = self.resumed - 1
        _restore_criterion(trainer.model, self.resumed)
        for index in body["buffer"]:  # where the images do not all fit into memory
            trainer.train_loader.dataset.load_image(index)
        _restore_order(trainer, self.resumed)
        random.setstate(body["random"])
        kind, keys, *rest = body["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(body["torch"])
        if len(body["cuda"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0):
            torch.cuda.set_rng_state_all(body["cuda"])
        return True

    def done(self) -> None:
        """Remove the checkpoint; the training has ended."""
        self._file.remove()


def _averages(trainer: Any) -> list[Any]:
    """Return the host's moving average of the weights, and the proxy's own where there is one."""
    return [trainer.ema, trainer.average] if trainer.average else [trainer.ema]


def _restore_criterion(model: Any, epochs: int) -> None:
    """Advance a loss whose weights change from epoch to epoch, such as that of NMS-free heads."""
    criterion = getattr(model, "criterion", None) or model.init_criterion()
    if hasattr(criterion, "update"):
        for _ in range(epochs):
            criterion.update()
        model.criterion = criterion


def _restore_order(trainer: Any, epochs: int) -> None:
    """Advance the order of the images by some epochs, and close mosaic where it was closed."""
    loader = trainer.train_loader
    if loader.num_workers:  # these had drawn ahead, and their augmentation is lost: draw another order
        loader.generator.manual_seed(loader.generator.initial_seed() + epochs)
    closing = trainer.epochs - trainer.args.close_mosaic if trainer.args.close_mosaic else trainer.epochs
    for epoch in range(0 if loader.num_workers else epochs):
        if epoch == closing:  # from here on the host draws from a new iterator
            loader.reset()
        if loader.iterator is None:
            loader.iterator = loader._get_iterator()
        for _ in range(len(loader)):
            loader.iterator._next_index()
    if epochs > closing:
        trainer._close_dataloader_mosaic()
        trainer.args.close_mosaic = 0  # done; the host would do it again, and draw another order
