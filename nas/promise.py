"""The additive sampler: combinations in the order that their parts promise (`nas.predict`).

A share of the proposals comes from a TPE instead, which does not believe in parts.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.history import History
from nas.predict import Additive, AdditiveCost, Observation, candidates
from nas.tpe import tpe
from nas.trial import Trial

_MOST_SEEN = 300
"""Combinations, the latest ones, that a prediction learns from."""
EXPLORATION = 4
"""Of so many combinations one comes from the TPE."""


def additive(history: History) -> dict[str, str] | None:
    """Return the combination whose parts promise most, or what the TPE draws."""
    combinations = len(history.known) - 1 - len(history.space.single_swaps())
    if combinations % EXPLORATION != EXPLORATION - 1:
        promised = promising(history)
        if promised is not None:
            return promised
    return tpe(history)


def promising(history: History) -> dict[str, str] | None:
    """Return the untried variant whose parts promise the best place in the ranking; None if nothing can be said.

    With two objectives the parts are weighed by mAP per GFLOP all the same.
    """
    base, done, space = history.base, history.done, history.space
    if base is None or len(done) < 2:
        return None
    singles = 1 + sum(len(slot.choices) - 1 for slot in space.active)
    seen = observations([*done[:singles], *done[singles:][-_MOST_SEEN:]])
    model = Additive.fit(seen, space.active, history.error)
    cost = AdditiveCost.fit([(t.assignment, t.gflops) for t in done], space.active)

    def score(mean: float, gflops: float) -> float:
        if mean < history.least:
            return mean - base.map
        return mean if history.goal.objective == "map" else mean / max(gflops, 1e-9)

    found = candidates(
        model, space.active, cost.predict, score, history.known, space.forbids, seed=history.drawn
    )
    return found[0] if found else None


def observations(trials: Sequence[Trial]) -> list[Observation]:
    """Return what finished trials say to a prediction."""
    return [Observation(t.assignment, t.map) for t in trials if t.status == "done"]
