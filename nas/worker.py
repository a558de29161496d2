"""The training process: receives jobs, trains them with Ultralytics, sends scores back.

No heavy import stands at the top: the environment has to be set before torch and Ultralytics read it.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import random
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import NasError
from nas.proxy import EpochScore, FailureKind, ProxyJob

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_DATASETS: dict[tuple[object, ...], Any] = {}
"""Datasets with their decoded images, kept from job to job."""


def serve(pipe: Connection, cache: str, threads: int) -> None:
    """Train jobs until the pipe closes. Runs as the main function of its own process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # Ultralytics sets 1 where it is unset
    from nas.offline import go_offline

    if not os.environ.get("NAS_DEBUG"):  # the host prints tables, and warnings would break the parent's live line
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for the life of the process
        warnings.simplefilter("ignore")
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            go_offline(Path(cache))
            body = train(job, threads, lambda score: pipe.send(("epoch", score)))
            message: tuple[str, Any] = ("done", body)
        except BrokenPipeError:
            return
        except Exception as error:  # sent to the parent, which records it with the variant
            message = ("failed", (failure_kind(error), failure_text(error)))
            if os.environ.get("NAS_DEBUG"):
                traceback.print_exc()
        pipe.send(message)


def _die_with_parent() -> None:
    """End this process when its parent is gone, however it went."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class NotANumber(NasError):
    """The loss is no longer finite."""


class BatchHalved(NasError):
    """The host halved the batch after running out of memory; the result would not be comparable."""


def failure_kind(error: BaseException) -> FailureKind:
    """Classify what went wrong."""
    from nas.errors import BuildError

    if isinstance(error, NotANumber):
        return "nan"
    if isinstance(error, BuildError):
        return "build"
    text = str(error).lower()
    memory = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
    if isinstance(error, MemoryError | BatchHalved) or any(m in text for m in memory):
        return "memory"
    return "error"


def failure_text(error: BaseException) -> str:
    """Return one line that says what went wrong."""
    from nas.host import one_line

    if failure_kind(error) == "memory" and not isinstance(error, NasError):
        return f"out of memory: {one_line(error)}"
    return str(error) if isinstance(error, NasError) else one_line(error)


def train(job: ProxyJob, threads: int, report: Any) -> tuple[list[EpochScore], tuple[int, int]]:
    """Train one job in this process.

    Args:
        job: What to train.
        threads: CPU threads.
        report: Called with each `EpochScore`.

    Returns:
        The curve, and how many tensors started from given values out of how many.
    """
    trainer_class = _trainer_class()
    if job.scratch:
        Path(job.scratch).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nas-proxy-", dir=job.scratch) as folder:
        model = Path(folder) / f"{job.name}.yaml"
        model.write_text(job.yaml, encoding="utf-8")
        trainer = trainer_class(job, overrides=_overrides(job, model, Path(folder)))
        curve: list[EpochScore] = []

        def on_epoch(t: Any) -> None:
            score = _score(t)
            if not math.isfinite(score.train_loss):  # of a batch before the last one
                raise NotANumber(f"the loss was no longer a number in epoch {score.epoch}")
            curve.append(score)
            report(score)

        def on_batch(t: Any) -> None:
            if t._oom_retries:
                raise BatchHalved("out of memory: a batch of this size does not fit")

        trainer.add_callback("on_train_start", lambda _: _set_threads(threads))
        trainer.add_callback("on_train_batch_start", on_batch)
        trainer.add_callback("on_fit_epoch_end", on_epoch)
        trainer.train()
        if job.save:
            _save_named(trainer, job)
        return curve, trainer.inherited


def _set_threads(threads: int) -> None:
    """Undo the host's choice, which leaves one core of two idle."""
    import torch

    torch.set_num_threads(threads)


def _score(trainer: Any) -> EpochScore:
    """Return what the epoch that has just been validated ended with."""
    metrics = trainer.metrics
    return EpochScore(
        epoch=trainer.epoch + 1,
        map50=float(metrics["metrics/mAP50(B)"]),
        map=float(metrics["metrics/mAP50-95(B)"]),
        train_loss=float(sum(float(v) for v in trainer.tloss.values())),
        val_loss=float(sum(v for k, v in metrics.items() if k.startswith("val/"))),
        seconds=float(trainer.epoch_time),
    )


def _overrides(job: ProxyJob, model: Path, folder: Path) -> dict[str, object]:
    """Return the recipe in the host's words, with everything pinned that it would choose by itself."""
    recipe = job.recipe
    return {
        "model": str(model),
        "data": job.data,
        "epochs": recipe.epochs,
        "imgsz": recipe.imgsz,
        "batch": recipe.batch,
        "nbs": recipe.batch,  # each batch is a step; the host would gather 64 images
        "device": recipe.device,
        "amp": recipe.amp,
        "seed": job.seed,
        "optimizer": recipe.optimizer,
        "lr0": recipe.lr0,
        "lrf": recipe.lrf,
        "weight_decay": recipe.weight_decay,
        "warmup_epochs": recipe.warmup_epochs,
        "warmup_bias_lr": recipe.warmup_bias_lr,
        "close_mosaic": recipe.epochs // 10,  # the host's 10 of 100, scaled
        "patience": 0,
        "pretrained": False,
        "cache": "ram",
        "workers": 0 if recipe.device == "cpu" else 4,
        "val": True,
        "save": False,
        "plots": False,
        "verbose": False,
        "exist_ok": True,
        "project": str(folder),
        "name": "run",
    }


def _save_named(trainer: Any, job: ProxyJob) -> None:
    """Write the trained tensors by layer name, whole or not at all."""
    import torch

    from nas.host import named_state

    assert job.save
    target = Path(job.save)
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().clone() for k, v in trainer.ema.ema.state_dict().items()}
    beside = Path(job.scratch or target.parent) / f"{target.name}.{os.getpid()}"
    torch.save(named_state(state, _graph(job)), beside)
    beside.replace(target)


def _graph(job: ProxyJob) -> Any:
    """Return the job's named layers."""
    from nas.variant import Variant

    return Variant(job.base, job.scale, job.swaps).graph()


@functools.cache
def _trainer_class() -> Any:
    """Return the trainer of proxies; made at first use, because it needs the host."""
    import numpy as np
    import torch
    from ultralytics.data import dataset as host_dataset
    from ultralytics.utils import callbacks, nms

    from nas.errors import BuildError
    from nas.host import inherit, one_line
    from nas.trainer import Trainer

    # The host stops suppressing boxes when a clock runs out, which would let the load of the machine into the mAP.
    nms.non_max_suppression = functools.partial(nms.non_max_suppression, max_time_img=3600.0)
    # It reports to whatever experiment tracker is installed, over the network or into the current directory.
    callbacks.add_integration_callbacks = lambda *_: None
    # It keeps what it has read of labels beside the user's images, and does not notice every later edit of a label.
    host_dataset.load_dataset_cache_file = _no_cache_file
    host_dataset.save_dataset_cache_file = _keep_no_cache_file

    class ProxyTrainer(Trainer):
        """Trains without checkpoints, plots, logs or a second validation; shares tensors and decoded images."""

        def __init__(self, job: ProxyJob, overrides: dict[str, object]) -> None:
            self.job = job
            self.inherited = (0, 0)
            self._oom_retries = 0
            super().__init__(overrides=overrides)

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            start = torch.initial_seed()
            given = _initial_state(self.job, self.data["nc"])
            torch.manual_seed(start)
            try:
                model = super().get_model(cfg, None, verbose=False)
            except Exception as error:  # whatever a module raises is the variant's failure
                raise BuildError(f"cannot be built: {one_line(error)}") from error
            self.inherited = inherit(model, _graph(self.job), given)
            if self.job.recipe.channels_last:
                model = model.to(memory_format=torch.channels_last)
            torch.manual_seed(start)  # variants draw differently while they are built; from here on they are paired
            return model

        def build_dataset(self, img_path: Any, mode: str = "train", batch: int | None = None) -> Any:
            key = (self.job.data_key, str(img_path), mode, batch, self.args.imgsz)
            if key not in _DATASETS:
                for other in [k for k in _DATASETS if k[2] == mode]:
                    del _DATASETS[other]
                drawn = random.getstate(), np.random.get_state()
                _DATASETS[key] = super().build_dataset(img_path, mode, batch)
                random.setstate(drawn[0])  # it samples files; a job that finds the dataset made must draw alike
                np.random.set_state(drawn[1])
            dataset = _DATASETS[key]
            dataset.buffer = []
            dataset.transforms = dataset.build_transforms(hyp=copy.copy(self.args))
            return dataset

        def preprocess_batch(self, batch: Any) -> Any:
            batch = super().preprocess_batch(batch)
            if self.job.recipe.channels_last:
                batch["img"] = batch["img"].to(memory_format=torch.channels_last)
            return batch

        def _handle_nan_recovery(self, epoch: int) -> bool:
            # The host would go on from a checkpoint that is not there; its own rule runs before any callback.
            values = [torch.as_tensor(v).detach() for v in (self.loss, self.fitness) if v is not None]
            if not all(bool(v.isfinite().all()) for v in values):
                raise NotANumber(f"the loss was no longer a number in epoch {epoch + 1}")
            return False

        def save_model(self) -> bool:
            return False

        def save_metrics(self, metrics: Any) -> None:
            pass

        def final_eval(self) -> None:
            pass

    return ProxyTrainer


def _no_cache_file(path: Path) -> Any:
    """Stand in for the host's reader of label caches: there is none."""
    raise FileNotFoundError(path)


def _keep_no_cache_file(_prefix: str, _path: Path, content: dict[str, Any], version: str) -> None:
    """Stand in for the host's writer of label caches: add what it adds to the content, and write nothing."""
    content["version"] = version


def _initial_state(job: ProxyJob, nc: int) -> dict[str, Any]:
    """Return the named tensors that every variant of the study starts from.

    Raises:
        ProxyError: The file to inherit from holds nothing that fits.
    """
    from nas.errors import ProxyError
    from nas.graph import load_base
    from nas.host import build, named_state
    from nas.render import render
    from nas.variant import Variant

    baseline = Variant(job.base, job.scale)
    own = named_state(build(render(baseline).yaml, job.scale, nc).state_dict(), load_base(job.base))
    if job.init is None:
        return own
    given = _read_state(job.init, job.base)
    shared = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if len(shared) < 0.8 * len(own):  # the class head alone may differ
        raise ProxyError(
            f"{job.init} holds only {len(shared)} of the {len(own)} tensors of {job.base}{job.scale}: "
            "it is of another model or scale"
        )
    return {**own, **shared}


def _read_state(path: str, base: str) -> dict[str, Any]:
    """Return named tensors from a file of ours, or from an Ultralytics checkpoint of the same base."""
    import torch

    from nas.errors import ProxyError
    from nas.graph import load_base
    from nas.host import named_state

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a checkpoint with classes in it; the host reads those
        from ultralytics.nn.tasks import load_checkpoint

        model, _ = load_checkpoint(path)
        graph = load_base(base)
        if len(model.model) != len(graph.layers):
            raise ProxyError(f"{path} has {len(model.model)} layers, {base} has {len(graph.layers)}") from None
        return named_state(model.float().state_dict(), graph)
    return dict(state)
