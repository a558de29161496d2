"""The gate: which variants are not worth a training, because a limit of the space already says no."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nas.errors import BuildError, SpaceError
from nas.model.cost import Cost
from nas.samplers.expected_improvement import LIMITED, limited_parts
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
    """Say which of the space's limits a variant exceeds; empty if none. A latency of None is not held against it."""
    limits = dict(space.limits)
    found = {"max_gflops": cost.gflops, "max_params": cost.params, "max_latency_ms": latency_ms or 0.0}
    for key, value in found.items():
        if value > limits.get(key, float("inf")):
            words, _ = _WORDS[key]
            return f"{words.format(value)}, over the limit of {limits[key]:g}"
    return ""


def check_reach(space: SearchSpace, cost_of: Callable[[Variant], Cost]) -> None:
    """Refuse limits on GFLOPs and parameters that no variant can be within, before anything is trained.

    Costs the baseline, and where that is over a limit every swap alone, until one is not.

    Args:
        space: With the limits.
        cost_of: Builds and counts a variant; one for which it raises BuildError is passed over.

    Raises:
        SpaceError: Even the cheapest choices together would be over a limit; it says how near anything came.
    """
    if not dict(space.limits).keys() & {"max_gflops", "max_params"}:
        return
    looked_at: list[Trial] = []
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
        looked_at.append(trial)
    if out_of_reach(space, looked_at):
        no_variant_left(space, looked_at)


def out_of_reach(space: SearchSpace, trials: Sequence[Trial]) -> bool:
    """Whether even the cheapest choices together would be over a limit, by what every choice has been seen to add."""
    history = History(space, trials)
    for key, limit in space.limits:
        parts = limited_parts(history, key)
        if parts and parts.complete and parts.least() - 3 * parts.sd > limit:
            return True
    return False


def no_variant_left(space: SearchSpace, trials: Sequence[Trial]) -> None:
    """Refuse to end a search that found nothing within the limits of the space as if it had an answer.

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
