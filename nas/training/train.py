"""One training in the training process, with everything pinned that Ultralytics would choose by itself."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nas.errors import BatchHalved, Diverged, NotANumber
from nas.files import replacing
from nas.model.transfer import named_state
from nas.space.bases import task_of_base
from nas.task.task import Task
from nas.training.checkpoint import Checkpointer
from nas.training.host_patches import patched_host
from nas.training.host_version import loss_values, settings_of_host
from nas.training.initial_state import graph_of
from nas.training.jobs import ProxyJob, ProxyResult
from nas.training.proxy_trainer import ProxyTrainer, proxy_trainer_of, validation_of
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation, diverges


def train(job: ProxyJob, threads: int, report: Any) -> ProxyResult:
    """Train one job in this process, or only validate its initial weights when its recipe has no epochs.

    Args:
        job: What to train.
        threads: CPU threads.
        report: Called with each `EpochScore`.
    """
    started = time.process_time()
    checkpointer = Checkpointer(job) if job.checkpoint and job.recipe.epochs else None
    with open_trainer(job, threads) as trainer:
        curve: list[EpochScore] = []
        average: Validation | None = None

        def on_start(t: Any) -> None:
            if checkpointer and checkpointer.resume(t):
                for score in checkpointer.curve:
                    curve.append(score)
                    report(score)

        def on_epoch(t: Any) -> None:
            nonlocal average
            score = _score(t)
            if not math.isfinite(score.train_loss):  # of a batch before the last one
                raise NotANumber(f"the loss was no longer a number in epoch {score.epoch}")
            if diverges(curve, score):
                low = min(s.train_loss for s in curve)
                raise Diverged(f"the loss rose from {low:.2f} to {score.train_loss:.2f} by epoch {score.epoch}")
            curve.append(score)
            report(score)
            if score.epoch == job.recipe.epochs:
                average = t.validate_average() if job.average else None
            elif checkpointer:
                checkpointer.keep(t, curve)

        def on_batch(t: Any) -> None:
            if t._oom_retries:
                raise BatchHalved("out of memory: a batch of this size does not fit")

        if job.recipe.epochs:
            trainer.add_callback("on_train_start", on_start)
            trainer.add_callback("on_train_batch_start", on_batch)
            trainer.add_callback("on_fit_epoch_end", on_epoch)
            try:
                trainer.train()
            except (NotANumber, Diverged):  # it would fail again: do not resume it
                if checkpointer:
                    checkpointer.done()
                raise
        else:
            curve.append(trainer.score_untrained())
            report(curve[0])
            average = curve[0].validation
        if job.save:
            _save_named(trainer, job)
        cpu_seconds = time.process_time() - started
        if checkpointer is None:
            return ProxyResult(tuple(curve), average, trainer.inherited, cpu_seconds)
        checkpointer.done()
        return ProxyResult(
            tuple(curve),
            average,
            trainer.inherited,
            checkpointer.cpu_seconds + cpu_seconds,
            checkpointer.seconds,
            checkpointer.resumed,
        )


@contextlib.contextmanager
def open_trainer(job: ProxyJob, threads: int) -> Iterator[ProxyTrainer]:
    """Give a job's trainer, not set up yet; until it closes, the host is patched and a scratch folder exists.

    At the end its loaders close, with their processes and prefetched batches.
    """
    if job.scratch:
        Path(job.scratch).mkdir(parents=True, exist_ok=True)
    with patched_host(job.recipe), tempfile.TemporaryDirectory(prefix="nas-proxy-", dir=job.scratch) as scratch:
        folder = Path(scratch).absolute()  # the host puts relative paths below ``runs/`` in the current directory
        model = folder / f"{job.name}.yaml"
        model.write_text(job.yaml, encoding="utf-8")
        task = task_of_base(job.base)
        trainer = proxy_trainer_of(task)(job, threads, _overrides(job, model, folder, task))
        try:
            yield trainer
        finally:
            trainer.close_loaders()


def _score(trainer: Any) -> EpochScore:
    """Return the score of the epoch that has just ended."""
    return EpochScore(
        epoch=trainer.epoch + 1,
        train_loss=float(sum(loss_values(trainer.tloss))),
        seconds=float(trainer.epoch_time),
        validation=validation_of(trainer.metrics, trainer.of_task) if trainer.args.val else None,
    )


def overrides_of(recipe: Recipe) -> dict[str, object]:
    """Return a recipe as settings of the host, with everything pinned that it would choose by itself."""
    return {
        "epochs": max(1, recipe.epochs),
        "imgsz": recipe.imgsz,
        "batch": recipe.batch,
        "nbs": recipe.batch,  # each batch is a step; the host would gather 64 images
        "device": recipe.device,
        "amp": recipe.amp,
        "optimizer": recipe.optimizer,
        "lr0": recipe.lr0,
        "lrf": recipe.lrf,
        "weight_decay": recipe.weight_decay,
        "warmup_epochs": recipe.warmup_epochs,
        "warmup_bias_lr": recipe.warmup_bias_lr,
        "mosaic": recipe.mosaic,
        "close_mosaic": recipe.epochs // 10,  # the host's 10 of 100, scaled
        "patience": 0,
    }


def _overrides(job: ProxyJob, model: Path, folder: Path, task: Task) -> dict[str, object]:
    """Return the settings of the host's trainer: the recipe, and no output files."""
    further: dict[str, object] = {}
    if not task.has_objects:
        # Without weights the host of this task would reset what modules start from. A recipe without mosaic is one
        # whose few epochs see images like those of the validation.
        further = {"pretrained": True, **({} if job.recipe.mosaic else {"auto_augment": None, "erasing": 0.0})}
    return {
        **settings_of_host(overrides_of(job.recipe)),
        "model": str(model),
        "data": job.data,
        "seed": job.seed,
        "pretrained": False,
        "cache": "ram",
        "workers": 0 if job.recipe.device == "cpu" else 4,
        "val": True,
        "save": False,
        "plots": False,
        "verbose": False,
        "exist_ok": True,
        "project": str(folder),
        "name": "run",
        **further,
    }


def _save_named(trainer: ProxyTrainer, job: ProxyJob) -> None:
    """Write the trained tensors by layer name, whole or not at all."""
    assert job.save
    state = {k: v.detach().cpu().clone() for k, v in trainer.ema.ema.state_dict().items()}
    # In the scratch folder, the file of a killed process is removed later.
    with replacing(Path(job.save), folder=Path(job.scratch) if job.scratch else None) as temporary:
        torch.save(named_state(state, graph_of(job)), temporary)
