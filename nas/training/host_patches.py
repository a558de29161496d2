"""Patches of Ultralytics for proxy trainings, which leave nothing to the clock, to other packages or to old caches.

They are in effect only while a trainer is open (`nas.training.train.open_trainer`), in the training process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
