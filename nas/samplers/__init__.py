"""Samplers by name: how the next variant is chosen once the baseline is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nas.samplers.evolution import evolution, nsga2
from nas.samplers.expected_improvement import most_promising
from nas.samplers.history import History
from nas.samplers.tpe import tpe
from nas.space.search_space import key_of


@dataclass(frozen=True)
class Sampler:
    """One way to choose.

    Attributes:
        words: What it does, for help and documentation.
        ask: Returns what to try next; None leaves the choice to chance.
        singles_first: Whether every swap alone is tried before it is asked.
    """

    words: str
    ask: Callable[[History], dict[str, str] | None]
    singles_first: bool = True


def brute(history: History) -> dict[str, str] | None:
    """Return the first variant, in the order of the space, that is not known."""
    return next((a for a in history.space.assignments() if key_of(a) not in history.known), None)


def uniform(history: History) -> dict[str, str] | None:
    """Return a variant at random."""
    return history.any_new(random.Random(history.drawn))


SAMPLERS: Mapping[str, Sampler] = {
    "gp": Sampler("expected improvement under a Gaussian process", most_promising),
    "tpe": Sampler("multivariate tree-structured Parzen estimator", tpe),
    "evolution": Sampler("regularised evolution", evolution, singles_first=False),
    "nsga2": Sampler("NSGA-II", nsga2, singles_first=False),
    "random": Sampler("uniformly at random", uniform, singles_first=False),
    "brute": Sampler("every variant, in the order of the space", brute, singles_first=False),
}
"""Every sampler. None proposes what has been tried, so each goes through the whole space if trials allow."""

AUTO = "auto"
"""The name that leaves the choice to `resolve`."""


def resolve(name: str) -> str:
    """Return the sampler that a name stands for; what ``auto`` stands for is what replays have shown to be best."""
    return "gp" if name == AUTO else name
