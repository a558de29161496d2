"""What is tried next: the order, what predictions and the sampler have to say, and that nothing else decides."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

import nas.propose
from nas.predict import key_of
from nas.propose import EXPLORATION, promising, propose
from nas.scores import EpochScore, Validation
from nas.space import SearchSpace
from nas.space_file import load_space, read_space
from nas.trial import Trial

UP, DOWN, C2F = "neck.up_*", "neck.down_*", "neck.c2f_*"
EFFECT = {
    (UP, "CARAFE"): 0.02, (UP, "DySample"): 0.005, (DOWN, "SPConv"): -0.03, (DOWN, "DynamicConv"): 0.015,
    (C2F, "C2f_SPConv"): -0.02, (C2F, "C2f_DCNv4"): 0.03,
}  # fmt: skip
SPACE = load_space("quick")
SINGLES = 7


def parts(assignment: dict[str, str]) -> float:
    return 0.4 + sum(EFFECT.get(swap, 0.0) for swap in assignment.items())


def trial(
    assignment: dict[str, str], score: float = 0.4, gflops: float = 8.0, status: str = "done", space=SPACE, number=0
) -> Trial:
    curve = (EpochScore(1, 2.0, 0.1, Validation(score + 0.2, score, 1.0)),) if status == "done" else ()
    return Trial(number, space.variant(assignment), assignment, status, gflops=gflops, curve=curve)


def tried(count: int, space: SearchSpace = SPACE, score: Callable = parts, seed: int = 0, **how) -> list[Trial]:
    """Return what a search of so many trials has tried."""
    trials: list[Trial] = []
    while len(trials) < count:
        assignment = propose(space, trials, seed=seed, floor=how.get("floor", 1.0), error=how.get("error"))
        if assignment is None:
            break
        trials.append(trial(assignment, score(assignment), space=space, number=len(trials)))
    return trials


def combinations(space: SearchSpace = SPACE) -> list[dict[str, str]]:
    return [a for a in space.assignments() if sum(v != "keep" for v in a.values()) > 1]


def test_the_baseline_then_every_swap_alone():
    assert [t.assignment for t in tried(SINGLES)] == [SPACE.baseline(), *SPACE.single_swaps()]


def test_then_the_best_by_their_parts():
    trials = tried(SINGLES + 3)
    by_parts = sorted(combinations(), key=lambda a: -parts(a))
    assert [t.assignment for t in trials[SINGLES:]] == by_parts[:3]


def test_what_it_costs_counts():
    """The best swap is no longer worth it when it takes half as many GFLOPs again."""

    def gflops(a):
        return 8.0 + 4.0 * (a[C2F] == "C2f_DCNv4")

    singles = [trial(a, parts(a), gflops(a)) for a in (SPACE.baseline(), *SPACE.single_swaps())]
    best = max(combinations(), key=lambda a: parts(a) / gflops(a))
    assert propose(SPACE, singles, seed=0, floor=1.0) == best == {UP: "CARAFE", DOWN: "DynamicConv", C2F: "keep"}


def test_what_falls_below_the_floor_comes_last():
    """However few GFLOPs it takes."""

    def cheap(a):
        return 8.0 - 5.0 * (a[DOWN] == "SPConv")

    def score(a):
        return parts(a) - 0.1 * (a[DOWN] == "SPConv")

    singles = [trial(a, score(a), cheap(a)) for a in (SPACE.baseline(), *SPACE.single_swaps())]
    for floor, swapped in ((0.001, "DynamicConv"), (1.0, "SPConv")):
        assert propose(SPACE, singles, seed=0, floor=floor)[DOWN] == swapped


def test_one_in_four_combinations_is_the_samplers(monkeypatch):
    turns = []
    monkeypatch.setattr(nas.propose, "promising", lambda *args, **how: turns.append(len(args[1])) and None)
    tried(SINGLES + 12)
    assert EXPLORATION == 4
    assert [n - SINGLES for n in turns] == [0, 1, 2, 4, 5, 6, 8, 9, 10]


@pytest.mark.parametrize(("floor", "good"), [(1.0, "DynamicConv"), (0.001, "keep")])
def test_the_sampler_follows_the_ranking(monkeypatch, floor, good):
    """Left to itself it tries what ranks high more often than chance would, and not what is merely small."""
    monkeypatch.setattr(nas.propose, "promising", lambda *_args, **_how: None)
    space = load_space("seeds")
    rng = random.Random(0)
    drawn = [{slot.key: rng.choice(slot.choices) for slot in space.active} for _ in range(60)]
    small = ("neck.down_n4", "DynamicConv")
    trials = [
        trial(a, 0.3 if small in a.items() else 0.4, 2.0 if small in a.items() else 8.0, space=space)
        for a in (space.baseline(), *drawn)
    ]
    monkeypatch.setattr(SearchSpace, "single_swaps", lambda _: [])
    found = [propose(space, trials, seed=seed, floor=floor)["neck.down_n4"] for seed in range(30)]
    assert (found.count("DynamicConv") > 15) == (good == "DynamicConv")  # chance is 7.5


def test_the_samplers_seed_decides_what_it_draws(monkeypatch):
    monkeypatch.setattr(nas.propose, "promising", lambda *_args, **_how: None)
    trials = [trial(a) for a in (SPACE.baseline(), *SPACE.single_swaps())]
    drawn = [[propose(SPACE, trials, seed=seed, floor=1.0) for seed in range(6)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len({key_of(a) for a in drawn[0]}) > 1


def test_what_was_cut_short_changes_nothing():
    trials = tried(SINGLES + 9)
    for count in range(SINGLES, SINGLES + 9):
        cut = trial(trials[count].assignment, status="interrupted")
        torn = [cut, *itertools.chain.from_iterable((t, cut) for t in trials[:count])]
        assert propose(SPACE, torn, seed=0, floor=1.0) == trials[count].assignment


def test_only_what_counts_is_not_tried_again():
    first, second, third = SPACE.single_swaps()[:3]
    base = trial(SPACE.baseline())
    for status in ("done", "failed", "rejected", "running"):
        assert propose(SPACE, [base, trial(first, status=status)], seed=0, floor=1.0) == second
    assert propose(SPACE, [base, trial(first, status="interrupted")], seed=0, floor=1.0) == first
    assert propose(SPACE, [trial(SPACE.baseline(), status="failed")], seed=0, floor=1.0) == SPACE.baseline()
    assert propose(SPACE, [base, trial(second), trial(first, status="failed")], seed=0, floor=1.0) == third


@pytest.mark.parametrize("status", ["failed", "rejected"])
def test_it_goes_on_where_nothing_can_be_predicted(status):
    trials = [trial(SPACE.baseline()), *(trial(a, status=status) for a in SPACE.single_swaps())]
    assert promising(SPACE, trials, set(), floor=1.0, error=None, seed=0) is None
    assert propose(SPACE, trials, seed=0, floor=1.0) in combinations()


def test_scores_that_are_all_equal_stop_nothing():
    found = tried(100, score=lambda _: 0.4)
    assert len(found) == SPACE.size
    found = tried(100, score=lambda _: 0.0)
    assert len(found) == SPACE.size


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


@pytest.mark.parametrize("predicted", [True, False])
def test_every_allowed_variant_once_and_no_other(predicted, monkeypatch):
    """The forbidden ones would be the best."""
    if not predicted:
        monkeypatch.setattr(nas.propose, "promising", lambda *_args, **_how: None)
    space = read_space(FORBIDDING, "f.yaml", "f")
    found = tried(100, space, lambda a: 0.4 + 0.02 * sum(v != "keep" for v in a.values()))
    allowed = [key_of(a) for a in space.assignments()]
    assert len(allowed) < space.size
    assert sorted(key_of(t.assignment) for t in found) == sorted(allowed)
    assert propose(space, found, seed=0, floor=1.0) is None


def test_a_large_space_is_gone_through_without_a_repeat():
    space = load_space("seeds")
    assert space.size > 20_000
    count = 1 + len(space.single_swaps()) + 10
    found = tried(count, space, lambda a: 0.4 + 0.001 * sum(len(v) for v in a.values()))
    assert len({t.variant.id for t in found}) == count


def test_the_error_of_a_calibration_is_believed(monkeypatch):
    heard = []

    class Spy(nas.propose.Additive):
        @classmethod
        def fit(cls, observations, slots, error=None):
            heard.append(error)
            return super().fit(observations, slots, error)

    monkeypatch.setattr(nas.propose, "Additive", Spy)
    tried(SINGLES + 1, error=0.004)
    tried(SINGLES + 1)
    assert heard == [0.004, None]
