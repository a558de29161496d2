"""Proxies: short trainings that stand for full ones.

A proxy is one variant, one seed, one pinned recipe, and gives a curve. It runs in a process of its own that is kept
from one proxy to the next: imports and decoded images stay, and what a failing variant breaks dies with the process.
This file is the parent's side; `nas.worker` trains.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nas.errors import ProxyError

FailureKind = Literal["build", "memory", "nan", "died", "error"]

SCRATCH_LR0 = 2e-3
"""AdamW's learning rate from scratch: what Ultralytics' own optimizer=auto takes for a handful of classes."""
FINE_TUNE_LR0 = 5e-4
"""AdamW's learning rate from trained weights: high enough to fit a new module, low enough to keep the trained rest."""

_FROM_SCRATCH: dict[str, Any] = {"warmup_epochs": 1.0, "warmup_bias_lr": 0.1}
"""The host's own warm-up, which untrained weights need."""


@dataclass(frozen=True)
class Recipe:
    """How every proxy of a study is trained. Pinned: nothing here is chosen by the host at run time.

    Attributes:
        epochs: Epochs of a proxy; its schedule (warm-up, linear decay to `lrf`) spans exactly these.
        imgsz: Image side in pixels.
        batch: Images a step; the nominal batch size too, so that each batch is a step.
        init: ``baseline`` (inherit from a baseline trained once per study), ``scratch``, or a .pt file to inherit from.
        init_digest: SHA-256 of that file, so that another one under its name is noticed; empty without one.
        base_epochs: Epochs of that baseline, from scratch.
        lr0: Initial learning rate of a proxy.
        base_lr0: Initial learning rate of the baseline's training.
        lrf: Final learning rate over the initial one.
        warmup_epochs: Epochs of linear warm-up, of a proxy.
        warmup_bias_lr: Learning rate at which biases start the warm-up. High, it helps a training from scratch off the
            ground; trained weights it sets back.
        weight_decay: AdamW's weight decay.
        channels_last: Whether tensors lie in memory with the channels last: the same numbers but for rounding, sooner.
        optimizer: By the host's name for it.
        device: ``cpu`` or a CUDA device number.
        amp: ``bf16`` on GPUs that have it; False trains in float32.
    """

    epochs: int = 8
    imgsz: int = 160
    batch: int = 16
    init: str = "baseline"
    init_digest: str = ""
    base_epochs: int = 24
    lr0: float = FINE_TUNE_LR0
    base_lr0: float = SCRATCH_LR0
    lrf: float = 0.01
    warmup_epochs: float = 0.5
    warmup_bias_lr: float = 0.0
    weight_decay: float = 5e-4
    channels_last: bool = True
    optimizer: str = "AdamW"
    device: str = "cpu"
    amp: str | bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values for storing."""
        return asdict(self)

    def differences(self, other: Recipe) -> list[str]:
        """Say what differs, a line each; a file to inherit from may have moved."""
        mine, theirs = self.to_json(), other.to_json()
        if self.init_digest and self.init_digest == other.init_digest:
            theirs["init"] = mine["init"]
        return [f"{key}: {mine[key]!r}, not {theirs[key]!r}" for key in mine if mine[key] != theirs[key]]

    def for_baseline(self) -> Recipe:
        """Return the recipe of the baseline that others inherit from."""
        return replace(self, epochs=self.base_epochs, lr0=self.base_lr0, init="scratch", **_FROM_SCRATCH)


def make_recipe(
    *, init: str, epochs: int, imgsz: int, batch: int, base_epochs: int | None, device: str | None
) -> Recipe:
    """Return the recipe of a new study; what is None is chosen from the rest and the machine."""
    device = device or ("0" if _cuda() else "cpu")
    return Recipe(
        epochs=epochs,
        imgsz=imgsz,
        batch=batch,
        init=init,
        init_digest=digest_of(init),
        base_epochs=base_epochs if base_epochs is not None else max(3 * epochs, 20),
        lr0=SCRATCH_LR0 if init == "scratch" else FINE_TUNE_LR0,
        **(_FROM_SCRATCH if init == "scratch" else {}),
        device=device,
        amp=_bf16() if device != "cpu" else False,
    )


def digest_of(init: str) -> str:
    """Return the SHA-256 of the file that a recipe inherits from; empty if it names none.

    Raises:
        ProxyError: The file cannot be read.
    """
    if init in ("baseline", "scratch"):
        return ""
    try:
        return hashlib.sha256(Path(init).read_bytes()).hexdigest()
    except OSError as error:
        raise ProxyError(f"cannot read the weights to inherit from: {error}") from None


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _bf16() -> str | bool:
    import torch

    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else False


@dataclass(frozen=True)
class ProxyJob:
    """One training.

    Attributes:
        name: Stem of the model YAML's file name.
        yaml: The model YAML's text.
        base: Name of the base, and `scale` its letter: shared tensors are found by its layers' names.
        swaps: The variant's swaps, which tell how rows map to named layers.
        data: A data.yaml that Ultralytics can read as it is; `data_key` changes when the images or labels do.
        recipe: How to train.
        seed: Of initial values, data order and augmentation.
        init: A file of named tensors or an Ultralytics checkpoint to inherit from; None starts from the baseline's
            initial values for the seed.
        save: Where to write the trained tensors by name; None writes nothing.
        scratch: Where the training may make files, which it removes; None is the system's place for them.
    """

    name: str
    yaml: str
    base: str
    scale: str
    swaps: tuple[tuple[str, str], ...]
    data: str
    data_key: str
    recipe: Recipe
    seed: int
    init: str | None = None
    save: str | None = None
    scratch: str | None = None


@dataclass(frozen=True)
class EpochScore:
    """What one epoch ended with: mAP on the validation images, and the summed losses."""

    epoch: int
    map50: float
    map: float
    train_loss: float
    val_loss: float
    seconds: float


@dataclass(frozen=True)
class ProxyResult:
    """A finished training.

    Attributes:
        curve: One score an epoch; the last one is the result.
        inherited: Tensors that started from given values, and all tensors.
        seconds: Wall time, the set-up included.
    """

    curve: tuple[EpochScore, ...]
    inherited: tuple[int, int]
    seconds: float


class ProxyFailure(ProxyError):
    """A proxy that failed, with the kind of failure; the search goes on without it."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ProxyWorker:
    """A training process that is kept from proxy to proxy, and replaced when it dies."""

    def __init__(self, cache: Path, threads: int | None = None) -> None:
        """Prepare; the process starts with the first job.

        Args:
            cache: Where the host may write (settings, a font).
            threads: CPU threads; None takes the cores that this process may use.
        """
        self._cache = cache
        self._threads = threads or available_cores()
        self._process: Any = None
        self._pipe: Any = None

    def run(self, job: ProxyJob, on_epoch: Callable[[EpochScore], None] | None = None) -> ProxyResult:
        """Train one job and return its result.

        Args:
            job: What to train.
            on_epoch: Called with each epoch's score as it comes.

        Raises:
            ProxyFailure: It failed; the worker stays usable.
        """
        started = time.monotonic()
        self._start()
        try:
            self._pipe.send(job)
            while True:
                kind, body = self._pipe.recv()
                if kind == "epoch":
                    if on_epoch:
                        on_epoch(body)
                elif kind == "done":
                    curve, inherited = body
                    return ProxyResult(tuple(curve), inherited, time.monotonic() - started)
                else:
                    failure, message = body
                    if failure in ("memory", "error"):  # what it has broken in its process is unknown
                        self.close()
                    raise ProxyFailure(failure, message)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(10)
            code = self._process.exitcode
            self.close()
            why = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            hint = "; the system kills processes so when memory runs out" if code == -9 else ""
            raise ProxyFailure("died", f"the training process died ({why}){hint}") from None
        except ProxyFailure:
            raise
        except BaseException:  # Ctrl-C above all: a training that nobody waits for must not go on
            self.close()
            raise

    def close(self) -> None:
        """Stop the process, whatever it does."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.kill()
        self._process.join()
        self._process = self._pipe = None

    def __enter__(self) -> ProxyWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        """Start the process unless it runs."""
        if self._process is not None and self._process.is_alive():
            return
        self.close()
        from nas.worker import serve

        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, str(self._cache), self._threads))
        # Not a daemon: it starts processes of its own where images are loaded beside a GPU. It ends with its pipe, with
        # its parent, or in `close`.
        self._process.start()
        theirs.close()


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
