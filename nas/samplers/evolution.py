"""Evolutionary samplers: regularised evolution, and NSGA-II. They remember nothing: the history is their population."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

from nas.samplers.gaussian_process import Codes
from nas.samplers.history import History, decode, encode, mutate
from nas.study.objective import Array, fronts_of

_POPULATION = 20
"""Small, for searches of some hundred trainings."""
_SAMPLE = 5
_CROSSOVER = 0.9
_TRIES = 100


def evolution(history: History) -> dict[str, str] | None:
    """Return a mutation of the best of a few members of the population, the latest trials.

    Regularised evolution of Real et al., AAAI 2019 (arXiv:1802.01548): what is old dies, however good it is. One
    slot is changed; where all that gives is known, one more.
    """
    rng = random.Random(history.drawn)
    if len(history.done) < _POPULATION:
        return history.any_new(rng)
    codes = encode(history.space, [t.assignment for t in history.done[-_POPULATION:]])
    value = -_places(history.values[-_POPULATION:])
    sample = rng.choices(range(_POPULATION), k=_SAMPLE)
    parent = codes[max(sample, key=lambda i: (value[i], i))]
    return history.new_near(parent, rng) or history.any_new(rng)


def nsga2(history: History) -> dict[str, str] | None:
    """Return a child of two members of the population by NSGA-II (Deb et al., IEEE TEVC 6(2), 2002).

    A generation is as many trials as the population has members. The best of the old population and the new generation
    survive: by Pareto front, and within a front by how far apart they lie.
    """
    rng = random.Random(history.drawn)
    if len(history.done) < _POPULATION:
        return history.any_new(rng)
    alive, rank = _survivors(history.values[: len(history.done) // _POPULATION * _POPULATION])
    codes = encode(history.space, [history.done[i].assignment for i in alive])

    def parent() -> Codes:
        a, b = rng.randrange(len(alive)), rng.randrange(len(alive))
        chosen: Codes = codes[a if rank[a] <= rank[b] else b]
        return chosen

    for _ in range(_TRIES):
        child, other = parent().copy(), parent()
        if rng.random() < _CROSSOVER:
            swapped = np.array([rng.random() < 0.5 for _ in child])
            child[swapped] = other[swapped]
        for slot in range(len(child)):
            if rng.random() < 1 / len(child):
                mutate(child, history.space, rng, slot)
        assignment = decode(history.space, child)
        if history.is_new(assignment):
            return assignment
    return history.any_new(rng)


def _survivors(values: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Go through the generations; return which trials are alive after the last one, and their places from the best."""
    alive = np.arange(_POPULATION)
    for start in range(_POPULATION, len(values), _POPULATION):
        both = np.concatenate([alive, np.arange(start, start + _POPULATION)])
        alive = both[np.argsort(_places(values[both]), kind="stable")[:_POPULATION]]
    return alive, np.argsort(np.argsort(_places(values[alive]), kind="stable"))


def _places(values: Array) -> Array:
    """Return numbers that order points, the smaller the better: their Pareto front, then how crowded they are there."""
    fronts = fronts_of(values)
    crowding = np.zeros(len(values))
    for front in range(int(fronts.max()) + 1):
        at = np.flatnonzero(fronts == front)
        for axis in values[at].T:
            order = np.argsort(axis, kind="stable")
            apart = np.full(len(at), np.inf)
            apart[order[1:-1]] = (axis[order[2:]] - axis[order[:-2]]) / (np.ptp(axis) or 1.0)
            crowding[at] += apart
    finite = np.where(np.isinf(crowding), 0.0, crowding)
    return fronts - 0.5 * np.where(np.isinf(crowding), 1.0, finite / (1.0 + finite))
