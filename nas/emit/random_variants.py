"""Random variants of a space, for looking at it and for testing what it spans."""

from __future__ import annotations

import random
from collections.abc import Iterator

from nas.errors import SpaceError
from nas.space.search_space import SearchSpace
from nas.space.variant import Variant

_ENUMERATED = 20_000
"""Spaces of up to so many variants are listed whole, so that the last one is found, too."""
_MISSES = 10_000
"""Of larger ones, drawing ends after so many draws in a row that are forbidden or known."""
_OVER = 100
"""Drawing ends after so many variants in a row that are over a limit: each has to be built to be known for it."""


def drawn(space: SearchSpace, seed: int = 0) -> Iterator[Variant]:
    """Iterate over the allowed variants of a space in random order, each once, without the baseline.

    Every allowed assignment of the active slots is as likely as any other; rules of `forbid` hold, and slots that are
    off stay off. The same space and seed give the same order on every machine. Limits, which only a built model can
    be held against, are the caller's.
    """
    rng = random.Random(seed)
    known = {tuple(space.baseline().items())}
    if space.size <= _ENUMERATED:
        every = [a for a in space.assignments() if tuple(a.items()) not in known]
        rng.shuffle(every)
        yield from map(space.variant, every)
        return
    misses = 0
    while misses < _MISSES:
        assignment = {slot.key: rng.choice(slot.choices) for slot in space.active}
        key = tuple(assignment.items())
        if key in known or space.forbids(assignment):
            misses += 1
            continue
        misses = 0
        known.add(key)
        yield space.variant(assignment)


def draw(space: SearchSpace, count: int, seed: int = 0) -> list[Variant]:
    """Return distinct random variants of a space: the first of `drawn` that keep its limits.

    Limits (``max_gflops``, ``max_params``) hold at the space's own scale.

    Args:
        space: The space.
        count: How many, at least 1.
        seed: Of the order; more variants of a seed begin with fewer of it.

    Raises:
        SpaceError: The space has fewer.
        BuildError: A variant has to be costed, and cannot be built.
    """
    limits = dict(space.limits)
    found: list[Variant] = []
    over = 0
    for variant in drawn(space, seed):
        if limits and not _within(variant, limits):
            over += 1
            if over == _OVER:
                raise SpaceError(f"{space.name}: {over} random variants in a row are over its limits; loosen them")
            continue
        found.append(variant)
        over = 0
        if len(found) == count:
            return found
    raise SpaceError(
        f"{space.name} has only {len(found)} variants besides the baseline that its rules and limits allow; {count} "
        "were asked for"
    )


def _within(variant: Variant, limits: dict[str, float]) -> bool:
    from nas.model.cost import costed

    cost = costed(variant)[1]
    given = {"max_gflops": cost.gflops, "max_params": float(cost.params)}
    return all(given[key] <= most for key, most in limits.items())
