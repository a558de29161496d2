"""What differs between releases of Ultralytics, from 8.3.0 on: all that a training does otherwise for an older one.

Every difference names the release that made it. What decides is what the installed code has, not its version: forks
keep the version of the release that they come from. Where an older release would train otherwise than the newest one
(its warm-up, the seed of its order of images, where mosaic takes images from), it is made to train as the newest does;
`.ci/hosts` runs a search, a bank and the emitted forms with five releases.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import random
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from nas.task.task import Task
from nas.training.recipe import Recipe


def set_up_training(trainer: Any) -> None:
    """Have a trainer of the host do everything before its first step, for one process."""
    # 8.3.200 dropped the argument `world_size`.
    trainer._setup_train(*[1] * len(inspect.signature(trainer._setup_train).parameters))


def loss_values(items: Any) -> list[float]:
    """Return the parts of a loss, whose sum is the loss of an image: those of a step, or the means of an epoch."""
    # 8.4.104 made a dictionary by name of the tensor.
    if isinstance(items, Mapping):
        return [float(value) for value in items.values()]
    return torch.as_tensor(items).reshape(-1).tolist()  # of classification, the one loss was a number


def forget_validation(validator: Any) -> None:
    """Let a validator start without the result of its last run."""
    # Before 8.3.79, a run in which no box was right returned the result of the run before it.
    for name in ("box", "seg", "pose"):
        if (part := getattr(validator.metrics, name, None)) is not None:
            setattr(validator.metrics, name, type(part)())


def settings_of_host(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings of a training as the installed release takes them; `adapt_trainer` does what they leave out."""
    settings = dict(settings)
    if not _warms_up_as_told():
        settings["warmup_epochs"] = 0
    if not _knows_bf16():
        settings["amp"] = False
    return settings


def adapt_trainer(trainer: Any, recipe: Recipe) -> None:
    """Let a trainer of ours do what the installed release does not do by itself, or does not ask it for.

    Args:
        trainer: The trainer; its settings are those of `settings_of_host`.
        recipe: What it has to do.
    """
    if not _warms_up_as_told():
        warm_up = WarmUp(recipe.warmup_epochs, recipe.warmup_bias_lr)
        trainer.add_callback("on_train_epoch_start", warm_up.begin_epoch)
        trainer.add_callback("on_train_batch_start", warm_up.begin_step)
    # From 8.3.213 on, the host calls this after an epoch. Before, a training went on with a loss that was no number.
    if not hasattr(_base_trainer(), "_handle_nan_recovery"):
        trainer.add_callback("on_fit_epoch_end", lambda t: t._handle_nan_recovery(t.epoch))


def release_patches(recipe: Recipe) -> list[tuple[Any, str, Any]]:
    """Return patches of the host in the form of `nas.training.host_patches`: owner, name and what takes its place."""
    augment = importlib.import_module("ultralytics.data.augment")
    build = importlib.import_module("ultralytics.data.build")
    trainer = importlib.import_module("ultralytics.engine.trainer")
    of_nms = nms_module()
    patches: list[tuple[Any, str, Any]] = [
        # NMS stops at a time limit, so that the load of the machine would change the mAP.
        (of_nms, "non_max_suppression", functools.partial(of_nms.non_max_suppression, max_time_img=3600.0)),
    ]
    if _knows_bf16():
        # bfloat16 is supported on GPUs only.
        patches.append((trainer, "autocast", functools.partial(autocast, trainer.autocast)))
    elif recipe.amp:
        device = "cpu" if recipe.device == "cpu" else "cuda"
        patches.append((trainer, "autocast", lambda *_, **__: torch.autocast(device, torch.bfloat16)))
    # 8.3.129: mosaic draws from all images if they are in memory. Before, it drew from those that were read last, in an
    # order that depends on threads.
    if "buffer" in inspect.signature(augment.Mosaic.get_indexes).parameters:
        patches.append((augment.Mosaic, "get_indexes", _mosaic_images(augment.Mosaic.get_indexes)))
    # 8.4.124: the seed decides the order of the images. Before, all seeds had the same, and with loader processes the
    # same augmentation.
    if "initial_seed" not in inspect.getsource(build.build_dataloader):
        patches.append((build, "InfiniteDataLoader", functools.partial(_seeded_loader, build.InfiniteDataLoader)))
    return patches


Level: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""What a detection head puts out on one level: box logits, (images, 4, bins, anchors), and class logits, (images,
classes, anchors)."""


def levels_of(outputs: Any, classes: int) -> list[Level]:
    """Return what a detection head in training mode puts out, by level; of an end-to-end head, the one-to-one part.

    Args:
        outputs: What the head returns.
        classes: Number of classes.
    """
    if isinstance(outputs, Mapping) and "one2one" in outputs:
        outputs = outputs["one2one"]
    # Before 8.4.0, heads of segmentation, poses and rotated boxes gave the levels first, then what they add.
    if isinstance(outputs, tuple):
        outputs = outputs[0]
    # 8.4.0 made a dictionary, with the anchors of all levels in one row, of the list of maps.
    if not isinstance(outputs, Mapping):
        whole = [x.flatten(2).float() for x in outputs]
        return [(x[:, :-classes].unflatten(1, (4, -1)), x[:, -classes:]) for x in whole]
    sizes = [x.shape[2] * x.shape[3] for x in outputs["feats"]]
    boxes = outputs["boxes"].float().unflatten(1, (4, -1)).split(sizes, -1)
    return list(zip(boxes, outputs["scores"].float().split(sizes, -1), strict=True))


def further_of(outputs: Any, task: Task) -> dict[str, torch.Tensor]:
    """Return what a head in training mode puts out besides boxes and classes; of an end-to-end head, one-to-one.

    Args:
        outputs: What the head returns.
        task: Its task.

    Returns:
        Of masks ``mask_coefficient``, (images, masks, anchors), and ``proto``, (images, masks, height, width); of poses
        ``kpts``, (images, values, anchors), before they are decoded; of rotated boxes ``angle``, (images, 1, anchors).
    """
    names = {"segment": ("mask_coefficient", "proto"), "pose": ("kpts",), "obb": ("angle",)}.get(task.name, ())
    if isinstance(outputs, Mapping) and "one2one" in outputs:
        outputs = outputs["one2one"]
    # Before 8.4.0, a tuple: the levels, then these.
    found = outputs if isinstance(outputs, Mapping) else dict(zip(names, outputs[1:], strict=True)) if names else {}
    return {name: (found[name][0] if isinstance(found[name], tuple) else found[name]).float() for name in names}


def nms_module() -> Any:
    """Return the module of the host whose `non_max_suppression` its validator calls."""
    # 8.3.190 moved it out of `utils.ops`.
    moved = importlib.util.find_spec("ultralytics.utils.nms") is not None
    return importlib.import_module(f"ultralytics.utils.{'nms' if moved else 'ops'}")


def autocast(of_host: Any, enabled: Any, device: str = "cuda") -> Any:
    """Replace the host's autocast `of_host`: bfloat16 also works on CPUs."""
    if device == "cpu" and enabled is torch.bfloat16:
        return torch.autocast("cpu", torch.bfloat16)
    return of_host(enabled, device=device)


class WarmUp:
    """The warm-up of Ultralytics from 8.4.103 on: the learning rates rise linearly, over the epochs that are asked for.

    Before, it took 100 steps at least, which are more than a proxy may have, and went on into the last epoch.
    """

    def __init__(self, epochs: float, bias_lr: float) -> None:
        """Prepare.

        Args:
            epochs: Length in epochs; all but the last one at most.
            bias_lr: Learning rate of biases at the start; that of all else is 0.
        """
        self._epochs = epochs
        self._bias_lr = bias_lr
        self._batch = 0

    def begin_epoch(self, _trainer: Any) -> None:
        """Start counting the batches of an epoch."""
        self._batch = 0

    def begin_step(self, trainer: Any) -> None:
        """Set the learning rates of a step."""
        per_epoch = len(trainer.train_loader)
        step = trainer.epoch * per_epoch + self._batch
        self._batch += 1
        last = round(min(self._epochs, max(trainer.epochs - 1, 0)) * per_epoch)
        if last <= 0 or step > last:
            return
        for number, group in enumerate(trainer.optimizer.param_groups):
            # 8.4.3 gave the groups names; before, the biases were the first.
            is_bias = group.get("param_group", "" if number else "bias") == "bias"
            ends = [self._bias_lr if is_bias else 0.0, group["initial_lr"] * trainer.lf(trainer.epoch)]
            group["lr"] = float(np.interp(step, [0, last], ends))
            if "momentum" in group:
                ends = [trainer.args.warmup_momentum, trainer.args.momentum]
                group["momentum"] = float(np.interp(step, [0, last], ends))


def _warms_up_as_told() -> bool:
    """Return whether a warm-up takes the epochs that it is given: from 8.4.103 on, it may have fewer than 100 steps."""
    return hasattr(_base_trainer(), "_get_warmup_iterations")


def _knows_bf16() -> bool:
    """Return whether ``amp`` may be ``bf16``: from 8.4.129 on. Before, it had to be true or false."""
    return '"bf16"' in inspect.getsource(_base_trainer())


def _base_trainer() -> Any:
    return importlib.import_module("ultralytics.engine.trainer").BaseTrainer


def _mosaic_images(of_host: Any) -> Any:
    """Return a replacement of the host's choice of images for a mosaic."""

    def get_indexes(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.dataset.cache != "ram":
            return of_host(self, *args, **kwargs)
        return [random.randint(0, len(self.dataset) - 1) for _ in range(self.n - 1)]

    return get_indexes


def _seeded_loader(of_host: Any, *args: Any, **kwargs: Any) -> Any:
    """Make a loader of the host whose generator depends on the seed of the training."""
    kwargs["generator"].manual_seed((kwargs["generator"].initial_seed() + torch.initial_seed()) % 2**64)
    return of_host(*args, **kwargs)
