"""The history of a search, all that a sampler may depend on: the space, the trials so far, the goal."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from nas.ranking.rank import baseline_of
from nas.samplers.encoding import Codes, decode, encode, encode_all, mutate
from nas.solver.facts import SwapFacts
from nas.solver.solutions import Count
from nas.space.search_space import Assignment, Key, SearchSpace, key_of
from nas.study.objective import Array, Budget, Goal
from nas.study.trial import Trial

_MAX_ENUMERATED = 2_000
"""Size up to which all variants of a space are candidates."""
_MAX_LISTED = 20_000
"""Size up to which all variants of a space are listed to find a new one."""
_MAX_DISTANCE = 10
"""Slots by which a new variant near another one may differ from it."""
_DRAWS = 10
"""Variants drawn at each distance."""


@dataclass(frozen=True, eq=False)
class History:
    """The state of a search when the next variant is chosen; the choice depends on nothing else.

    Attributes:
        space: The search space.
        trials: The trials so far, in order.
        seed: Of the study.
        floor: As in `nas.ranking.rank.rank_trials`.
        error: Standard deviation of one score, where a calibration measured it.
        goal: What the study optimises.
        among: The only assignments that may be proposed, for a search in a table; None for all of the space.
        budgets: What variants may cost, where the search is given that; they take turns.
        facts: Output scores and costs of the single swaps; none where the study has not gathered them.
        count: Counts the costs of a variant; its results do not depend on anything else.
    """

    space: SearchSpace
    trials: Sequence[Trial]
    seed: int = 0
    floor: float = 0.02
    error: float | None = None
    goal: Goal = field(default_factory=Goal)
    among: Sequence[Assignment] | None = None
    budgets: tuple[Budget, ...] = ()
    facts: SwapFacts = field(default_factory=SwapFacts)
    count: Count | None = None

    @cached_property
    def known(self) -> frozenset[Key]:
        """The assignments that are not proposed again."""
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
        """The mAP50-95 below which a variant ranks behind all others."""
        return self.goal.least(self.base, self.floor)

    @cached_property
    def drawn(self) -> int:
        """A seed for a generator; it depends on the study's seed and on the number of known variants."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{len(self.known)}".encode()).digest()[:4], "big")

    @cached_property
    def values(self) -> Array:
        """The values to maximise, one row a finished trial, (n, objectives)."""
        return self.goal.values(self.done, self.least)

    @cached_property
    def _among(self) -> frozenset[Key] | None:
        return None if self.among is None else frozenset(map(key_of, self.among))

    @property
    def size(self) -> int:
        """Number of assignments that may be proposed, including those that the space forbids."""
        return self.space.size if self.among is None else len(self.among)

    def assignments(self) -> Iterator[dict[str, str]]:
        """Iterate over all allowed assignments."""
        if self.among is None:
            return self.space.assignments()
        return (dict(a) for a in self.among if not self.space.forbids(a))

    def candidates(self) -> Codes | None:
        """Return the codes of all allowed assignments; None if there are too many to evaluate."""
        if self.size > _MAX_ENUMERATED:
            return None
        return encode_all(self.space) if self.among is None else encode(self.space, self.assignments())

    def is_new(self, assignment: Assignment) -> bool:
        """Return whether an assignment is allowed and not known."""
        key = key_of(assignment)
        allowed = self._among is None or key in self._among
        return allowed and key not in self.known and not self.space.forbids(assignment)

    def any_new(self, rng: random.Random) -> dict[str, str] | None:
        """Return a new assignment, uniformly at random; None if there is none."""
        for _ in range(200):
            assignment = {slot.key: rng.choice(slot.choices) for slot in self.space.active}
            if self.is_new(assignment):
                return assignment
        if self.size <= _MAX_LISTED:
            fresh = [a for a in self.assignments() if key_of(a) not in self.known]
            return rng.choice(fresh) if fresh else None
        for _ in range(10_000):
            assignment = {slot.key: rng.choice(slot.choices) for slot in self.space.active}
            if self.is_new(assignment):
                return assignment
        return None

    def new_near(self, code: Codes, rng: random.Random) -> dict[str, str] | None:
        """Return a new assignment that differs from a code in as few slots as possible, found by random draws.

        None if there is none within ten slots.
        """
        for further in range(_MAX_DISTANCE):
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
