"""The trainer of proxies: Ultralytics' trainer without its side effects, and deterministic."""

from __future__ import annotations

import copy
import gc
import math
import random
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn import tasks
from ultralytics.utils.torch_utils import ModelEMA

from nas.errors import BuildError, NotANumber, one_line
from nas.model.host import check_yaml
from nas.model.host_input import constructing
from nas.model.trainer import TRAINERS
from nas.model.transfer import copy_matching, narrow_tensors, warm_start_swaps
from nas.ops.stages import DECODER
from nas.task.task import DETECT, Task
from nas.training.batch_cache import BatchCache, detach_cache
from nas.training.host_patches import Float32Loss
from nas.training.host_version import adapt_trainer, forget_validation, set_up_training
from nas.training.initial_state import graph_of, initial_state, variant_of
from nas.training.jobs import ProxyJob
from nas.training.recipe import WHOLE
from nas.training.scores import EpochScore, Validation
from nas.training.windows import WindowDataset

_DATASETS: dict[tuple[object, ...], Any] = {}
"""Datasets with their decoded images, kept from job to job."""
_KEPT = {"train": 384 * 2**20, "val": 128 * 2**20}
"""Maximum bytes of finished batches to keep, of either split."""
_AVERAGED = 0.1
"""Share of a training's steps that the averaged weights span."""
_REFRESH_BATCHES = 8
"""Batches of training images to recompute BatchNorm statistics from."""


class ProxyTrainer(BaseTrainer):  # type: ignore[misc]  # Ultralytics is untyped
    """Trains without checkpoints, plots, logs or a second validation; shares tensors and decoded images."""

    of_task: Task = DETECT
    """The task that is trained; `proxy_trainer_of` makes a class for each, which has the host's trainer of it too."""

    def __init__(self, job: ProxyJob, threads: int, overrides: dict[str, object]) -> None:
        self.job = job
        self.threads = threads
        self.inherited = (0, 0)
        self.average: Any = None
        self.amp: bool
        self._oom_retries = 0
        super().__init__(overrides=overrides)
        self.add_callback("on_train_start", lambda t: t.begin())
        self.add_callback("on_train_epoch_start", lambda t: t.choose_validation())
        adapt_trainer(self, job.recipe)

    def begin(self) -> None:
        """Complete the host's set-up, before the first step."""
        torch.set_num_threads(self.threads)  # the host leaves one core of two idle
        if self.job.recipe.init == "bank" or self.job.is_pruned:
            self.refresh_statistics()
        if self.job.average:
            steps = max(1, self.job.recipe.epochs) * len(self.train_loader)
            span = max(1.0, _AVERAGED * steps)
            self.average = ModelEMA(self.model, decay=1 - 1 / span, tau=1e-3)
        if self.job.recipe.amp and self.device.type == "cpu":
            self.model.criterion = Float32Loss(self.model.init_criterion())

    def build_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Build the host's optimizer; on CPUs AdamW is fused."""
        optimizer = super().build_optimizer(*args, **kwargs)
        if isinstance(optimizer, torch.optim.AdamW) and self.device.type == "cpu":
            # One pass over each tensor takes two fifths of the time, and changes the fifth digit of a score.
            for group in optimizer.param_groups:
                group["fused"] = True
        return optimizer

    def choose_validation(self) -> None:
        """Validate the last epochs only."""
        self.args.val = self.epoch >= self.epochs - self.job.recipe.validations

    def optimizer_step(self) -> None:
        """Take a step, and update the averaged weights."""
        super().optimizer_step()
        if self.average:
            self.average.update(self.model)

    def validate(self) -> Any:
        """Validate in float32, whatever the recipe trains in.

        The host would do it in float16 wherever a training is not in float32. There, a variant whose activations pass
        65504, which is nothing to bfloat16, finds no box at all and scores a silent 0. And in bfloat16 itself the
        corners of the boxes would be off by up to 1/256 of their distance from the image's.

        Raises:
            NotANumber: The validation loss is not finite.
        """
        forget_validation(self.validator)
        amp, self.amp = self.amp, False
        try:
            metrics, fitness = super().validate()
        finally:
            self.amp = amp
        if not math.isfinite(validation_of(metrics, self.of_task).loss):
            raise NotANumber("the validation loss is not a number")
        return metrics, fitness

    def validate_average(self) -> Validation:
        """Validate the averaged weights."""
        kept = getattr(self, "ema")  # noqa: B009  # the host sets it in a loop that mypy cannot follow
        self.ema = self.average
        metrics, _ = self.validate()
        self.ema = kept
        return validation_of(metrics, self.of_task)

    def score_untrained(self) -> EpochScore:
        """Set up and validate the initial weights, with recomputed BatchNorm statistics."""
        started = time.monotonic()
        self.set_up()
        loss = self.refresh_statistics()
        return EpochScore(0, loss, time.monotonic() - started, self.validate_now())

    def set_up(self) -> None:
        """Do everything before the first step of a training, for jobs that do not call `train`."""
        set_up_training(self)
        torch.set_num_threads(self.threads)
        self.epoch = 0
        with torch.no_grad():  # a validation needs the names of the losses
            batch = next(self.validation_batches())
            self.loss, self.loss_items = self.ema.ema.loss(batch, self.ema.ema(batch["img"]))

    def validate_now(self) -> Validation:
        """Validate ``ema.ema`` as it is."""
        metrics, _ = self.validate()
        return validation_of(metrics, self.of_task)

    def validation_batches(self) -> Iterator[Any]:
        """Iterate over the validation images, ready for the model."""
        for batch in self.test_loader:
            yield self.preprocess_batch(batch)

    def augmented(self) -> Any:
        """Return the training images, augmented one by one: without mosaic and all else that mixes images."""
        dataset = copy.copy(self.train_loader.dataset)
        detach_cache(dataset)
        hyp = copy.copy(self.args)
        hyp.mosaic = hyp.mixup = hyp.cutmix = hyp.copy_paste = 0.0
        dataset.transforms = dataset.build_transforms(hyp=hyp)
        return dataset

    def refresh_statistics(self) -> float:
        """Recompute BatchNorm's statistics; return the mean loss on the images that they come from.

        These are augmented like the images that the weights were trained on: statistics of plain images would cost a
        trained baseline a seventh of its mAP.
        """
        norms = [m for m in self.model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        momenta = [m.momentum for m in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over the batches
        self.model.train()
        losses = []
        with torch.no_grad():
            for batch in self.sample(_REFRESH_BATCHES):
                loss, self.loss_items = self.model(batch)
                losses.append(self.loss_of_image(loss, batch))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.ema.ema.load_state_dict(self.model.state_dict())
        return sum(losses) / len(losses)

    def loss_of_image(self, loss: Any, batch: Any) -> float:
        """Return the mean loss of the images of a batch from what is minimised: the sum over them."""
        return float(loss.sum()) / len(batch["img"])

    def sample(self, batches: int) -> Iterator[Any]:
        """Iterate over some of the `augmented` images, the same for every variant of a seed, in batches.

        All random states are restored.
        """
        dataset = self.augmented()
        drawn = random.getstate(), np.random.get_state(), torch.get_rng_state()
        for seeded in (random.seed, np.random.seed, torch.manual_seed):
            seeded(self.job.seed)
        size = self.job.recipe.batch
        chosen = torch.randperm(len(dataset))[: batches * size].tolist()
        for i in range(0, len(chosen), size):
            items = [dataset[k] for k in chosen[i : i + size]]
            if len(items) > 1 or i == 0:  # statistics of one image may not be defined
                yield self.preprocess_batch(collated(dataset, items))
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
        torch.set_rng_state(drawn[2])

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the job's model with its initial weights.

        Raises:
            BuildError: A module raises an error.
        """
        check_yaml(self.job.yaml)
        start = torch.initial_seed()
        baseline, own, given = initial_state(self.job, self.data["nc"], self.data.get("kpt_shape"))
        torch.manual_seed(start)
        try:
            with constructing(tasks):
                model = super().get_model(cfg, None, verbose=False)
        except Exception as error:  # any error that a module raises is the variant's failure
            raise BuildError(f"cannot be built: {one_line(error)}") from error
        graph = graph_of(self.job)
        copy_matching(model, graph, own)
        self.inherited = copy_matching(model, graph, given)
        if self.job.init and self.job.recipe.start == "near":
            warm_start_swaps(model, graph, baseline, {**own, **given})
        if self.job.init and (variant := variant_of(self.job)).narrowed:
            near = self.job.recipe.start == "near"
            data = self.data["nc"], self.data.get("kpt_shape")
            made = narrow_tensors(variant, model, baseline, {**own, **given}, *data, near=near)
            made = {key: value for key, value in made.items() if f":{DECODER}." not in key}
            copy_matching(model, graph, made)
            more = sum(key in given and given[key].shape != value.shape for key, value in made.items())
            self.inherited = (min(self.inherited[0] + more, self.inherited[1]), self.inherited[1])
        if self.job.recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)
        torch.manual_seed(start)  # variants draw differently while they are built; from here on they are paired
        return model

    def build_dataset(self, img_path: Any, mode: str = "train", batch: int | None = None) -> Any:
        """Return a dataset with decoded images: that of an earlier job on the same data, or a new one."""
        windows = self.job.recipe.windows_at and (self.job.recipe.windows_at, self.job.recipe.validated_on)
        key = (self.job.data_key, str(img_path), mode, batch, self.args.imgsz, windows, self.of_task.name)
        if key not in _DATASETS:
            for other in [k for k in _DATASETS if k[2] == mode]:
                del _DATASETS[other]
            gc.collect()  # they refer to themselves; the host looks how much memory is free
            drawn = random.getstate(), np.random.get_state()
            _DATASETS[key] = self._read_dataset(img_path, mode, batch)
            random.setstate(drawn[0])  # it samples files; a job that finds the dataset made must draw alike
            np.random.set_state(drawn[1])
            if self.device.type == "cpu":  # with a GPU, loader processes make the batches
                _DATASETS[key].batches = BatchCache(_DATASETS[key], _KEPT[mode])
        dataset = _DATASETS[key]
        dataset.buffer = []
        dataset.transforms = dataset.build_transforms(hyp=copy.copy(self.args))
        if hasattr(dataset, "batches"):
            dataset.batches.begin((self.job.seed, self.job.recipe) if mode == "train" else "validation")
        return dataset

    def close_loaders(self) -> None:
        """End the processes of the loaders; the host does so only after a training that succeeds."""
        for name in ("train_loader", "test_loader"):
            loader: Any = getattr(self, name, None)
            if loader is not None and hasattr(loader, "close"):
                loader.close()

    def _read_dataset(self, img_path: Any, mode: str, batch: int | None) -> Any:
        """Return a new dataset: the host's, or one of windows."""
        recipe = self.job.recipe
        if not recipe.windows_at:
            return super().build_dataset(img_path, mode, batch)
        if mode == "val" and recipe.validated_on == WHOLE:
            own, self.args.imgsz = self.args.imgsz, recipe.windows_at
            try:
                return super().build_dataset(img_path, mode, batch)
            finally:
                self.args.imgsz = own
        return WindowDataset(
            img_path=img_path,
            imgsz=recipe.windows_at,
            window=recipe.imgsz,
            batch_size=batch,
            augment=mode == "train",
            hyp=self.args,
            rect=False,
            cache=self.args.cache or None,
            stride=max(int(self.model.stride.max()), 32),
            prefix=f"{mode}: ",
            task=self.args.task,
            data=self.data,
        )

    def preprocess_batch(self, batch: Any) -> Any:
        """Move a batch to the device, in the recipe's memory format."""
        batch = super().preprocess_batch(batch)
        if self.job.recipe.channels_last:
            batch["img"] = batch["img"].to(memory_format=torch.channels_last)
        return batch

    def _handle_nan_recovery(self, epoch: int) -> bool:
        # The host would reload its own checkpoint, which is not written here; this hook runs before any callback.
        values = [torch.as_tensor(v).detach() for v in (self.loss, self.fitness) if v is not None]
        if not all(bool(v.isfinite().all()) for v in values):
            raise NotANumber(f"the loss was no longer a number in epoch {epoch + 1}")
        return False

    def save_model(self) -> bool:
        """Write no model: `nas.training.train` saves what is needed."""
        return False

    def save_metrics(self, metrics: Any) -> None:
        """Write no CSV file."""

    def final_eval(self) -> None:
        """Validate no second time."""


class ClassProxyTrainer(ProxyTrainer):
    """Of classification, whose dataset has its own augmentation, and no mosaic, windows or cache of batches.

    The augmentation draws from torch's random generator, which each training and each step of a distillation seeds.
    """

    def augmented(self) -> Any:
        """Return the training images, each augmented for itself."""
        return self.train_loader.dataset

    def build_dataset(self, img_path: Any, mode: str = "train", batch: int | None = None) -> Any:
        """Return a dataset with decoded images: that of an earlier job on the same data, or a new one."""
        shown = (self.args.imgsz, self.args.auto_augment, self.args.erasing)
        key = (self.job.data_key, str(img_path), mode, shown, self.of_task.name)
        if key not in _DATASETS:
            for other in [k for k in _DATASETS if k[2] == mode]:
                del _DATASETS[other]
            gc.collect()
            _DATASETS[key] = super(ProxyTrainer, self).build_dataset(img_path, mode, batch)
        return _DATASETS[key]

    def loss_of_image(self, loss: Any, batch: Any) -> float:
        """Return the loss, which is the mean over the images."""
        return float(loss)


def collated(dataset: Any, items: list[Any]) -> Any:
    """Return items of a dataset as a batch; one of classification leaves it to torch."""
    return getattr(dataset, "collate_fn", default_collate)(items)


@cache
def proxy_trainer_of(task: Task) -> type[ProxyTrainer]:
    """Return the trainer of proxies of a task: what is ours before what is the host's of the task."""
    ours = ProxyTrainer if task.has_objects else ClassProxyTrainer
    return type("ProxyTrainer", (ours, TRAINERS[task.name]), {"of_task": task})


def validation_of(metrics: Any, task: Task = DETECT) -> Validation:
    """Return a validation from the host's metrics: the two of the task."""
    map50, mean = task.keys
    return Validation(
        map50=float(metrics[map50]),
        map=float(metrics[mean]),
        loss=float(sum(v for k, v in metrics.items() if k.startswith("val/"))),
    )
