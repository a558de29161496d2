"""What the default sampler promises itself of a variant: the best first, for every goal, within the limits."""

from __future__ import annotations

import pytest

from nas.samplers.expected_improvement import ask
from nas.samplers.history import History
from nas.samplers.propose import propose_next
from nas.space.search_space import SearchSpace
from nas.space.space_file import load_space
from nas.study.objective import Goal
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

UP, DOWN, C2F = "neck.up_*", "neck.down_*", "neck.c2f_*"
EFFECT = {
    (UP, "CARAFE"): 0.02, (UP, "DySample"): 0.005, (DOWN, "SPConv"): -0.03, (DOWN, "DynamicConv"): 0.015,
    (C2F, "C2f_SPConv"): -0.02, (C2F, "C2f_DCNv4"): 0.03,
}  # fmt: skip
SPACE = load_space("quick")


def parts(assignment: dict[str, str]) -> float:
    return 0.4 + sum(EFFECT.get(swap, 0.0) for swap in assignment.items())


def trial(assignment, score=0.4, gflops=8.0, status="done", space=SPACE, number=0, ms=None) -> Trial:
    curve = (EpochScore(1, 2.0, 0.1, Validation(score, score, 1.0)),) if status == "done" else ()
    variant = space.variant(assignment)
    return Trial(number, variant, assignment, status, gflops=gflops, latency_ms=ms, params=10, curve=curve)


def singles(score=parts, gflops=lambda _: 8.0, space: SearchSpace = SPACE) -> list[Trial]:
    every = (space.baseline(), *space.single_swaps())
    return [trial(a, score(a), gflops(a), number=i, ms=gflops(a)) for i, a in enumerate(every)]


def test_after_the_single_swaps_the_best_by_their_parts():
    best = propose_next(SPACE, singles(), seed=0, floor=1.0, goal=Goal("map"))
    assert best == max(SPACE.assignments(), key=parts)


def proposals(count: int, score=parts, gflops=lambda _: 8.0, **how) -> list[dict[str, str]]:
    """Return what is tried after the baseline and the single swaps."""
    trials = singles(score, gflops)
    while len(trials) < 7 + count:
        a = propose_next(SPACE, trials, seed=0, **{"floor": 1.0, **how})
        trials.append(trial(a, score(a), gflops(a), number=len(trials), ms=gflops(a)))
    return [t.assignment for t in trials[7:]]


def test_what_it_costs_counts():
    """The best swap is no longer worth it when it takes half as many GFLOPs again."""

    def gflops(a):
        return 8.0 + 4.0 * (a[C2F] == "C2f_DCNv4")

    assert {UP: "CARAFE", DOWN: "DynamicConv", C2F: "keep"} in proposals(2, gflops=gflops)
    assert proposals(1, gflops=gflops, goal=Goal("map"))[0][C2F] == "C2f_DCNv4"


@pytest.mark.parametrize("how", [{"floor": 0.001}, {"goal": Goal(min_map=0.39)}])
def test_what_falls_below_the_floor_is_left_when_that_is_known(how):
    """However few GFLOPs it takes."""

    def cheap(a):
        return 8.0 - 5.0 * (a[DOWN] == "SPConv")

    def score(a):
        return parts(a) - 0.1 * (a[DOWN] == "SPConv")

    assert sum(a[DOWN] == "SPConv" for a in proposals(7, score, cheap)) == 7
    assert sum(a[DOWN] == "SPConv" for a in proposals(7, score, cheap, **how)) <= 2


@pytest.mark.parametrize("objective", ["map,gflops", "map,latency"])
def test_both_ends_of_a_front_are_found(objective):
    """Of mAP and cost, the cheap and the good swaps are each combined with their like."""

    def cost(a):
        return 8.0 - 2.0 * (a[DOWN] == "SPConv") - 2.0 * (a[C2F] == "C2f_SPConv")

    found = proposals(12, gflops=cost, goal=Goal(objective))
    assert {UP: "CARAFE", DOWN: "SPConv", C2F: "C2f_SPConv"} in found
    assert {UP: "CARAFE", DOWN: "DynamicConv", C2F: "C2f_DCNv4"} in found


def test_what_is_under_way_is_not_asked_beside():
    """Two workers that ask one after the other are sent apart, and by what is expected of the first."""
    trials = singles()
    first = propose_next(SPACE, trials, seed=0, floor=1.0)
    running = trial(first, status="running", number=len(trials))
    second = propose_next(SPACE, [*trials, running], seed=0, floor=1.0)
    assert second not in (None, first)


def test_a_misleading_sum_of_parts_is_unlearnt():
    """The two best swaps spoil each other."""

    def score(a):
        return parts(a) - 0.1 * (a[UP] == "CARAFE" and a[C2F] == "C2f_DCNv4")

    assert max(SPACE.assignments(), key=score) in proposals(10, score)


def test_many_trials_are_thinned_out_to_the_best_and_the_latest():
    space = load_space("seeds")
    labels = [a for a, _ in zip(space.assignments(), range(400), strict=False)]
    every = [space.baseline(), *labels[1:]]
    trials = [trial(a, 0.3 + i / 1e4, space=space, number=i) for i, a in enumerate(every)]
    assert ask(History(space, trials)) is not None


def test_what_is_expected_to_be_over_a_limit_comes_last():
    space = SPACE.with_limits(max_gflops=9.0)

    def gflops(a):
        return 8.0 + 0.9 * (a[UP] == "CARAFE") + 0.9 * (a[C2F] == "C2f_DCNv4")

    trials = singles(gflops=gflops)
    while (a := propose_next(space, trials, seed=0, floor=1.0, goal=Goal("map"))) and gflops(a) <= 9.0:
        trials.append(trial(a, parts(a), gflops(a), number=len(trials)))
    within = [b for b in SPACE.assignments() if gflops(b) <= 9.0]
    assert len(trials) == len(within)
