"""The results of a training, and the scores that variants can be compared by.

Several scores can estimate how good a variant is. ``nas calibrate`` measures which of them separates variants best; a
study stores what all of them are computed from, except the averaged weights, which cost a validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCORES: Mapping[str, str] = {
    "map": "mAP50-95 at the end",
    "map_last": "mean mAP50-95 of the last validations",
    "map_average": "mAP50-95 of the averaged weights",
    "val_loss": "validation loss at the end, negated",
    "train_loss": "mean training loss over the epochs, negated",
}
"""Descriptions of all scores. More is better in each of them."""


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
        """Return the score of a dictionary that `dataclasses.asdict` made."""
        seen = body["validation"]
        return cls(body["epoch"], body["train_loss"], body["seconds"], Validation(**seen) if seen else None)


DIVERGED = 10.0
"""Ratio of a training loss to its lowest value so far above which a training is stopped."""


def diverges(before: Sequence[EpochScore], now: EpochScore) -> bool:
    """Return whether a training has diverged, by the loss of an epoch.

    This is a safety stop, not pruning: on few images a healthy loss may triple from one epoch to the next.
    """
    return bool(before) and now.train_loss > DIVERGED * min(score.train_loss for score in before)


def scores(curve: tuple[EpochScore, ...], average: Validation | None) -> dict[str, float]:
    """Return the scores of a finished training, by the names of `SCORES`.

    Args:
        curve: Its epochs; the last one has a validation.
        average: Validation of its averaged weights; None leaves that score out.
    """
    seen = [s.validation for s in curve if s.validation]
    found = {
        "map": seen[-1].map,
        "map_last": sum(v.map for v in seen) / len(seen),
        "val_loss": -seen[-1].loss,
        "train_loss": -sum(s.train_loss for s in curve) / len(curve),
    }
    if average is not None:
        found["map_average"] = average.map
    return found


def signed(value: float, digits: int) -> str:
    """Return a difference with its sign; one that rounds to zero has none."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]
