"""The state of a running training: what is kept at the end of an epoch, and how a new process takes it up.

A training that goes on so ends with the numbers of one that never stopped, bit for bit, where images are loaded by the
training process itself (on CPUs) and as many threads compute. Beside a GPU, processes of their own load the images:
their random states die with them, and the training goes on with others.
"""

from __future__ import annotations

import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.checkpoint import Checkpoint
from nas.jobs import ProxyJob
from nas.scores import EpochScore


class Keeper:
    """Keeps one training's state in its checkpoint.

    Attributes:
        curve: The epochs that an earlier process had trained; empty when there was none.
        cpu_seconds: That they took, and `seconds` of wall time.
    """

    def __init__(self, job: ProxyJob) -> None:
        assert job.checkpoint
        self._file = Checkpoint(Path(job.checkpoint), job.checkpoint_s)
        self._started = time.monotonic(), time.process_time()
        self.curve: tuple[EpochScore, ...] = ()
        self.cpu_seconds = self.seconds = 0.0

    @property
    def resumed(self) -> int:
        """How many epochs an earlier process had trained."""
        return len(self.curve)

    def keep(self, trainer: Any, curve: list[EpochScore]) -> None:
        """Save the state at the end of an epoch, if the last save is long enough ago."""
        if not self._file.due:
            return
        import numpy as np
        import torch

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
                "buffer": list(trainer.train_loader.dataset.buffer),
            }
        )

    def resume(self, trainer: Any) -> bool:
        """Take up what an earlier process has saved, after everything is set up and before the first step.

        Returns:
            Whether there was something.
        """
        import numpy as np
        import torch

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
        _take_up_criterion(trainer.model, self.resumed)
        for index in body["buffer"]:  # where the images do not all fit into memory
            trainer.train_loader.dataset.load_image(index)
        _take_up_order(trainer, self.resumed)
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
    """Return the host's moving average of the weights, and that of the proxy where there is one."""
    return [trainer.ema, trainer.average] if trainer.average else [trainer.ema]


def _take_up_criterion(model: Any, epochs: int) -> None:
    """Let a loss whose weights change from epoch to epoch, such as that of heads without suppression, count these."""
    criterion = getattr(model, "criterion", None) or model.init_criterion()
    if hasattr(criterion, "update"):
        for _ in range(epochs):
            criterion.update()
        model.criterion = criterion


def _take_up_order(trainer: Any, epochs: int) -> None:
    """Bring the order of the images to where it stood after some epochs, and leave mosaic off where it was."""
    loader = trainer.train_loader
    if loader.num_workers:  # these have drawn ahead, and their augmentation is lost: go on with another draw
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
        trainer.args.close_mosaic = 0  # done; the host would do it again, and draw anew
