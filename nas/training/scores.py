"""Scores: what a training shows, and the numbers that variants can be compared by.

Several numbers can stand for how good a variant is. Which of them tells variants apart best is measured, by
``nas calibrate``; a study keeps what all of them are made of, but for the averaged weights, which cost a validation.
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
"""Every score, in words. More is better in each of them."""


@dataclass(frozen=True)
class Validation:
    """What the validation images say about weights: mAP50, mAP50-95 and the summed losses."""

    map50: float
    map: float
    loss: float


@dataclass(frozen=True)
class EpochScore:
    """What one epoch has shown.

    Attributes:
        epoch: From 1; 0 for weights that were not trained on.
        train_loss: Mean over its batches of the summed losses.
        seconds: Wall time.
        validation: Of the weights after it; None where the recipe asks for none.
    """

    epoch: int
    train_loss: float
    seconds: float
    validation: Validation | None = None

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> EpochScore:
        """Return what `dataclasses.asdict` made plain."""
        seen = body["validation"]
        return cls(body["epoch"], body["train_loss"], body["seconds"], Validation(**seen) if seen else None)


DIVERGED = 10.0
"""How many times its lowest value so far a training loss may be, before its training is given up."""


def diverges(before: Sequence[EpochScore], now: EpochScore) -> bool:
    """Whether an epoch's loss has left what the training had reached, and there is nothing to wait for.

    This is a safety stop, no pruning: on a handful of images a healthy loss may triple from one epoch to the next.
    """
    return bool(before) and now.train_loss > DIVERGED * min(score.train_loss for score in before)


def scores(curve: tuple[EpochScore, ...], average: Validation | None) -> dict[str, float]:
    """Return the scores of a finished training, by the names of `SCORES`.

    Args:
        curve: Its epochs; the last one has a validation.
        average: Of its averaged weights; None leaves that score out.
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
    """Return a difference with its sign; what rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]
