"""Latencies that are measured separately from a search: which variants, what a study stores of them, sums over swaps.

The time of a swap is that of the baseline with this swap alone, minus the baseline's: each choice is timed in its place
in the whole exported network, with what an engine fuses there. How far sums of these differ from combinations that
were measured says what a solver's use of them is worth.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nas.engines import SEPARATE
from nas.engines.stored import Latencies
from nas.errors import StudyError
from nas.ranking.rank import ranking_of
from nas.solver.facts import Swap, SwapFacts
from nas.space.search_space import Assignment, SearchSpace
from nas.study.study import Study


def timed_assignments(study: Study, top: int | None, *, slots: bool) -> list[Assignment]:
    """Return what is timed of a study: the baseline, its best variants, and each swap alone.

    Args:
        study: The study.
        top: How many of its ranking; None for all.
        slots: Whether each swap of its space is timed alone.
    """
    space = study.settings.space
    ranked = [row.trial.assignment for row in ranking_of(study) if not row.trial.variant.is_baseline]
    found: dict[str, Assignment] = {space.variant(a).id: a for a in (space.baseline(), *ranked[:top])}
    for assignment in space.single_swaps() if slots else ():
        found.setdefault(space.variant(assignment).id, assignment)
    return list(found.values())


def store_latencies(
    study: Study, on: str, imgsz: int, measured: Mapping[str, float], failures: Mapping[str, str]
) -> int:
    """Store latencies in a study, each as the baseline's time, measured once, times the ratio to it.

    Args:
        study: The study.
        on: The machine and engine, in one line.
        imgsz: Image side in pixels.
        measured: Milliseconds by ID of the variant, all measured alternately with the baseline, which is among them.
        failures: Why a variant has none, by ID.

    Returns:
        How many were stored.

    Raises:
        StudyError: It has latencies of another machine, engine or image size, or no finished trial; or the baseline was
            not measured.
        LockError: A search runs.
    """
    with study.locked():
        study = Study.load(study.location, write=True)
        s, space = study.settings, study.settings.space
        base = space.variant(space.baseline()).id
        if study.has_no_results:
            raise StudyError(f"{study.shown} has no finished trial: store latencies after a search")
        if s.latency_on and s.latency_on != on:
            raise StudyError(
                f"{study.shown} has latencies of {s.latency_on}; these are of {on}, and a study keeps to one machine "
                "and engine"
            )
        if imgsz != s.deployed_imgsz:
            raise StudyError(
                f"these latencies are of {imgsz} px; {study.shown} is for {s.deployed_imgsz} px: measure with --imgsz "
                f"{s.deployed_imgsz}"
            )
        if base not in measured:
            why = f": {failures[base]}" if base in failures else ""
            raise StudyError(f"the baseline was not measured, to which all latencies relate{why}")
        known = study.latencies
        trials = [t.latency_ms for t in study.runs() if t.variant.is_baseline and t.latency_ms is not None]
        scale = next(iter([*trials, known.ms.get(base, measured[base])])) / measured[base]
        kept = {name: why for name, why in known.failures.items() if name not in measured}
        new = {name: ms * scale for name, ms in measured.items()}
        study.settings = replace(s, latency_on=on, engine=s.engine if s.latency_on else SEPARATE)
        study.store_settings(Latencies({**known.ms, **new}, {**kept, **failures}))
    return len(measured)


def swap_latencies(space: SearchSpace, ms: Mapping[str, float]) -> dict[Swap, float]:
    """Return the milliseconds that each swap adds by itself, of swaps that were measured so.

    Args:
        space: The space.
        ms: Latencies by ID of the variant.
    """
    base = ms.get(space.variant(space.baseline()).id)
    if base is None:
        return {}
    swaps = [(slot.key, label) for slot in space.active for label in slot.choices[1:]]
    alone = {swap: space.variant(space.baseline() | dict([swap])).id for swap in swaps}
    return {swap: ms[name] - base for swap, name in alone.items() if name in ms}


def with_swap_latencies(facts: SwapFacts, space: SearchSpace, ms: Mapping[str, float]) -> SwapFacts:
    """Return facts about swaps with their latencies, in place of any that are sums fitted to trials."""
    found = swap_latencies(space, ms)
    if not found:
        return facts
    costs = {swap: dict(known) for swap, known in facts.costs.items()}
    for swap, more in found.items():
        costs.setdefault(swap, {})["latency_ms"] = more
    return replace(facts, base={**facts.base, "latency_ms": ms[space.variant(space.baseline()).id]}, costs=costs)


@dataclass(frozen=True)
class SumError:
    """How far sums over swaps are from measured combinations.

    Attributes:
        count: Number of combinations of at least two swaps that were measured, and whose swaps were measured alone.
        median: Median of the error without its sign, as a share of the measured latency.
        largest: The largest.
    """

    count: int
    median: float
    largest: float


def sum_error(space: SearchSpace, ms: Mapping[str, float], measured: Iterable[Assignment]) -> SumError | None:
    """Return how far sums over swaps are from the combinations among some assignments; None without any.

    Args:
        space: The space.
        ms: Latencies by ID of the variant.
        measured: The assignments; those without a latency are skipped.
    """
    added, base = swap_latencies(space, ms), space.baseline()
    errors = []
    for assignment in measured:
        swaps = [(key, label) for key, label in assignment.items() if base.get(key) not in (None, label)]
        name = space.variant(assignment).id
        if len(swaps) > 1 and name in ms and all(swap in added for swap in swaps):
            predicted = ms[space.variant(base).id] + sum(added[swap] for swap in swaps)
            errors.append(abs(predicted / ms[name] - 1))
    return SumError(len(errors), statistics.median(errors), max(errors)) if errors else None
