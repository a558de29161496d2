"""What is tried next: the order, what every sampler keeps to, and that nothing else decides."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.samplers import AUTO, SAMPLERS, current_name
from nas.samplers.encoding import encode
from nas.samplers.history import History
from nas.samplers.propose import propose_next
from nas.space.search_space import SearchSpace, key_of
from nas.space.space_file import load_space, read_space
from nas.study import OBJECTIVES
from nas.study.objective import Goal
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

UP, DOWN, C2F = "neck.up_*", "neck.down_*", "neck.c2f_*"
EFFECT = {
    (UP, "CARAFE"): 0.02, (UP, "DySample"): 0.005, (DOWN, "SPConv"): -0.03, (DOWN, "DynamicConv"): 0.015,
    (C2F, "C2f_SPConv"): -0.02, (C2F, "C2f_DCNv4"): 0.03,
}  # fmt: skip
SPACE = load_space("quick")
SINGLES = 7
FORBIDDING = """
slots:
  neck.up_p4: [CARAFE, DySample]
  neck.up_p3: [CARAFE, DySample]
  neck.c2f_p3: [C2f_SPConv]
forbid:
  - {neck.up_p4: CARAFE, neck.up_p3: CARAFE}
  - {"neck.up_*": DySample, neck.c2f_p3: C2f_SPConv}
  - {neck.up_p3: DySample}
"""
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


def parts(assignment: dict[str, str]) -> float:
    return 0.4 + sum(EFFECT.get(swap, 0.0) for swap in assignment.items())


def trial(
    assignment: dict[str, str], score: float = 0.4, gflops: float = 8.0, status: str = "done", space=SPACE, number=0
) -> Trial:
    curve = (EpochScore(1, 2.0, 0.1, Validation(score + 0.2, score, 1.0)),) if status == "done" else ()
    variant = space.variant(assignment)
    return Trial(number, variant, assignment, status, gflops=gflops, latency_ms=gflops, curve=curve)


def tried(count: int, space: SearchSpace = SPACE, score: Callable = parts, seed: int = 0, **how) -> list[Trial]:
    """Return what a search of so many trials has tried."""
    trials: list[Trial] = []
    gflops = how.pop("gflops", lambda _: 8.0)
    while len(trials) < count:
        assignment = propose_next(space, trials, seed=seed, **{"floor": 1.0, **how})
        if assignment is None:
            break
        trials.append(trial(assignment, score(assignment), gflops(assignment), space=space, number=len(trials)))
    return trials


def combinations(space: SearchSpace = SPACE) -> list[dict[str, str]]:
    return [a for a in space.assignments() if sum(v != "keep" for v in a.values()) > 1]


@every_sampler
def test_it_is_documented(sampler):
    page = (Path(__file__).parents[3] / "docs" / "samplers.md").read_text(encoding="utf-8")
    assert f"\n| `{sampler}` | " in page


@pytest.mark.parametrize("removed", ["evolution", "nsga2"])
def test_a_study_of_a_removed_sampler_resumes_with_the_default(removed):
    assert current_name(removed) == AUTO
    trials = tried(SINGLES + 2)
    assert propose_next(SPACE, trials, seed=0, floor=1.0, sampler=removed) == propose_next(
        SPACE, trials, seed=0, floor=1.0
    )
    assert [current_name(name) for name in (AUTO, *SAMPLERS)] == [AUTO, *SAMPLERS]


@every_sampler
def test_the_baseline_is_first(sampler):
    singles = [SPACE.baseline(), *SPACE.single_swaps()]
    first = [t.assignment for t in tried(SINGLES, sampler=sampler)]
    assert first[0] == SPACE.baseline()
    assert (first == singles) == SAMPLERS[sampler].singles_first


@every_sampler
def test_every_allowed_variant_once_and_no_other(sampler):
    """The forbidden ones would be the best."""
    space = read_space(FORBIDDING, "f.yaml", "f")
    found = tried(100, space, lambda a: 0.4 + 0.02 * sum(v != "keep" for v in a.values()), sampler=sampler)
    allowed = [key_of(a) for a in space.assignments()]
    assert len(allowed) < space.size
    assert sorted(key_of(t.assignment) for t in found) == sorted(allowed)
    assert propose_next(space, found, seed=0, floor=1.0, sampler=sampler) is None


@every_sampler
def test_a_whole_small_space_holds_the_optimum(sampler):
    found = tried(SPACE.size + 1, sampler=sampler)
    assert len(found) == SPACE.size
    assert max(found, key=lambda t: t.map).assignment == {UP: "CARAFE", DOWN: "DynamicConv", C2F: "C2f_DCNv4"}


@every_sampler
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_history_gives_the_same_proposal(sampler, objective):
    """Whatever was cut short meanwhile."""
    how = {"sampler": sampler, "goal": Goal(objective), "floor": 0.05}
    trials = tried(24, gflops=lambda a: 8.0 - (a[DOWN] == "SPConv"), seed=3, **how)
    for count in (1, SINGLES, 23):
        cut = trial(trials[count].assignment, status="interrupted")
        torn = [cut, *itertools.chain.from_iterable((t, cut) for t in trials[:count])]
        assert propose_next(SPACE, torn, seed=3, **how) == trials[count].assignment


@every_sampler
def test_only_what_counts_is_not_tried_again(sampler):
    base, first = trial(SPACE.baseline()), tried(2, sampler=sampler)[1].assignment
    for status in ("done", "failed", "rejected", "running"):
        assert propose_next(SPACE, [base, trial(first, status=status)], seed=0, floor=1.0, sampler=sampler) != first
    cut = trial(first, status="interrupted")
    assert propose_next(SPACE, [base, cut], seed=0, floor=1.0, sampler=sampler) == first
    failed = trial(SPACE.baseline(), status="failed")
    assert propose_next(SPACE, [failed], seed=0, floor=1.0, sampler=sampler) == SPACE.baseline()


@every_sampler
@pytest.mark.parametrize("status", ["failed", "rejected"])
def test_it_goes_on_where_nothing_can_be_predicted(sampler, status):
    trials = [trial(SPACE.baseline()), *(trial(a, status=status) for a in SPACE.single_swaps())]
    assert propose_next(SPACE, trials, seed=0, floor=1.0, sampler=sampler) in combinations()


@every_sampler
def test_scores_that_are_all_equal_stop_nothing(sampler):
    for score in (0.4, 0.0):
        assert len(tried(100, score=lambda _, s=score: s, sampler=sampler)) == SPACE.size


@every_sampler
def test_a_large_space_is_gone_through_without_a_repeat(sampler):
    space = load_space("seeds")
    assert space.size > 20_000
    count = 1 + len(space.single_swaps()) + 10
    found = tried(count, space, lambda a: 0.4 + 0.001 * sum(len(v) for v in a.values()), sampler=sampler)
    assert len({t.variant.id for t in found}) == count


@every_sampler
def test_the_seed_decides_what_is_drawn(sampler):
    space = load_space("seeds")
    trials = tried(1 + len(space.single_swaps()) + 2, space, sampler=sampler)
    drawn = {key_of(propose_next(space, trials, seed=seed, floor=1.0, sampler=sampler)) for seed in range(4)}
    assert (len(drawn) > 1) == (sampler not in ("brute", "gp", "exact"))  # these draw nothing, or only what to look at


def swaps(assignment: dict[str, str]) -> int:
    return sum(choice != "keep" for choice in assignment.values())


def test_near_is_one_slot_away_while_there_is_a_new_one():
    space = load_space("seeds")
    base = trial(space.baseline(), space=space)
    (code,) = encode(space, [space.baseline()])
    for seed in range(20):
        near = History(space, [base]).new_near(code, random.Random(seed))
        assert near is not None
        assert swaps(near) == 1
    known = [base, *(trial(a, space=space) for a in space.single_swaps())]
    further = History(space, known).new_near(code, random.Random(0))
    assert further is not None
    assert swaps(further) == 2
    everything = [trial(a) for a in SPACE.assignments()]
    assert History(SPACE, everything).new_near(encode(SPACE, [SPACE.baseline()])[0], random.Random(0)) is None
