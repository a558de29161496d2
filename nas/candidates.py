"""The untried variants that promise most: a search over what `nas.predict` expects of every combination."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Collection, Sequence

from nas.predict import Additive, Assignment, Key, key_of
from nas.space import Slot


def candidates(
    model: Additive,
    slots: Sequence[Slot],
    cost: Callable[[Assignment], float],
    score: Callable[[float, float], float],
    known: Collection[Key],
    forbids: Callable[[Assignment], bool],
    count: int = 1,
    seed: int = 0,
    enumerate_up_to: int = 20_000,
) -> list[dict[str, str]]:
    """Return untried assignments with the best predicted ranking score, best first; fewer if there are no more.

    A score is ranked by `score` of its prediction and its GFLOPs; `known` holds keys, as `key_of`, of what was tried.
    Every assignment is looked at if the slots span no more than `enumerate_up_to`. Otherwise one slot at a time is
    changed while that helps, from the best observed, from every slot's best alone, and from starts drawn with `seed`.
    """
    keep = {slot.key: slot.choices[0] for slot in slots}
    values: dict[Key, float] = {}

    def value(assignment: dict[str, str]) -> float:
        key = key_of(assignment)
        if key not in values:
            values[key] = -math.inf if forbids(assignment) else score(model.predict(assignment).mean, cost(assignment))
        return values[key]

    def climb(start: dict[str, str]) -> None:
        best = max((start | {slot.key: label} for slot in slots for label in slot.choices), key=value)
        if value(best) > value(start):
            climb(best)

    if math.prod(len(slot.choices) for slot in slots) <= enumerate_up_to:
        for labels in itertools.product(*(slot.choices for slot in slots)):
            value(dict(zip(keep, labels, strict=True)))
    else:
        rng = random.Random(seed)
        climb(max((keep | {k: v for k, v in a.items() if k in keep} for a in model.data.assignments), key=value))
        alone = [max(({slot.key: label} for label in slot.choices), key=lambda a: value(keep | a)) for slot in slots]
        climb({key: label for choice in alone for key, label in choice.items()})
        for _ in range(20):
            climb({slot.key: rng.choice(slot.choices) for slot in slots})
    fresh = sorted((-number, key) for key, number in values.items() if key not in known and number > -math.inf)
    return [dict(key) for _, key in fresh[:count]]
