"""The exact sampler: proposals are within budgets that take turns, and learn from what has been trained."""

from __future__ import annotations

import random

import pytest

from nas.samplers import AUTO
from nas.samplers.propose import propose_next
from nas.solver.facts import SwapFacts, all_swaps
from nas.space.search_space import SearchSpace, Slot
from nas.space.variant import Variant
from nas.study.objective import Goal, read_budgets
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

SPACE = SearchSpace("made", "yolov8", "n", tuple(Slot(f"s{i}", (f"s{i}",), ("keep", "a", "b", "c")) for i in range(6)))
SWAPS = all_swaps(SPACE)
_DRAWN = random.Random(3)
FACTS = SwapFacts(
    {"gflops": 8.0, "params": 3e6},
    {swap: {"gflops": -_DRAWN.uniform(0.1, 0.8), "params": 1e4} for swap in SWAPS},
    {swap: (_DRAWN.random() ** 3, _DRAWN.random() ** 3) for swap in SWAPS},
)
BUDGETS = read_budgets("-10%,-25%", None, None)


def gflops(assignment) -> float:
    return FACTS.cost(assignment, "gflops") or 0.0


def trial(assignment, score: float, number: int, status: str = "done") -> Trial:
    curve = (EpochScore(1, 2.0, 0.1, Validation(score + 0.2, score, 1.0)),) if status == "done" else ()
    swaps = tuple(sorted(assignment.items() - SPACE.baseline().items()))
    return Trial(
        number, Variant("yolov8", "n", swaps), assignment, status, gflops=gflops(assignment), params=3, curve=curve
    )


def truth(assignment) -> float:
    return 0.4 - 0.01 * (FACTS.distance(assignment) or 0.0)


def searched(count: int, score=truth, **how) -> list[Trial]:
    trials = [trial(SPACE.baseline(), 0.4, 0)]
    how = {"budgets": BUDGETS, "facts": FACTS, **how}
    while len(trials) < count:
        found = propose_next(SPACE, trials, seed=0, floor=1.0, sampler=AUTO if how["budgets"] else "exact", **how)
        assert found is not None
        trials.append(trial(found, score(found), len(trials)))
    return trials


def test_budgets_take_turns_and_are_met() -> None:
    found = searched(7)
    for i, t in enumerate(found[1:]):
        assert t.gflops <= 8.0 * (0.75 if i % 2 == 0 else 0.9)
    assert len({t.variant for t in found}) == 7


def test_the_first_proposal_is_the_best_by_the_scores() -> None:
    first = searched(2)[1].assignment
    allowed = [a for a in SPACE.assignments() if gflops(a) <= 6.0]
    assert FACTS.distance(first) == pytest.approx(min(FACTS.distance(a) for a in allowed))


def test_it_learns_what_the_scores_do_not_show() -> None:
    """A swap that the scores praise is bad when trained: later solutions avoid it."""
    liked = max(SWAPS, key=lambda swap: -FACTS.costs[swap]["gflops"] / (0.05 + sum(FACTS.parts[swap])))

    def score(assignment) -> float:
        return truth(assignment) - 0.1 * (assignment[liked[0]] == liked[1])

    found = searched(24, score, budgets=BUDGETS[1:])
    assert found[1].assignment[liked[0]] == liked[1]
    assert sum(t.assignment[liked[0]] == liked[1] for t in found[12:]) < 6
    best = max(score(a) for a in SPACE.assignments() if gflops(a) <= 6.0)
    assert max(t.map for t in found[1:]) >= best - 0.005


def test_costs_are_counted() -> None:
    def count(assignment):
        return {"gflops": gflops(assignment) + 0.2 * sum(label != "keep" for label in assignment.values())}

    trials = [trial(SPACE.baseline(), 0.4, 0)]
    found = propose_next(SPACE, trials, seed=0, floor=1.0, budgets=BUDGETS[1:], facts=FACTS, count=count)
    assert found is not None
    assert count(found)["gflops"] <= 6.0


def test_workers_are_sent_elsewhere() -> None:
    first = searched(2, budgets=BUDGETS[1:])[1].assignment
    running = trial(first, 0.0, 1, "running")
    trials = [trial(SPACE.baseline(), 0.4, 0), running]
    second = propose_next(SPACE, trials, seed=0, floor=1.0, budgets=BUDGETS[1:], facts=FACTS)
    assert second is not None
    assert sum(second[key] != first[key] for key in first) >= 2


def test_without_budgets_it_goes_along_the_front() -> None:
    found = searched(9, budgets=(), goal=Goal("map,gflops"))
    shares = sorted(t.gflops / 8.0 for t in found[1:])
    assert shares[0] <= 0.6
    assert shares[-1] > 0.85


def test_in_a_table_only_its_variants_are_proposed() -> None:
    among = [a for i, a in enumerate(SPACE.assignments()) if not i % 97]
    found = searched(5, among=among)
    assert all(t.assignment in among for t in found[1:])
    assert all(t.gflops <= 0.9 * 8.0 for t in found[1:])


def test_without_facts_single_swaps_come_first() -> None:
    trials = [trial(SPACE.baseline(), 0.4, 0)]
    assert propose_next(SPACE, trials, seed=0, floor=1.0, budgets=BUDGETS) == SPACE.single_swaps()[0]
    trials += [trial(a, truth(a), i) for i, a in enumerate(SPACE.single_swaps(), 1)]
    found = propose_next(SPACE, trials, seed=0, floor=1.0, budgets=BUDGETS[1:])
    assert found is not None
    assert gflops(found) <= 6.0
