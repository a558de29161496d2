"""Draws representative variants of a space: few, diverse, and reproducible."""

from __future__ import annotations

import random

from nas.errors import SpaceError
from nas.space.choice import KEEP, NONE, parse_choice
from nas.space.search_space import SearchSpace
from nas.space.variant import Variant


def representatives(space: SearchSpace, count: int) -> list[Variant]:
    """Return diverse variants, without the baseline; a larger count extends the list.

    First each module in all slots that offer it, where its effect is largest; then variants with every slot drawn at
    random.

    Args:
        space: The space.
        count: Number of variants.

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
        if not space.forbids(assignment) and not (variant := space.variant(assignment)).is_baseline:
            found.setdefault(variant.id, variant)
    if len(found) < count:
        raise SpaceError(f"{space.name} has only {len(found)} variants besides the baseline, not {count}")
    return list(found.values())


def _labels(space: SearchSpace) -> list[str]:
    """Return one label per module, in the order of the space."""
    first: dict[str, str] = {}
    for slot in space.active:
        for label in slot.choices:
            if label not in (KEEP, NONE):
                first.setdefault(parse_choice(label).module, label)
    return list(first.values())
