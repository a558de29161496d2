"""Assignments as integers: a row of `Codes` holds the index of the choice of each active slot."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nas.space.search_space import Assignment, SearchSpace

Codes: TypeAlias = npt.NDArray[np.int64]


def encode(space: SearchSpace, assignments: Iterable[Assignment]) -> Codes:
    """Return assignments as rows, (n, slots)."""
    slots = [(slot.key, {label: i for i, label in enumerate(slot.choices)}) for slot in space.active]
    rows = [[index[a[key]] for key, index in slots] for a in assignments]
    return np.array(rows, dtype=np.int64).reshape(-1, len(slots))


@lru_cache(maxsize=8)
def encode_all(space: SearchSpace) -> Codes:
    """Return the rows of all allowed assignments of a small space."""
    return encode(space, space.assignments())


def decode(space: SearchSpace, row: Codes) -> dict[str, str]:
    """Return the assignment of a row."""
    return {slot.key: slot.choices[int(i)] for slot, i in zip(space.active, row, strict=True)}


def mutate(row: Codes, space: SearchSpace, rng: random.Random) -> None:
    """Change the choice of one slot, drawn at random, in place."""
    at = rng.randrange(len(row))
    count = len(space.active[at].choices)
    row[at] = (row[at] + rng.randrange(1, count)) % count
