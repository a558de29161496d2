"""The results of a training, and the scores that variants can be compared by.

Several scores can estimate how good a variant is. ``nas calibrate`` measures which of them separates variants best; a
study stores what all of them are computed from, except the averaged weights, which cost a validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.errors import shown


@dataclass(frozen=True)
class Validation:
    """The validation of some weights: mAP50, mAP50-95 and the sum of the losses."""

    map50: float
    map: float
    loss: float


@dataclass(frozen=True)
class EpochScore:
    """The results of one epoch.

    Attributes:
        epoch: From 1; 0 for initial weights.
        train_loss: Mean over its batches of the sum of the losses.
        seconds: Wall time.
        validation: Of the weights after it; None where the recipe has none.
    """

    epoch: int
    train_loss: float
    seconds: float
    validation: Validation | None = None

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> EpochScore:
        """Return the score of a dictionary that `dataclasses.asdict` made.

        Raises:
            ValueError: An entry is no number.
        """
        seen = body["validation"]
        numbers = (body["epoch"], body["train_loss"], body["seconds"])
        for number in (*numbers, *seen.values()) if seen else numbers:
            if type(number) is not float and type(number) is not int:
                raise ValueError(f"a curve has {shown(number)}, expected a number")
        return cls(*numbers, Validation(**seen) if seen else None)


Curve = tuple[EpochScore, ...]
"""The epochs of a training."""

DIVERGED = 10.0
"""Ratio of a training loss to its lowest value so far above which a training is stopped."""


def diverges(before: Sequence[EpochScore], now: EpochScore) -> bool:
    """Return whether a training has diverged, by the loss of an epoch.

    This is a safety stop, not pruning: on few images a healthy loss may triple from one epoch to the next.
    """
    return bool(before) and now.train_loss > DIVERGED * min(score.train_loss for score in before)


@dataclass(frozen=True)
class Score:
    """One number that variants can be compared by; more is better.

    Attributes:
        words: It in words.
        of: Computes it from a curve, whose last epoch has a validation, and from the validation of averaged weights.
        ranks: Whether a study can be ranked by it: it is an mAP50-95.
        needs_average: Whether the weights have to be averaged and validated for it.
        untrained: Whether it says something of weights that were validated without training.
    """

    words: str
    of: Callable[[Curve, Validation | None], float]
    ranks: bool = False
    needs_average: bool = False
    untrained: bool = True


def _validations(curve: Curve) -> list[Validation]:
    return [s.validation for s in curve if s.validation]


def _map_average(_: Curve, average: Validation | None) -> float:
    assert average is not None
    return average.map


SCORES: Mapping[str, Score] = {
    "map": Score("mAP50-95 at the end", lambda curve, _: _validations(curve)[-1].map, ranks=True),
    "map_last": Score(
        "mean mAP50-95 of the last validations",
        lambda curve, _: sum(v.map for v in _validations(curve)) / len(_validations(curve)),
        ranks=True,
        untrained=False,
    ),
    "map_average": Score(
        "mAP50-95 of the averaged weights", _map_average, ranks=True, needs_average=True, untrained=False
    ),
    "val_loss": Score("validation loss at the end, negated", lambda curve, _: -_validations(curve)[-1].loss),
    "train_loss": Score(
        "mean training loss over the epochs, negated", lambda curve, _: -sum(s.train_loss for s in curve) / len(curve)
    ),
}
"""Every score by name. A new one is an entry here; calibrations measure it, and studies can be ranked by it."""


def scores(curve: Curve, average: Validation | None) -> dict[str, float]:
    """Return the scores of a finished training, by name.

    Args:
        curve: Its epochs; the last one has a validation.
        average: Of its averaged weights; None leaves out the scores that need it.
    """
    known = {name: score for name, score in SCORES.items() if average is not None or not score.needs_average}
    return {name: score.of(curve, average) for name, score in known.items()}


def signed(value: float, digits: int) -> str:
    """Return a difference with its sign; one that rounds to zero has none."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]
