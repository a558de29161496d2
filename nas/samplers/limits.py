"""Limits of a space, checked before a training: variants that exceed one, and limits that no variant can meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nas.errors import BuildError, SpaceError
from nas.model.cost import Cost
from nas.samplers.cost_model import LIMITED, model_of_limit
from nas.samplers.history import History
from nas.space.search_space import SearchSpace
from nas.space.variant import Variant
from nas.study.trial import Trial

_WORDS = {
    "max_gflops": ("{:.2f} GFLOPs", "--max-gflops"),
    "max_params": ("{:.0f} parameters", "--max-params"),
    "max_latency_ms": ("{:.2f} ms", "--max-latency"),
}


def over_limit(space: SearchSpace, cost: Cost, latency_ms: float | None) -> str:
    """Return a message about a limit that a variant exceeds; empty if there is none. A latency of None exceeds none."""
    limits = dict(space.limits)
    found = {"max_gflops": cost.gflops, "max_params": cost.params, "max_latency_ms": latency_ms or 0.0}
    for key, value in found.items():
        if value > limits.get(key, float("inf")):
            words, _ = _WORDS[key]
            return f"{words.format(value)}, over the limit of {limits[key]:g}"
    return ""


def check_limits(space: SearchSpace, cost_of: Callable[[Variant], Cost]) -> None:
    """Refuse limits on GFLOPs and parameters that no variant can meet, before anything is trained.

    Computes the cost of the baseline, and if that exceeds a limit of each single swap, until one does not.

    Args:
        space: With the limits.
        cost_of: Builds a variant and computes its cost; one for which it raises BuildError is skipped.

    Raises:
        SpaceError: Even the cheapest choices together would be over a limit; it says how near anything came.
    """
    if not dict(space.limits).keys() & {"max_gflops", "max_params"}:
        return
    rejected: list[Trial] = []
    for assignment in (space.baseline(), *space.single_swaps()):
        variant = space.variant(assignment)
        try:
            cost = cost_of(variant)
        except BuildError:
            continue
        over = over_limit(space, cost, None)
        if not over:
            return
        trial = Trial(-1, variant, assignment, "rejected", params=cost.params, gflops=cost.gflops, failure=over)
        rejected.append(trial)
    if is_infeasible(space, rejected):
        raise_infeasible(space, rejected)


def is_infeasible(space: SearchSpace, trials: Sequence[Trial]) -> bool:
    """Return whether even the cheapest choices together would exceed a limit, by a linear model of the costs so far."""
    history = History(space, trials)
    for key, limit in space.limits:
        model = model_of_limit(history, key)
        if model and model.has_seen_all and model.minimum() - 3 * model.sd > limit:
            return True
    return False


def raise_infeasible(space: SearchSpace, trials: Sequence[Trial]) -> None:
    """Raise if a search ends without a variant within the limits of the space.

    Raises:
        SpaceError: All that was looked at is over a limit; it says how near anything came.
    """
    rejected = [t for t in trials if t.status == "rejected"]
    base = next((t for t in trials if t.status == "done" and t.variant.is_baseline), None)
    limits = {key: limit for key, limit in space.limits if key in LIMITED}
    others = any(t.status in ("done", "failed") and not t.variant.is_baseline for t in trials)
    if not rejected or others or (base and all((LIMITED[k](base) or 0.0) <= limit for k, limit in limits.items())):
        return
    lines = []
    for key, limit in limits.items():
        values = [value for t in (*rejected, *([base] if base else [])) if (value := LIMITED[key](t)) is not None]
        if any((LIMITED[key](t) or 0.0) > limit for t in rejected):
            words, option = _WORDS[key]
            lines.append(f"the least of them has {words.format(min(values))}, the limit is {limit:g} ({option})")
    raise SpaceError(f"no variant is within the limits of the space ({len(rejected)} looked at): {'; '.join(lines)}")
