"""How mature a baseline is: its training goes on until the validation has flattened, or a limit is reached.

Each part of the training has a whole schedule: the first is that of the recipe, each further one continues from its
weights for as many epochs, at the learning rate of fine-tuning. A score in the middle of a schedule would say little,
because the learning rate is still high. After a part that gained less than `FLAT`, the baseline is mature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas.training.recipe import FINE_TUNE_LR0, Recipe, digest_of
from nas.training.scores import EpochScore, signed

FLAT = 0.01
"""Gain in mAP50-95 over a whole part below which the validation is flat."""
BASE_UNTIL = 120
"""Default limit of a baseline's epochs, where no trained weights are found."""


def part_recipe(recipe: Recipe, part: int, weights: str) -> Recipe:
    """Return the recipe of a part of a baseline's training, counted from 0; all but the first start from `weights`."""
    if part:
        recipe = replace(recipe, weights=weights, weights_digest=digest_of(weights), base_lr0=FINE_TUNE_LR0)
    return recipe.for_baseline()


def needs_more(recipe: Recipe, parts: Sequence[Sequence[EpochScore]]) -> bool:
    """Return whether a baseline is trained on after these parts."""
    trained = sum(len(part) for part in parts)
    if not recipe.base_until or trained + recipe.base_epochs > recipe.base_until:
        return False
    gain = _gain([_map(part) for part in parts])
    return gain is None or gain >= FLAT


def join(parts: Sequence[Sequence[EpochScore]]) -> tuple[EpochScore, ...]:
    """Return the curves of the parts as one, with epochs counted through."""
    scores = [score for part in parts for score in part]
    return tuple(scores) if len(parts) == 1 else tuple(replace(s, epoch=k) for k, s in enumerate(scores, 1))


def maturity_words(recipe: Recipe, curve: Sequence[EpochScore]) -> str:
    """Return how mature a baseline is by its whole curve; empty where its length was given."""
    length = recipe.base_epochs
    if not recipe.base_until or not length or len(curve) < length:
        return ""
    gain = _gain([_map(curve[: end + length]) for end in range(0, len(curve), length)])
    if gain is None:
        return f"its limit of {recipe.base_until} epochs allows no more"
    change = f"{signed(gain, 3)} mAP50-95 over its last {length} epochs"
    return f"flat: {change}" if gain < FLAT else f"still rising at its limit of {recipe.base_until} epochs: {change}"


def _map(curve: Sequence[EpochScore]) -> float:
    last = curve[-1].validation
    return last.map if last else 0.0


def _gain(maps: Sequence[float]) -> float | None:
    """Return what the last part gained over the one before; None for a single part."""
    return maps[-1] - maps[-2] if len(maps) > 1 else None
