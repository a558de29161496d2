"""Finished batches are kept: found, they are what would be made, and leave the random states that making them would."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nas.training.batch_cache import BatchCache, augmentation_key, detach_cache

SIZE = 4 * 3 * 8 * 8 + 2**15
"""Bytes of a batch of four images, with the states beside it."""
LIMIT = 100 * SIZE


class Images:
    """A dataset that augments by chance, in the words of the host's."""

    def __init__(self, draw=lambda: (random.random(), np.random.rand()), augment=True):
        self.draw = draw
        self.augment = augment
        self.transforms = ["flip"]
        self.buffer = []
        self.made = 0

    def __getitem__(self, index):
        self.made += 1
        return torch.full((3, 8, 8), index, dtype=torch.uint8), self.draw()

    @staticmethod
    def collate_fn(items):
        return {"img": torch.stack([image for image, _ in items]), "drawn": [drawn for _, drawn in items]}


def seeded(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def epoch(dataset, batches=3):
    """What a loader does: ask for whole batches, and collate them."""
    fetch = getattr(dataset, "__getitems__", None) or (lambda indices: [dataset[i] for i in indices])
    return [dataset.collate_fn(fetch([k, k + 1, k + 2, k + 3]))["drawn"] for k in range(batches)]


def states():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_a_found_batch_is_the_one_that_would_be_made_and_so_is_what_is_drawn_next():
    plain, kept = Images(), Images()
    batches = BatchCache(kept, LIMIT)
    for _ in range(2):
        for seed in (0, 1):
            batches.begin(seed)
            seeded(seed)
            expected = epoch(plain), epoch(plain), states()
            seeded(seed)
            assert (epoch(kept), epoch(kept), states()) == expected
    assert batches.found == 12  # of two epochs of three batches under two seeds, the second time
    assert kept.made == plain.made / 2


def test_other_draws_and_other_augmentations_make_other_batches():
    dataset = Images()
    batches = BatchCache(dataset, LIMIT)
    seeded(0)
    first = epoch(dataset)
    assert epoch(dataset) != first  # the random states have gone on
    seeded(0)
    random.random()
    assert epoch(dataset) != first
    seeded(0)
    dataset.transforms = ["turn"]
    epoch(dataset)
    assert batches.found == 0
    seeded(0)
    dataset.transforms = ["flip"]
    assert epoch(dataset) == first
    assert batches.found == 3


def test_what_is_not_augmented_is_found_under_any_state_and_leaves_it():
    dataset = Images(augment=False)  # draws all the same, as the host does
    batches = BatchCache(dataset, LIMIT)
    seeded(0)
    before = random.getstate()
    first = epoch(dataset)
    assert random.getstate() == before
    random.random()
    before = random.getstate()
    assert epoch(dataset) == first
    assert random.getstate() == before
    assert batches.found == 3


def test_what_the_host_puts_into_a_batch_is_not_kept():
    dataset = Images(augment=False)
    BatchCache(dataset, LIMIT)
    for _ in range(3):
        batch = dataset.__getitems__([0, 1, 2, 3])
        assert batch["img"].dtype == torch.uint8
        batch["img"] = batch["img"].float() / 255


@pytest.mark.parametrize("why", ["draws from torch", "goes through a buffer"])
def test_what_depends_on_more_than_is_looked_at_is_made_anew(why):
    dataset = Images((lambda: torch.rand(1).item()) if why == "draws from torch" else random.random)
    dataset.buffer = [5] if why == "goes through a buffer" else []
    batches = BatchCache(dataset, LIMIT)
    for _ in range(2):
        seeded(0)
        epoch(dataset)
    assert batches.found == 0
    assert dataset.made == 24


def test_memory_is_bounded_and_older_trainings_give_way():
    dataset = Images()
    batches = BatchCache(dataset, limit=4 * SIZE)

    def found(seed, count):
        before = batches.found
        batches.begin(seed)
        seeded(seed)
        epoch(dataset, count)
        return batches.found - before

    assert found(0, 6) == 0
    assert found(0, 6) == 4  # the first four are kept, not the last: they come in the same order again
    assert found(1, 2) == 0  # took the place of all of seed 0
    assert found(2, 2) == 0  # stands beside seed 1
    assert found(1, 2) == 2
    assert found(2, 2) == 2
    assert found(3, 1) == 0  # of these two, seed 1 was there last but one
    assert found(2, 2) == 2
    assert found(0, 2) == 0


def test_a_copy_of_the_dataset_makes_its_own():
    dataset = Images()
    BatchCache(dataset, LIMIT)
    detach_cache(dataset)
    assert dataset.collate_fn is Images.collate_fn
    assert not hasattr(dataset, "__getitems__")


def test_the_hosts_augmentations_are_told_apart_by_what_they_do():
    from ultralytics.data.augment import v8_transforms
    from ultralytics.utils import DEFAULT_CFG, IterableSimpleNamespace

    def transforms(**hyp):
        dataset = SimpleNamespace(data={}, use_keypoints=False, cache="ram")
        return v8_transforms(dataset, 64, IterableSimpleNamespace(**{**vars(DEFAULT_CFG), **hyp}))

    assert augmentation_key(transforms()) == augmentation_key(transforms())
    assert augmentation_key(transforms()) != augmentation_key(transforms(mosaic=0.0))
    assert augmentation_key(transforms()) != augmentation_key(transforms(hsv_v=0.1))
