"""What a sampler knows: the space, what has been tried of it, and what the study looks for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from nas.ranking.rank import baseline_of
from nas.samplers.gaussian_process import Codes
from nas.space.search_space import Assignment, Key, SearchSpace, key_of
from nas.study.objective import Array, Goal
from nas.study.trial import Trial

ENUMERATED = 2_000
"""Variants up to which a space is looked at whole."""
_FURTHEST = 10
"""Slots, how far from another variant a new one is looked for."""
_DRAWS = 10
"""Variants that are drawn at each distance."""


@dataclass(frozen=True, eq=False)
class History:
    """What is known when the next variant is to be chosen; nothing else decides.

    Attributes:
        space: What may be tried.
        trials: What has been, in order.
        seed: Of the study.
        floor: As in `nas.ranking.rank.rank`.
        error: Standard deviation of one score, where a calibration says.
        goal: What the study looks for.
    """

    space: SearchSpace
    trials: Sequence[Trial]
    seed: int = 0
    floor: float = 0.02
    error: float | None = None
    goal: Goal = field(default_factory=Goal)

    @cached_property
    def known(self) -> frozenset[Key]:
        """What is not tried again."""
        return frozenset(key_of(t.assignment) for t in self.trials if t.spent or t.status in ("rejected", "running"))

    @cached_property
    def done(self) -> list[Trial]:
        """The finished trials."""
        return [t for t in self.trials if t.status == "done"]

    @cached_property
    def base(self) -> Trial | None:
        """The finished trial of the baseline."""
        return baseline_of(self.done)

    @cached_property
    def least(self) -> float:
        """The mAP50-95 below which a variant stands behind all others."""
        return self.goal.least(self.base, self.floor)

    @cached_property
    def drawn(self) -> int:
        """A number for a generator: it depends on the study's seed and on how many variants are known."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{len(self.known)}".encode()).digest()[:4], "big")

    @cached_property
    def values(self) -> Array:
        """What `goal` maximises of every finished trial, (n, objectives)."""
        return self.goal.values(self.done, self.least)

    def is_new(self, assignment: Assignment) -> bool:
        """Whether something is allowed and not known."""
        return key_of(assignment) not in self.known and not self.space.forbids(assignment)

    def any_new(self, rng: random.Random) -> dict[str, str] | None:
        """Return an allowed assignment that is not known, uniformly; None if there is none."""
        for _ in range(200):
            assignment = {slot.key: rng.choice(slot.choices) for slot in self.space.active}
            if self.is_new(assignment):
                return assignment
        if self.space.size <= 20_000:
            fresh = [a for a in self.space.assignments() if key_of(a) not in self.known]
            return rng.choice(fresh) if fresh else None
        for _ in range(10_000):
            assignment = {slot.key: rng.choice(slot.choices) for slot in self.space.active}
            if self.is_new(assignment):
                return assignment
        return None

    def new_near(self, code: Codes, rng: random.Random) -> dict[str, str] | None:
        """Return an allowed assignment that is not known, one slot from a row of `encode`; where none is found, more.

        None where nothing is found at ten slots either.
        """
        for further in range(_FURTHEST):
            start = code.copy()
            for _ in range(further):
                mutate(start, self.space, rng)
            for _ in range(_DRAWS):
                drawn = start.copy()
                mutate(drawn, self.space, rng)
                assignment = decode(self.space, drawn)
                if self.is_new(assignment):
                    return assignment
        return None


def encode(space: SearchSpace, assignments: Iterable[Assignment]) -> Codes:
    """Return assignments as rows of the indices of their choices, (n, slots)."""
    slots = [(slot.key, {label: i for i, label in enumerate(slot.choices)}) for slot in space.active]
    rows = [[index[a[key]] for key, index in slots] for a in assignments]
    return np.array(rows, dtype=np.int64).reshape(-1, len(slots))


def decode(space: SearchSpace, row: Codes) -> dict[str, str]:
    """Return the assignment of one row of `encode`."""
    return {slot.key: slot.choices[int(i)] for slot, i in zip(space.active, row, strict=True)}


def mutate(code: Codes, space: SearchSpace, rng: random.Random, slot: int | None = None) -> None:
    """Give one slot of a row of `encode` another choice, in place; by default any slot."""
    at = rng.randrange(len(code)) if slot is None else slot
    count = len(space.active[at].choices)
    code[at] = (code[at] + rng.randrange(1, count)) % count


@lru_cache(maxsize=8)
def every_code(space: SearchSpace) -> Codes:
    """Return the codes of every allowed variant of a space that is to be looked at whole."""
    return encode(space, space.assignments())
