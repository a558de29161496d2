"""A linear model of what is known before a training, such as GFLOPs: a sum over the choices of a variant."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from nas.samplers.encoding import Codes, encode
from nas.samplers.history import History
from nas.space.search_space import SearchSpace
from nas.study.objective import Array
from nas.study.trial import Trial

_MAX_TRIALS = 200
"""The latest trials, which a limit's model is fitted to."""

LIMITED: dict[str, Callable[[Trial], float | None]] = {
    "max_gflops": lambda t: t.gflops or None,
    "max_params": lambda t: float(t.params) or None,
    "max_latency_ms": lambda t: t.latency_ms,
}
"""The quantity that each limit of a space bounds; None where a trial has not got as far."""


class CostModel:
    """A cost as a sum over choices, by least squares; GFLOPs and parameters are such sums almost exactly.

    Attributes:
        sd: Standard deviation of the residuals.
    """

    def __init__(self, space: SearchSpace, known: Sequence[tuple[Trial, float]]) -> None:
        """Fit to trials and their cost, at least one; a choice that none of them has costs nothing."""
        self._starts = np.cumsum([0, *(len(slot.choices) for slot in space.active)])
        rows = self._one_hot(encode(space, [trial.assignment for trial, _ in known]))
        costs = np.array([cost for _, cost in known])
        self._mean = float(costs.mean())
        self._effects: Array = np.linalg.lstsq(rows - rows.mean(0), costs - self._mean, rcond=1e-9)[0]
        self._centre: Array = rows.mean(0)
        self._seen: npt.NDArray[np.bool_] = np.asarray(rows.any(axis=0))
        self.sd = float((costs - self._sum(rows)).std())

    def predict(self, codes: Codes) -> Array:
        """Return the cost of (m, slots) codes, (m,)."""
        return self._sum(self._one_hot(codes))

    @property
    def has_seen_all(self) -> bool:
        """True if each choice is in at least one of the trials."""
        return bool(self._seen.all())

    def minimum(self) -> float:
        """Return the lowest cost of any combination of choices."""
        cheapest = [self._effects[a:b].min() for a, b in itertools.pairwise(self._starts)]
        return float(self._mean - self._centre @ self._effects + sum(cheapest))

    def _one_hot(self, codes: Codes) -> Array:
        rows = np.zeros((len(codes), self._starts[-1]))
        rows[np.arange(len(codes))[:, None], codes + self._starts[:-1]] = 1.0
        return rows

    def _sum(self, rows: Array) -> Array:
        return self._mean + (rows - self._centre) @ self._effects


def model_of_limit(history: History, key: str) -> CostModel | None:
    """Return a model of the quantity that a limit bounds; None if no trial tells it, or only a training does."""
    read = LIMITED.get(key)
    known = [(t, cost) for t in history.trials if read and (cost := read(t)) is not None]
    return CostModel(history.space, known[-_MAX_TRIALS:]) if known else None
