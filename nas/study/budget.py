"""Rungs: cheaper trainings that every variant gets first, so that only the best of each go on to a dearer one.

This is successive halving (Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization"), with one difference: a rung is a training of its own, from the start and with its own complete schedule,
not the beginning of a longer one. What a learning rate that is still high says of a variant is another thing than what
it says at its end. A rung may train for fewer epochs, on smaller images, or on a share of the training images; the top
one is the study's own recipe, and alone is ranked and confirmed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nas.errors import OptionError
from nas.training.recipe import Recipe

ETA = 3
"""Of how many variants one goes on, unless something else is asked for."""
_STRIDE = 32
_RUNG = re.compile(r"(?P<epochs>\d+)(@(?P<imgsz>\d+))?(/(?P<fraction>[\d.]+))?")


@dataclass(frozen=True)
class Rung:
    """A training that is cheaper than the study's own.

    Attributes:
        epochs: Its epochs, which its schedule spans; 0 validates what is inherited.
        imgsz: Image side in pixels, in training and validation.
        fraction: Share of the training images, 0 to 1; the validation images are always all.
    """

    epochs: int
    imgsz: int
    fraction: float = 1.0

    @property
    def fidelity(self) -> str:
        """What its trials are known by: ``EPOCHS@IMGSZ/FRACTION``, such as ``2@160/1``."""
        return f"{self.epochs}@{self.imgsz}/{self.fraction:g}"

    @property
    def words(self) -> str:
        """The rung in words."""
        trained = f"{self.epochs} epoch{'s' * (self.epochs != 1)}" if self.epochs else "no training"
        share = "" if self.fraction == 1 else f" with {self.fraction:.0%} of the training images"
        return f"{trained} at {self.imgsz} px{share}"

    @property
    def work(self) -> float:
        """Pixels that are trained on, over those of one epoch on all images of one pixel."""
        return self.epochs * self.imgsz**2 * self.fraction

    def recipe(self, own: Recipe) -> Recipe:
        """Return the study's own recipe, as this rung trains."""
        return replace(own, epochs=self.epochs, imgsz=self.imgsz)

    @classmethod
    def read(cls, text: str, own: Recipe) -> Rung:
        """Read ``EPOCHS[@IMGSZ][/FRACTION]``; what is left out is the study's own.

        Raises:
            OptionError: It is not that, or nothing that can be trained.
        """
        match = _RUNG.fullmatch(text.strip())
        try:
            fraction = float(match["fraction"] or 1) if match else 0.0
        except ValueError:
            match = None
        if match is None:
            raise OptionError(f"cannot read the rung {text!r}: expected EPOCHS[@IMGSZ][/FRACTION], such as 2@96/0.5")
        rung = cls(int(match["epochs"]), int(match["imgsz"] or own.imgsz), fraction)
        if match["imgsz"] and (rung.imgsz < _STRIDE or rung.imgsz % _STRIDE):
            raise OptionError(f"the rung {text!r}: the image side has to be a multiple of {_STRIDE}")
        if not 0 < fraction <= 1:
            raise OptionError(f"the rung {text!r}: a share of the training images is above 0, and at most 1")
        if not rung.epochs and own.init == "scratch":
            raise OptionError(f"the rung {text!r} validates what is inherited; with --init scratch there is nothing")
        return rung


def read_rungs(text: str, own: Recipe) -> tuple[Rung, ...]:
    """Read rungs separated by commas, the cheapest first; ``none`` is none.

    Args:
        text: As given.
        own: The study's own recipe: the top rung, which is not named.

    Raises:
        OptionError: One of them cannot be read, or costs as much as the next.
    """
    if text.strip().lower() == "none":
        return ()
    rungs = tuple(Rung.read(part, own) for part in text.split(","))
    top = Rung(own.epochs, own.imgsz)
    for lower, higher in zip(rungs, (*rungs[1:], top), strict=True):
        if lower.work >= higher.work:
            after = "the study's own recipe" if higher is top else "the next"
            raise OptionError(
                f"rungs get dearer one by one, but {lower.fidelity} trains as much as {after}, {higher.fidelity}, or "
                "more; the study's own recipe (--epochs, --imgsz) is the top rung and not named"
            )
    return rungs


def survivors(count: int, eta: int) -> int:
    """Return how many of the variants of a rung go on to the next: one of `eta`, rounded up."""
    return math.ceil(count / eta)


def trainings(variants: int, rungs: Sequence[Rung], eta: int) -> list[int]:
    """Return how many variants each rung gets, the top one last; the baseline is not counted."""
    counts = [variants]
    for _ in rungs:
        counts.append(survivors(counts[-1], eta))
    return counts


@dataclass(frozen=True)
class Confirm:
    """How a ranking is confirmed: so many of its first, until each has so many seeds. Without any, it is not."""

    top: int = 0
    seeds: int = 0

    def __str__(self) -> str:
        return f"{self.top}:{self.seeds}" if self.top else "0"
