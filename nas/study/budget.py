"""Rungs of successive halving: cheaper trainings for all variants, which promote only the best to the next rung.

Successive halving is described by Jamieson and Talwalkar (2016), "Non-stochastic Best Arm Identification and
Hyperparameter Optimization". Here, in contrast, each rung trains from the start with its own complete schedule, and is
not the beginning of a longer training: while the learning rate is still high, scores rank variants differently than at
the end. A rung may train for fewer epochs, on smaller images, or on a fraction of the training images. The top rung is
the study's own recipe, which alone is ranked and confirmed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nas.errors import OptionError
from nas.training.recipe import Recipe

ETA = 3
"""Default halving factor: 1/ETA of the variants on a rung are promoted."""
_STRIDE = 32
_RUNG = re.compile(r"(?P<epochs>\d+)(@(?P<imgsz>\d+)(/(?P<windows_at>[1-9]\d+))?)?(/(?P<fraction>[\d.]+))?")


@dataclass(frozen=True)
class Rung:
    """A training that is cheaper than the study's own.

    Attributes:
        epochs: Epochs of its complete schedule; 0 only validates the inherited weights.
        imgsz: Side of the network's input in pixels, in training and validation.
        fraction: Fraction of the training images, 0 to 1; validation uses all images.
        windows_at: Long side in pixels of the images that windows of `imgsz` px are cut from; 0 is no windows.
    """

    epochs: int
    imgsz: int
    fraction: float = 1.0
    windows_at: int = 0

    @classmethod
    def of(cls, recipe: Recipe) -> Rung:
        """Return a recipe as a rung."""
        return cls(recipe.epochs, recipe.imgsz, windows_at=recipe.windows_at)

    @property
    def fidelity(self) -> str:
        """Its fidelity as trials store it: ``EPOCHS@IMGSZ[/WINDOWS_AT]/FRACTION``, such as ``2@160/1``."""
        at = f"/{self.windows_at}" if self.windows_at else ""
        return f"{self.epochs}@{self.imgsz}{at}/{self.fraction:g}"

    @property
    def words(self) -> str:
        """Description of the rung."""
        trained = f"{self.epochs} epoch{'s' * (self.epochs != 1)}" if self.epochs else "no training"
        share = "" if self.fraction == 1 else f" with {self.fraction:.0%} of the training images"
        return f"{trained} {image_words(self.imgsz, self.windows_at)}{share}"

    @property
    def work(self) -> float:
        """Relative training cost: epochs times image area times fraction."""
        return self.epochs * self.imgsz**2 * self.fraction

    def recipe(self, own: Recipe) -> Recipe:
        """Return the recipe of this rung, derived from the study's own."""
        return replace(own, epochs=self.epochs, imgsz=self.imgsz, windows_at=self.windows_at)

    @classmethod
    def read(cls, text: str, own: Recipe) -> Rung:
        """Parse ``EPOCHS[@IMGSZ[/WINDOWS_AT]][/FRACTION]``; omitted parts are those of the study's own recipe.

        With an IMGSZ alone, as in ``2@160``, images are scaled to it; ``2@224/640`` cuts windows of 224 px from images
        of 640 px.

        Raises:
            OptionError: It has another form, or cannot be trained.
        """
        match = _RUNG.fullmatch(text.strip())
        try:
            fraction = float(match["fraction"] or 1) if match else 0.0
        except ValueError:
            match = None
        if match is None:
            raise OptionError(
                f"cannot read the rung {text!r}: expected EPOCHS[@IMGSZ][/FRACTION], such as 2@96/0.5, or with windows "
                "EPOCHS@WINDOW/TARGET[/FRACTION], such as 2@224/640"
            )
        windows_at = int(match["windows_at"] or 0) if match["imgsz"] else own.windows_at
        rung = cls(int(match["epochs"]), int(match["imgsz"] or own.imgsz), fraction, windows_at)
        if match["imgsz"] and (rung.imgsz < _STRIDE or rung.imgsz % _STRIDE):
            raise OptionError(f"the rung {text!r}: the image side has to be a multiple of {_STRIDE}")
        if rung.windows_at and rung.windows_at <= rung.imgsz:
            raise OptionError(f"the rung {text!r}: windows have to be smaller than the images they are cut from")
        if not 0 < fraction <= 1:
            raise OptionError(f"the rung {text!r}: a fraction of the training images is above 0, and at most 1")
        if not rung.epochs and own.init == "scratch":
            raise OptionError(f"the rung {text!r} only validates inherited weights; with --init scratch there are none")
        return rung


def image_words(imgsz: int, windows_at: int) -> str:
    """Return what a network sees, in words."""
    return f"on windows of {imgsz} px at {windows_at} px" if windows_at else f"at {imgsz} px"


def read_rungs(text: str, own: Recipe) -> tuple[Rung, ...]:
    """Parse rungs separated by commas, the cheapest first; ``none`` is none.

    Args:
        text: The rungs.
        own: The study's own recipe: the top rung, which is not listed.

    Raises:
        OptionError: One cannot be parsed, or costs as much as the next.
    """
    if text.strip().lower() == "none":
        return ()
    rungs = tuple(Rung.read(part, own) for part in text.split(","))
    top = Rung.of(own)
    for lower, higher in zip(rungs, (*rungs[1:], top), strict=True):
        if lower.work >= higher.work:
            after = "the study's own recipe" if higher is top else "the next"
            raise OptionError(
                f"each rung has to cost more than the one before, but {lower.fidelity} trains as much as {after}, "
                f"{higher.fidelity}, or more; the study's own recipe (--epochs, --imgsz) is the top rung and not listed"
            )
    return rungs


def survivor_count(count: int, eta: int) -> int:
    """Return how many variants of a rung are promoted to the next: one of `eta`, rounded up."""
    return math.ceil(count / eta)


def variants_per_rung(variants: int, rungs: Sequence[Rung], eta: int) -> list[int]:
    """Return the number of variants on each rung, the top one last, without the baseline."""
    counts = [variants]
    for _ in rungs:
        counts.append(survivor_count(counts[-1], eta))
    return counts


@dataclass(frozen=True)
class Confirm:
    """Confirmation of a ranking: the best `top` variants get `seeds` seeds in all; 0 is no confirmation."""

    top: int = 0
    seeds: int = 0

    def __str__(self) -> str:
        return f"{self.top}:{self.seeds}" if self.top else "0"
