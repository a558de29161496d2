"""Finished batches that a training process keeps: trainings of one seed augment the same images in the same way.

Variants are compared under one order of images and one augmentation, so all but the first of a seed would make batches
again that have been made already, to the bit. A batch is a function of its images, of how they are augmented, and of
the states of the random generators before it; it is kept under these, and with the states after it, so that what is
drawn next does not depend on whether it was made or found. What is validated is not augmented, and depends on no state.

No heavy import stands at the top: the environment has to be set before torch and Ultralytics read it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

_STATES = 2**15
"""Bytes that the random states beside a batch take, more or less."""


_States: TypeAlias = tuple[Any, Any]
"""Of ``random`` and of ``numpy.random``."""


@dataclass(frozen=True)
class _Kept:
    """A batch, and the random states after it; None leaves them as they are."""

    batch: dict[str, Any]
    after: _States | None

    @property
    def size(self) -> int:
        """Bytes that it takes, more or less."""
        import torch

        tensors = (v for v in self.batch.values() if isinstance(v, torch.Tensor))
        return _STATES + sum(v.numel() * v.element_size() for v in tensors)


class Batches:
    """Makes the batches of a dataset of the host, or finds them.

    It is the dataset's ``__getitems__``, by which torch's loader asks for all items of a batch at once where there is
    one, and leaves nothing for its ``collate_fn`` to do.
    """

    def __init__(self, dataset: Any, limit: int) -> None:
        """Stand before a dataset whose images do not change.

        Args:
            dataset: One of the host's, with ``transforms``, ``collate_fn``, ``augment`` and ``buffer``.
            limit: Bytes to keep at most.
        """
        self.found = 0
        self._dataset = dataset
        self._collate: Callable[[Sequence[Any]], dict[str, Any]] = dataset.collate_fn
        self._limit = limit
        self._cache: dict[object, _Kept] = {}
        self._caches: dict[object, dict[object, _Kept]] = {None: self._cache}
        """Batches by training (its seed, say) and then by what makes them; the training that was latest is last."""
        self._bytes = 0
        self._transforms: Any = None
        self._recipe: object = None
        dataset.__getitems__ = self.of
        dataset.collate_fn = _whole

    def begin(self, training: object) -> None:
        """Say which training the next batches are for: those of earlier ones give way to its own."""
        self._cache = self._caches.pop(training, {})
        self._caches[training] = self._cache
        self._transforms = None

    def of(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the batch of these images, augmented from the random states as they are."""
        dataset = self._dataset
        if dataset.transforms is not self._transforms:  # they change within a training, where mosaic ends
            self._transforms, self._recipe = dataset.transforms, described(dataset.transforms)
        before = _states()
        # For images that are not augmented the host draws too, to no effect: here a validation leaves the states alone.
        what = (tuple(indices), self._recipe, _digest(before) if dataset.augment else None)
        kept = self._cache.get(what)
        if kept is None:
            kept = self._made(what, indices)
        else:
            self.found += 1
        _restore(kept.after or before)
        return dict(kept.batch)  # the host puts other tensors into it

    def _made(self, what: object, indices: Sequence[int]) -> _Kept:
        import torch

        of_torch = torch.get_rng_state()
        batch = self._collate([self._dataset[i] for i in indices])
        kept = _Kept(batch, _states() if self._dataset.augment else None)
        drawn = not torch.equal(of_torch, torch.get_rng_state())
        # Images that are not in memory go through a buffer, which mosaic draws from: a state that is not looked at.
        if not drawn and not self._dataset.buffer and self._room(kept.size):
            self._cache[what] = kept
            self._bytes += kept.size
        return kept

    def _room(self, size: int) -> bool:
        """Return whether a batch can be kept, after letting go of what older trainings made if need be."""
        while self._bytes + size > self._limit:
            oldest = next(iter(self._caches))
            if self._caches[oldest] is self._cache:
                return False  # what comes round in the same order every time is not served by keeping the latest
            self._bytes -= sum(kept.size for kept in self._caches.pop(oldest).values())
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
    words = repr(transforms)
    return object() if " at 0x" in words else words  # what says of itself only where it lies is like no other


def _states() -> _States:
    """Return the states that augmentation draws from."""
    import numpy as np

    return random.getstate(), np.random.get_state()


def _restore(states: _States) -> None:
    import numpy as np

    random.setstate(states[0])
    np.random.set_state(states[1])


def _digest(states: _States) -> int:
    python, (name, keys, *rest) = states
    return hash((python, name, keys.tobytes(), *rest))


def _whole(batch: dict[str, Any]) -> dict[str, Any]:
    """Stand in for the host's collation: the batch is whole already."""
    return batch
