"""A cache of finished batches in the training process: trainings of one seed augment the same images identically.

Variants are compared under one order of images and one augmentation, so all but the first training of a seed would
compute bit-identical batches again. A batch is a function of its images, of their augmentation, and of the states of
the random generators before it. These are its key; the states after it are kept with it, so that later draws do not
depend on whether the batch was computed or found. Validation images are not augmented, and depend on no state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

_STATES = 2**15
"""Approximate bytes of the random states that are kept with a batch."""


_States: TypeAlias = tuple[Any, Any]
"""Of ``random`` and of ``numpy.random``."""


@dataclass(frozen=True)
class _Kept:
    """A batch, and the random states after it; None leaves them as they are."""

    batch: dict[str, Any]
    after: _States | None

    @property
    def size(self) -> int:
        """Approximate size in bytes."""
        tensors = (v for v in self.batch.values() if isinstance(v, torch.Tensor))
        return _STATES + sum(v.numel() * v.element_size() for v in tensors)


class BatchCache:
    """Computes the batches of a dataset of the host, or finds them in the cache.

    It becomes the dataset's ``__getitems__``, with which torch's loader requests all items of a batch at once; its
    ``collate_fn`` then has nothing left to do.
    """

    def __init__(self, dataset: Any, limit: int) -> None:
        """Attach the cache to a dataset whose images do not change.

        Args:
            dataset: One of the host's, with ``transforms``, ``collate_fn``, ``augment`` and ``buffer``.
            limit: Maximum bytes to keep.
        """
        self.found = 0
        self._dataset = dataset
        self._collate: Callable[[Sequence[Any]], dict[str, Any]] = dataset.collate_fn
        self._limit = limit
        self._cache: dict[object, _Kept] = {}
        self._caches: dict[object, dict[object, _Kept]] = {None: self._cache}
        """Batches by training (such as its seed) and then by key; the latest training is last."""
        self._bytes = 0
        self._transforms: Any = None
        self._recipe: object = None
        dataset.__getitems__ = self.get
        dataset.collate_fn = _whole

    def begin(self, training: object) -> None:
        """Select the training that the next batches are for: its batches replace those of earlier trainings."""
        self._cache = self._caches.pop(training, {})
        self._caches[training] = self._cache
        self._transforms = None

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the batch of these images, augmented from the current random states."""
        dataset = self._dataset
        if dataset.transforms is not self._transforms:  # they change within a training, where mosaic is closed
            self._transforms, self._recipe = dataset.transforms, augmentation_key(dataset.transforms)
        before = _states()
        # The host also draws for images that it does not augment, to no effect; here a validation restores the states.
        key = (tuple(indices), self._recipe, _digest(before) if dataset.augment else None)
        kept = self._cache.get(key)
        if kept is None:
            kept = self._compute(key, indices)
        else:
            self.found += 1
        _restore(kept.after or before)
        return dict(kept.batch)  # the host puts other tensors into it

    def _compute(self, key: object, indices: Sequence[int]) -> _Kept:
        of_torch = torch.get_rng_state()
        batch = self._collate([self._dataset[i] for i in indices])
        kept = _Kept(batch, _states() if self._dataset.augment else None)
        drawn = not torch.equal(of_torch, torch.get_rng_state())
        # Images that are not in memory go through a buffer, which mosaic draws from: a state that is not in the key.
        if not drawn and not self._dataset.buffer and self._make_room(kept.size):
            self._cache[key] = kept
            self._bytes += kept.size
        return kept

    def _make_room(self, size: int) -> bool:
        """Return whether a batch fits, after removing batches of older trainings if necessary."""
        while self._bytes + size > self._limit:
            oldest = next(iter(self._caches))
            if self._caches[oldest] is self._cache:
                return False  # in a cyclic order, keeping the latest batches would give no hits
            self._bytes -= sum(kept.size for kept in self._caches.pop(oldest).values())
        return True


def detach_cache(dataset: Any) -> None:
    """Detach a copy of such a dataset from the cache."""
    for name in ("__getitems__", "collate_fn"):
        vars(dataset).pop(name, None)


def augmentation_key(transforms: Any) -> object:
    """Return a key of augmentations, by their types and attributes."""
    if isinstance(transforms, (list, tuple)):
        return tuple(augmentation_key(t) for t in transforms)
    if type(transforms).__module__ == "ultralytics.data.augment":
        inner = {k: v for k, v in vars(transforms).items() if k != "dataset"}
        return type(transforms).__name__, tuple((k, augmentation_key(v)) for k, v in sorted(inner.items()))
    words = repr(transforms)
    return object() if " at 0x" in words else words  # an address identifies nothing: equal to no other


def _states() -> _States:
    """Return the states that augmentation draws from."""
    return random.getstate(), np.random.get_state()


def _restore(states: _States) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])


def _digest(states: _States) -> int:
    python, (name, keys, *rest) = states
    return hash((python, name, keys.tobytes(), *rest))


def _whole(batch: dict[str, Any]) -> dict[str, Any]:
    """Replace the host's collation: the batch is complete."""
    return batch
