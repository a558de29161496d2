"""Which variants stand for a space: few, different in kind, and the same ones every time."""

from __future__ import annotations

import random

from nas.errors import SpaceError
from nas.space.choice import KEEP, NONE, parse_choice
from nas.space.search_space import SearchSpace
from nas.space.variant import Variant


def representatives(space: SearchSpace, count: int) -> list[Variant]:
    """Return variants that differ in kind, without the baseline; a greater count extends the list.

    Each module comes first in every slot that offers it: a kind's effect shows most where there is most of it. Then
    come variants with every slot drawn at random.

    Args:
        space: Where they come from.
        count: How many.

    Raises:
        SpaceError: The space has fewer variants.
    """
    found: dict[str, Variant] = {}
    for label in _labels(space):
        if len(found) == count:
            break
        everywhere = {s.key: label if label in s.choices else s.choices[0] for s in space.active}
        if not space.forbids(everywhere):
            variant = space.variant(everywhere)
            found.setdefault(variant.id, variant)
    rng = random.Random(0)
    for _ in range(1000 * count):
        if len(found) == count:
            return list(found.values())
        assignment = {s.key: rng.choice(s.choices) for s in space.active}
        variant = space.variant(assignment)
        if not space.forbids(assignment) and not variant.is_baseline:
            found.setdefault(variant.id, variant)
    if len(found) < count:
        raise SpaceError(f"{space.name} has only {len(found)} variants beside the baseline, not {count}")
    return list(found.values())


def _labels(space: SearchSpace) -> list[str]:
    """Return one label a module, in the order of the space."""
    first: dict[str, str] = {}
    for slot in space.active:
        for label in slot.choices:
            if label not in (KEEP, NONE):
                first.setdefault(parse_choice(label).module, label)
    return list(first.values())
