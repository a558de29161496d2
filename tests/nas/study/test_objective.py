"""What is maximised, in which order, and which points no other one beats."""

import itertools

import numpy as np
import pytest

from nas.space.variant import Variant
from nas.study import OBJECTIVES
from nas.study.objective import Goal, fronts_of, read_budgets
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation


def trial(number: int, score: float, gflops: float, ms: float | None = None) -> Trial:
    curve = (EpochScore(1, 2.0, 0.1, Validation(score, score, 1.0)),)
    variant = Variant("yolov8", "n", (("neck.up_p4", "CARAFE"),) if number else ())
    return Trial(number, variant, {}, "done", gflops=gflops, latency_ms=ms, curve=curve)


BASE = trial(0, 0.40, 8.0, 5.0)
TRIALS = [BASE, trial(1, 0.41, 9.0, 4.0), trial(2, 0.39, 7.0, 6.0), trial(3, 0.30, 0.1, 1.0), trial(4, 0.2, 0.1, 1.0)]


def test_one_objective_is_the_order_of_the_ranking():
    for objective in ("map", "map_per_gflop"):
        goal = Goal(objective)
        least = goal.least(BASE, 0.02)
        values = goal.values(TRIALS, least)[:, 0]
        by_value = [TRIALS[i].number for i in np.argsort(-values, kind="stable")]
        below = {t.number for t in TRIALS if t.map < least}
        assert by_value == [t.number for t in goal.order(TRIALS, lambda t, below=below: t.number in below)]
        assert (values[3:] < 0).all()
        assert (values[:3] > 0).all()


@pytest.mark.parametrize("objective", ["map,gflops", "map,latency"])
def test_what_is_below_the_floor_is_behind_all_others(objective):
    goal = Goal(objective)
    values = goal.values(TRIALS, goal.least(BASE, 0.02))
    for good, bad in itertools.product(values[:3], values[3:]):
        assert (good > bad).all()


def test_the_larger_of_floor_and_least_map_counts():
    assert Goal(min_map=0.3).least(BASE, 0.02) == pytest.approx(0.38)
    assert Goal(min_map=0.39).least(BASE, 0.02) == 0.39
    assert Goal().least(None, 0.02) == 0.0


def test_the_cost_is_what_the_objective_names():
    assert Goal("map,latency").cost(BASE) == 5.0
    assert {Goal(o).cost(BASE) for o in OBJECTIVES if o != "map,latency"} == {8.0}


def test_no_trials_have_no_order():
    for objective in OBJECTIVES:
        assert Goal(objective).order([], lambda t: False) == []


@pytest.mark.parametrize("dims", [1, 2])
def test_fronts_by_their_definition(dims):
    rng = np.random.default_rng(0)
    for count in range(1, 40):
        points = rng.integers(0, 6, (count, dims)).astype(float)
        beaten = (points[:, None] <= points[None]).all(-1) & (points[:, None] < points[None]).any(-1)
        left, number, expected = np.ones(count, bool), 0, np.zeros(count)
        while left.any():
            front = left & ~(beaten & left[None]).any(1)
            expected[front] = number
            left, number = left & ~front, number + 1
        assert (fronts_of(points) == expected).all()


@pytest.mark.parametrize(
    ("budgets", "order"),
    [
        (("-10%", None, None), [6, 2, 5, 0, 1, 3, 4]),
        (("-10%,-20%", None, None), [6, 5, 2, 0, 1, 3, 4]),  # by turns
        (("7.05", None, None), [2, 5, 6, 0, 1, 3, 4]),
        (("-99%", None, None), [5, 2, 6, 0, 1, 3, 4]),  # only what is below the floor meets it
        ((None, None, "-5%"), [1, 5, 2, 6, 0, 3, 4]),  # 5 and 6 were not timed
    ],
)
def test_what_meets_a_budget_comes_first(budgets, order):
    trials = [*TRIALS, trial(5, 0.385, 6.0), trial(6, 0.395, 7.1)]
    goal = Goal(budgets=read_budgets(*budgets))
    assert [t.number for t in goal.order(trials, lambda t: t.number in (3, 4))] == order
    without = [t.number for t in goal.order(trials[1:], lambda t: t.number in (3, 4))]
    assert without == [5, 2, 6, 1, 3, 4]  # there is nothing to which budgets relate
