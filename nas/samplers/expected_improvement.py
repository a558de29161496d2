"""Expected improvement: of what has not been tried, what promises most.

mAP is predicted by a Gaussian process, and what is known before a training (GFLOPs, parameters, latency) by a sum of
parts, so that the objective's own form is not left to be learnt. The promise of a variant is by how much it is expected
to improve on the best so far (Jones, Schonlau & Welch, J. Global Optimization 13, 1998), or on the area that the Pareto
front covers (Emmerich, Deutz & Klinkenberg, CEC 2011). Candidates are all variants of a small space; in a large one
those one swap away from the best, as in a local search, and some at random.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from nas.samplers.gaussian_process import Codes, GaussianProcess
from nas.samplers.history import ENUMERATED, History, decode, encode, every_code
from nas.space.search_space import SearchSpace
from nas.study.objective import Array, fronts_of
from nas.study.trial import Trial

_MOST_SEEN = 200
"""Trials, the best and the latest ones, that a process learns from: its time grows with their cube."""
_PARENTS = 10
"""Variants whose neighbours are candidates."""
_RANDOM = 500
"""Candidates drawn at random."""
_STEPS = np.arange(-4.0, 5.01, 0.25)
"""Standard deviations at which an improvement is looked at."""
_DENSITY = np.exp(-0.5 * _STEPS**2) / np.exp(-0.5 * _STEPS**2).sum()

LIMITED: dict[str, Callable[[Trial], float | None]] = {
    "max_gflops": lambda t: t.gflops or None,
    "max_params": lambda t: float(t.params) or None,
    "max_latency_ms": lambda t: t.latency_ms,
}
"""What a limit of a space is held against, known before a training."""


def ask(history: History) -> dict[str, str] | None:
    """Return the untried variant that promises most; None if nothing can be said, or nothing new is among them."""
    done, space = history.done, history.space
    if history.base is None or len(done) < 2:
        return None
    seen, maps = _seen(history)
    codes = encode(space, [t.assignment for t in seen])
    process = GaussianProcess(codes, maps, history.error)
    pending = encode(space, [t.assignment for t in history.trials if t.status == "running"])
    if len(pending):  # believe what is expected of them, so that what is asked meanwhile lies elsewhere
        believed = np.concatenate([maps, process.predict(pending)[0]])
        process = GaussianProcess(np.concatenate([codes, pending]), believed, history.error)
    expected = process.predict(codes)[0]
    costs = np.array([history.goal.cost(t) for t in seen])
    found = _candidates(history, codes, _order(history, expected, costs))
    if not len(found):
        return None
    mean, sd = process.predict(found)
    cost = Parts(space, list(zip(seen, costs.tolist(), strict=True)))(found)
    promise, upper = _promise(history, expected, costs, mean, sd, cost)
    barred = _over(history, found)
    for i in np.lexsort((-upper, -promise, barred)):
        assignment = decode(space, found[i])
        if history.is_new(assignment):
            return assignment
    return None


def _seen(history: History) -> tuple[list[Trial], Array]:
    """Return the trials to learn from and their mAPs, from below cut off where nothing depends on how bad it is."""
    trials = history.done
    if len(trials) > _MOST_SEEN:
        ordered = history.goal.order(trials, lambda t: t.map < history.least)
        chosen = [*ordered[: _MOST_SEEN // 2], *trials[: _MOST_SEEN // 4]]
        keep = {t.number for t in chosen}
        latest = [t.number for t in trials if t.number not in keep]
        keep.update(latest[len(keep) - _MOST_SEEN :])
        trials = [t for t in trials if t.number in keep]
    maps = np.array([t.map for t in trials])
    middle = float(np.median(maps))
    lowest = middle - 2 * (float(maps.max()) - middle)
    if history.goal.objective != "map":  # how bad a cheap variant is decides whether its like may come above the floor
        lowest = min(lowest, history.least - 5 * (float(maps.max()) - history.least))
    return trials, np.maximum(maps, lowest)


def _order(history: History, maps: Array, costs: Array) -> Array:
    """Return a number for each variant, the smaller the better."""
    if not history.goal.has_front:
        return -history.goal.utility(maps, costs, history.least)
    return fronts_of(np.column_stack([maps, -costs])) + 1e6 * (maps < history.least)


def _candidates(history: History, codes: Codes, order: Array) -> Codes:
    """Return variants to choose from; some may be known or forbidden."""
    if history.space.size <= ENUMERATED:
        return every_code(history.space)
    counts = np.array([len(slot.choices) for slot in history.space.active])
    rng = np.random.default_rng(history.drawn)
    found = [rng.integers(0, counts, (_RANDOM, len(counts)))]
    for parent in codes[np.argsort(order, kind="stable")[:_PARENTS]]:
        children = np.repeat(parent[None], counts.sum(), axis=0)
        children[np.arange(counts.sum()), np.repeat(np.arange(len(counts)), counts)] = np.concatenate(
            [np.arange(count) for count in counts]
        )
        found.append(children)
    return np.unique(np.concatenate(found), axis=0)


def _promise(
    history: History, expected: Array, costs: Array, mean: Array, sd: Array, cost: Array
) -> tuple[Array, Array]:
    """Return the expected improvement of every candidate, and its improvement if it is lucky, which orders the rest."""
    goal, least = history.goal, history.least
    lucky = mean[:, None] + sd[:, None] * _STEPS
    if goal.has_front:
        gain = _area_gained(lucky, cost, expected, costs, least)
    else:
        best = float(goal.utility(expected, costs, least).max())
        gain = np.maximum(goal.utility(lucky, cost[:, None], least) - best, 0.0)
    return gain @ _DENSITY, gain[:, -1] if goal.has_front else lucky[:, -1]


def _area_gained(maps: Array, cost: Array, front_maps: Array, front_costs: Array, least: float) -> Array:
    """Return by how much a point at each (m, steps) mAP and (m,) cost would widen what the front covers.

    The area lies between the front, the dearest trial, and the least mAP.
    """
    points = sorted(zip(front_costs, front_maps, strict=True), key=lambda p: (p[0], -p[1]))
    floor = max(least, float(front_maps.min()))
    steps: list[tuple[float, float]] = []
    for c, m in points:
        if m > (steps[-1][1] if steps else floor):
            steps.append((c, m))
    edges = np.array([-np.inf, *(c for c, _ in steps), float(front_costs.max())])
    heights = np.array([floor, *(m for _, m in steps)])
    widths = np.maximum(edges[1:] - np.maximum(edges[:-1], cost[:, None]), 0.0)
    above = np.maximum(maps[:, :, None] - heights, 0.0)
    gained: Array = (above * widths[:, None, :]).sum(-1)
    return gained


class Parts:
    """A quantity that adds up from a variant's parts, by least squares; GFLOPs and parameters do so almost exactly.

    Attributes:
        sd: Standard deviation of what the sum leaves out.
    """

    def __init__(self, space: SearchSpace, known: Sequence[tuple[Trial, float]]) -> None:
        """Fit to trials and their quantity, at least one; a choice that none of them has adds nothing."""
        self._starts = np.cumsum([0, *(len(slot.choices) for slot in space.active)])
        rows = self._rows(encode(space, [trial.assignment for trial, _ in known]))
        values = np.array([value for _, value in known])
        self._mean = float(values.mean())
        self._effects: Array = np.linalg.lstsq(rows - rows.mean(0), values - self._mean, rcond=1e-9)[0]
        self._centre: Array = rows.mean(0)
        self._seen: npt.NDArray[np.bool_] = np.asarray(rows.any(axis=0))
        self.sd = float((values - self._sum(rows)).std())

    def __call__(self, codes: Codes) -> Array:
        """Return the quantity of (m, slots) codes, (m,)."""
        return self._sum(self._rows(codes))

    @property
    def complete(self) -> bool:
        """Whether every choice has been seen."""
        return bool(self._seen.all())

    def least(self) -> float:
        """Return the smallest sum that choices can make."""
        parts = [self._effects[a:b].min() for a, b in itertools.pairwise(self._starts)]
        return float(self._mean - self._centre @ self._effects + sum(parts))

    def _rows(self, codes: Codes) -> Array:
        rows = np.zeros((len(codes), self._starts[-1]))
        rows[np.arange(len(codes))[:, None], codes + self._starts[:-1]] = 1.0
        return rows

    def _sum(self, rows: Array) -> Array:
        return self._mean + (rows - self._centre) @ self._effects


def _over(history: History, codes: Codes) -> npt.NDArray[np.bool_]:
    """Return which candidates are expected to be over a limit of the space."""
    over = np.zeros(len(codes), dtype=bool)
    for key, limit in history.space.limits:
        parts = limited_parts(history, key)
        if parts:
            over |= parts(codes) - 2 * parts.sd > limit * (1 + 1e-6)
    return over


def limited_parts(history: History, key: str) -> Parts | None:
    """Return the sum of parts of what a limit is held against; None if nothing is known of it before a training."""
    read = LIMITED.get(key)
    known = [(t, value) for t in history.trials if read and (value := read(t)) is not None]
    return Parts(history.space, known[-_MOST_SEEN:]) if known else None
