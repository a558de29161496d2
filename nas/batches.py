"""Finished batches that a training process keeps: trainings of one seed augment the same images in the same way.

Variants are compared under one order of images and one augmentation, so all but the first of a seed would make batches
again that have been made already, to the bit. A batch is a function of its images, of how they are augmented, and of
the states of the random generators before it; it is kept under these, and with the states after it, so that what is
drawn next does not depend on whether it was made or found.

No heavy import stands at the top: the environment has to be set before torch and Ultralytics read it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_LIMIT = 512 * 2**20
"""Bytes of images that one dataset's batches may take."""


@dataclass(frozen=True)
class _Kept:
    """A batch, its bytes, and the states of ``random`` and ``numpy.random`` after it; None where nothing was drawn."""

    batch: dict[str, Any]
    size: int
    python: Any
    numpy: Any


class Batches:
    """Makes the batches of a dataset of the host, or finds them.

    It is the dataset's ``__getitems__``, by which torch's loader asks for all items of a batch at once where there is
    one, and leaves nothing for its ``collate_fn`` to do.
    """

    def __init__(self, dataset: Any, limit: int = _LIMIT) -> None:
        """Stand before a dataset whose images do not change.

        Args:
            dataset: One of the host's, with ``transforms``, ``collate_fn`` and ``buffer``.
            limit: Bytes of images to keep at most.
        """
        self.found = 0
        self._dataset = dataset
        self._collate: Callable[[Sequence[Any]], dict[str, Any]] = dataset.collate_fn
        self._limit = limit
        self._shelf: dict[object, _Kept] = {}
        self._shelves: dict[object, dict[object, _Kept]] = {None: self._shelf}
        """Batches by training (its seed, say) and then by what makes them; the training that was latest is last."""
        self._bytes = 0
        self._transforms: Any = None
        self._recipe: object = None
        dataset.__getitems__ = self.of
        dataset.collate_fn = _whole

    def begin(self, training: object) -> None:
        """Say which training the next batches are for: those of earlier ones give way to its own."""
        self._shelf = self._shelves.pop(training, {})
        self._shelves[training] = self._shelf
        self._transforms = None

    def of(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the batch of these images, augmented from the random states as they are."""
        import numpy as np

        dataset = self._dataset
        if dataset.transforms is not self._transforms:  # they change within a training, where mosaic ends
            self._transforms, self._recipe = dataset.transforms, described(dataset.transforms)
        what = (tuple(indices), self._recipe)
        kept = self._shelf.get(what) or self._shelf.get((what, _states()))
        if kept is None:
            return dict(self._made(what, indices))
        self.found += 1
        if kept.python is not None:
            random.setstate(kept.python)
            np.random.set_state(kept.numpy)
        return dict(kept.batch)  # the host puts other tensors into it

    def _made(self, what: object, indices: Sequence[int]) -> dict[str, Any]:
        import numpy as np
        import torch

        before, of_torch = _states(), torch.get_rng_state()
        batch = self._collate([self._dataset[i] for i in indices])
        size = sum(v.numel() * v.element_size() for v in batch.values() if isinstance(v, torch.Tensor))
        drawn = not torch.equal(of_torch, torch.get_rng_state())
        # Images that are not in memory go through a buffer, which mosaic draws from: a state that is not looked at.
        if drawn or self._dataset.buffer or not self._room(size):
            return batch
        if before == _states():
            self._shelf[what] = _Kept(batch, size, None, None)
        else:
            self._shelf[what, before] = _Kept(batch, size, random.getstate(), np.random.get_state())
        self._bytes += size
        return batch

    def _room(self, size: int) -> bool:
        """Return whether a batch can be kept, after letting go of what older trainings made if need be."""
        while self._bytes + size > self._limit:
            oldest = next(iter(self._shelves))
            if self._shelves[oldest] is self._shelf:
                return False  # what comes round in the same order every time is not served by keeping the latest
            self._bytes -= sum(kept.size for kept in self._shelves.pop(oldest).values())
        return True


def released(dataset: Any) -> None:
    """Let a copy of such a dataset make its batches itself."""
    for name in ("__getitems__", "collate_fn"):
        vars(dataset).pop(name, None)


def described(transforms: Any) -> object:
    """Return what sets augmentations apart from others, by their types and attributes."""
    if isinstance(transforms, (list, tuple)):
        return tuple(described(t) for t in transforms)
    if type(transforms).__module__ == "ultralytics.data.augment":
        inner = {k: v for k, v in vars(transforms).items() if k != "dataset"}
        return type(transforms).__name__, tuple((k, described(v)) for k, v in sorted(inner.items()))
    return repr(transforms)  # an object that says nothing of itself but where it lies is like no other


def _states() -> int:
    """Return a digest of what augmentation draws from."""
    import numpy as np

    state: Any = np.random.get_state()
    name, keys, *rest = state
    return hash((random.getstate(), name, keys.tobytes(), *rest))


def _whole(batch: dict[str, Any]) -> dict[str, Any]:
    """Stand in for the host's collation: the batch is whole already."""
    return batch
