"""The default sampler: expected improvement under a Gaussian process.

mAP is predicted by a Gaussian process, and cost, which is known before a training (GFLOPs, latency), by a linear model,
so that the form of the objective need not be learnt. The acquisition function is the expected improvement on the best
variant so far (Jones, Schonlau & Welch, J. Global Optimization 13, 1998), or on the area dominated by the Pareto front
(expected hypervolume improvement; Emmerich, Deutz & Klinkenberg, CEC 2011). Candidates are all variants of a small
space; in a large one the neighbours of the best, as in a local search, and some at random.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas.samplers.cost_model import CostModel, model_of_limit
from nas.samplers.encoding import Codes, decode, encode
from nas.samplers.gaussian_process import GaussianProcess
from nas.samplers.history import History
from nas.study.objective import Array, fronts_of
from nas.study.trial import Trial

_MAX_TRIALS = 200
"""Trials, the best and the latest, that the process is fitted to: its time grows with their cube."""
_PARENTS = 10
"""Variants whose neighbours are candidates."""
_RANDOM = 500
"""Candidates drawn at random."""
_STEPS = np.arange(-4.0, 5.01, 0.25)
"""Standard deviations at which the improvement is evaluated, to integrate it over the posterior."""
_DENSITY = np.exp(-0.5 * _STEPS**2) / np.exp(-0.5 * _STEPS**2).sum()


def ask(history: History) -> dict[str, str] | None:
    """Return the new variant of the highest expected improvement; None without two scores or a new candidate."""
    done, space = history.done, history.space
    if history.base is None or len(done) < 2:
        return None
    seen, maps = _training_set(history)
    codes = encode(space, [t.assignment for t in seen])
    process = GaussianProcess(codes, maps, history.error)
    pending = encode(space, [t.assignment for t in history.trials if t.status == "running"])
    if len(pending):  # as if they had scored their prediction, so that parallel workers are sent elsewhere
        assumed = np.concatenate([maps, process.predict(pending)[0]])
        process = GaussianProcess(np.concatenate([codes, pending]), assumed, history.error)
    expected = process.predict(codes)[0]
    costs = np.array([history.goal.cost(t) for t in seen])
    found = _candidates(history, codes, _order(history, expected, costs))
    if not len(found):
        return None
    mean, sd = process.predict(found)
    cost = CostModel(space, list(zip(seen, costs.tolist(), strict=True))).predict(found)
    improvement, upper = _improvements(history, expected, costs, mean, sd, cost)
    for i in np.lexsort((-upper, -improvement, _exceeds_limits(history, found))):
        assignment = decode(space, found[i])
        if history.is_new(assignment):
            return assignment
    return None


def _training_set(history: History) -> tuple[list[Trial], Array]:
    """Return the trials to fit to and their mAPs, clipped from below where it does not matter how bad a variant is."""
    trials = history.done
    if len(trials) > _MAX_TRIALS:
        ordered = history.goal.order(trials, lambda t: t.map < history.least)
        chosen = [*ordered[: _MAX_TRIALS // 2], *trials[: _MAX_TRIALS // 4]]
        keep = {t.number for t in chosen}
        latest = [t.number for t in trials if t.number not in keep]
        keep.update(latest[len(keep) - _MAX_TRIALS :])
        trials = [t for t in trials if t.number in keep]
    maps = np.array([t.map for t in trials])
    middle = float(np.median(maps))
    lowest = middle - 2 * (float(maps.max()) - middle)
    if history.goal.objective != "map":  # how bad a cheap variant is tells whether similar ones may reach the floor
        lowest = min(lowest, history.least - 5 * (float(maps.max()) - history.least))
    return trials, np.maximum(maps, lowest)


def _order(history: History, maps: Array, costs: Array) -> Array:
    """Return a sort key of each variant, the smaller the better."""
    if not history.goal.has_front:
        return -history.goal.utility(maps, costs, history.least)
    return fronts_of(np.column_stack([maps, -costs])) + 1e6 * (maps < history.least)


def _candidates(history: History, codes: Codes, order: Array) -> Codes:
    """Return the codes of the variants to choose from; some may be known or forbidden."""
    if (every := history.candidates()) is not None:
        return every
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


def _improvements(
    history: History, expected: Array, costs: Array, mean: Array, sd: Array, cost: Array
) -> tuple[Array, Array]:
    """Return the expected improvement of every candidate, and an upper bound that orders those without any."""
    goal, least = history.goal, history.least
    maps = mean[:, None] + sd[:, None] * _STEPS
    if goal.has_front:
        gain = _area_gained(maps, cost, expected, costs, least)
    else:
        best = float(goal.utility(expected, costs, least).max())
        gain = np.maximum(goal.utility(maps, cost[:, None], least) - best, 0.0)
    return gain @ _DENSITY, gain[:, -1] if goal.has_front else maps[:, -1]


def _area_gained(maps: Array, cost: Array, front_maps: Array, front_costs: Array, least: float) -> Array:
    """Return by how much a point at each (m, steps) mAP and (m,) cost would enlarge the area that the front dominates.

    The area is bounded by the most expensive trial and the least mAP.
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


def _exceeds_limits(history: History, codes: Codes) -> npt.NDArray[np.bool_]:
    """Return which candidates are expected to exceed a limit of the space."""
    over = np.zeros(len(codes), dtype=bool)
    for key, limit in history.space.limits:
        if model := model_of_limit(history, key):
            over |= model.predict(codes) - 2 * model.sd > limit * (1 + 1e-6)
    return over
