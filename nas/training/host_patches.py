"""Patches of Ultralytics for proxy trainings, which leave nothing to the clock, to other packages or to old caches.

They are in effect only while a trainer is open (`nas.training.train.open_trainer`), in the training process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map
from ultralytics.data import augment
from ultralytics.data import dataset as host_dataset
from ultralytics.utils import callbacks

from nas.training.host_version import release_patches
from nas.training.recipe import Recipe


@contextlib.contextmanager
def patched_host(recipe: Recipe) -> Iterator[None]:
    """Patch Ultralytics in this process for trainings with a recipe, and restore it at the end."""
    patches: list[tuple[Any, str, Any]] = [
        # Every installed experiment tracker gets a report, over the network or in the current directory.
        (callbacks, "add_integration_callbacks", lambda *_: None),
        # Labels are cached next to the user's images, and a later edit of a label is not always noticed.
        (host_dataset, "load_dataset_cache_file", _no_cache_file),
        (host_dataset, "save_dataset_cache_file", _keep_no_cache_file),
        # Wherever the package albumentations is installed, it augments further, with its own random generator.
        (augment, "Albumentations", lambda *_, **__: augment.Compose([])),
        *release_patches(recipe),
    ]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, patch in patches:
            setattr(owner, name, patch)
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _no_cache_file(path: Path) -> Any:
    """Replace the host's reader of label caches: there is none."""
    raise FileNotFoundError(path)


def _keep_no_cache_file(_prefix: str, _path: Path, content: dict[str, Any], version: str) -> None:
    """Replace the host's writer of label caches: add the version to the content as it does, and write nothing."""
    content["version"] = version


class Float32Loss:
    """A loss that is computed in float32 for predictions of any dtype.

    In bfloat16 the corners of a box would be off by up to 1/256 of their distance from its anchor, and rounding would
    decide about close matches.
    """

    def __init__(self, criterion: Any) -> None:
        self._criterion = criterion

    def __call__(self, predictions: Any, batch: Any) -> Any:
        """Return the loss of predictions in any dtype."""
        with torch.autocast("cpu", enabled=False):
            wide = tree_map(
                lambda x: x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, predictions
            )
            return self._criterion(wide, batch)

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the loss, such as its ``update`` at the end of an epoch."""
        if name.startswith("__") or name == "_criterion":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._criterion, name)
