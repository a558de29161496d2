"""The race, on finished runs that are made up: who is in it, who leaves, what it costs, and what it gets wrong."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from scipy import stats

from nas.ranking.race import Rules, contenders, next_round, surviving_contenders
from nas.ranking.rank import rank_trials
from nas.search.schedule import confirmation_progress, confirmations, further_seeds
from nas.space.variant import Variant
from nas.study.budget import Confirm
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

NAMES = ("baseline", "a", "b", "c", "d", "e", "f", "g")
VARIANTS = {n: Variant("yolov8", "n", () if n == "baseline" else ((f"slot.{n}", "CARAFE"),)) for n in NAMES}
NAME = {v: n for n, v in VARIANTS.items()}
RULES = Rules(Confirm(3, 3), first=0, screened=1, floor=0.02)


def run(name: str, seed: int, score: float, status: str = "done", number: int = 0, gflops: float = 8.0) -> Trial:
    curve = (EpochScore(1, 2.0, 0.1, Validation(score + 0.2, score, 1.0)),)
    variant = VARIANTS[name]
    return Trial(number, variant, dict(variant.swaps), status, seed=seed, gflops=gflops, curve=curve)


def screened(**scores: float) -> list[Trial]:
    return [run(name, 0, score, number=i) for i, (name, score) in enumerate(scores.items())]


def race(trials: list[Trial], score, rules: Rules = RULES) -> list[Trial]:
    """Run a race to its end; `score` says what a variant reaches under a seed."""
    trials = list(trials)
    while job := next(confirmations(trials, rules), None):
        name = next(n for n, v in VARIANTS.items() if dict(v.swaps) == job.assignment)
        trials.append(run(name, job.seed, score(name, job.seed), number=len(trials)))
    settled = [t.key for t in trials if t.spent]
    assert len(set(settled)) == len(settled)
    return trials


def seeds_of(trials: list[Trial]) -> dict[str, int]:
    return {
        name: sum(t.variant == v for t in trials) for name, v in VARIANTS.items() if v in {t.variant for t in trials}
    }


def test_contenders_are_the_first_of_the_screening():
    trials = screened(baseline=0.4, a=0.41, b=0.37, c=0.42, d=0.405, e=0.43)
    assert [NAME[v] for v in contenders(trials, RULES)] == ["e", "c", "a"]
    later = [*trials, run("e", 1, 0.1), run("baseline", 1, 0.4)]
    assert contenders(later, RULES) == contenders(trials, RULES)  # what further seeds say moves nobody in or out
    assert [NAME[v] for v in contenders(trials, replace(RULES, confirm=Confirm(9, 3)))] == ["e", "c", "a", "d"]


def test_a_seed_that_is_left_out_is_replaced_by_the_next():
    rules = replace(RULES, first=4, screened=2, excluded_seeds=frozenset({5, 7}))
    assert rules.seeds(4) == (4, 6, 8, 9)
    trials = [run(n, seed, s) for seed in (4, 6) for n, s in (("baseline", 0.4), ("a", 0.41), ("b", 0.42))]
    assert [NAME[v] for v in contenders([*trials, run("a", 5, 0.9)], rules)] == ["b", "a"]
    assert {job.seed for job in further_seeds(trials[:3], rules)} == {6}
    made = race(trials, lambda name, seed: 0.4 + seed / 1000, rules)
    assert {t.seed for t in made} == {4, 6, 8}
    assert confirmation_progress(made, rules) == (3, 3)


def test_a_round_is_one_seed_for_all_the_baseline_first():
    trials = screened(baseline=0.4, a=0.41, b=0.39, c=0.42, d=0.405)
    first = next_round(trials, RULES)
    assert (first.seed, [NAME[v] for v in first.missing]) == (1, ["baseline", "c", "a", "d"])
    trials += [run("baseline", 1, 0.4), run("a", 1, 0.41)]
    assert [NAME[v] for v in next_round(trials, RULES).missing] == ["c", "d"]
    assert [job.seed for job in confirmations([*trials, run("c", 1, 0, "running")], RULES)] == [1]


@pytest.mark.parametrize(
    "trials",
    [[], screened(baseline=0.4), screened(a=0.4, b=0.5), screened(baseline=0.4, a=0.3)],
    ids=["nothing", "baseline alone", "no baseline", "all below the floor"],
)
def test_nothing_to_race(trials):
    assert next_round(trials, RULES) is None


def test_contenders_that_overlap_all_get_their_seeds():
    rng = random.Random(0)
    trials = race(screened(baseline=0.4, a=0.41, b=0.41, c=0.41, d=0.40), lambda n, s: 0.41 + rng.gauss(0, 0.01))
    assert seeds_of(trials) == {"baseline": 3, "a": 3, "b": 3, "c": 3, "d": 1}
    assert confirmation_progress(trials, RULES) == (8, 8)


def test_what_is_clearly_behind_leaves_its_share_to_the_others():
    """Their seeds cost the budget of three contenders, and no more."""
    level = {"baseline": 0.4, "a": 0.45, "b": 0.45, "c": 0.40}
    rng = random.Random(1)
    five = replace(RULES, confirm=Confirm(3, 5))
    trials = race(screened(baseline=0.4, a=0.45, b=0.4501, c=0.40), lambda n, s: level[n] + rng.gauss(0, 0.001), five)
    seeds = seeds_of(trials)
    assert seeds["c"] < 5 < seeds["a"] == seeds["b"] == seeds["baseline"]
    assert seeds["a"] + seeds["b"] + seeds["c"] - 3 <= 3 * 4


def test_the_race_is_over_when_the_order_and_the_first_ones_verdict_are_clear():
    level = {"baseline": 0.4, "a": 0.45, "b": 0.43, "c": 0.41}
    rng = random.Random(2)
    rules = replace(RULES, confirm=Confirm(3, 9))
    trials = race(
        screened(baseline=0.4, a=0.45, b=0.43, c=0.41), lambda n, s: level[n] + rng.gauss(0, 0.0003) + 0.1 * s, rules
    )
    assert max(seeds_of(trials).values()) < 9
    assert next(r for r in rank_trials(trials, 0.02) if NAME[r.trial.variant] == "a").verdict == "better"


def test_what_falls_below_the_floor_leaves():
    level = {"baseline": 0.4, "a": 0.30, "b": 0.41, "c": 0.41}
    rng = random.Random(3)
    trials = race(screened(baseline=0.4, a=0.42, b=0.41, c=0.41), lambda n, s: level[n] + rng.gauss(0, 0.001),
                  replace(RULES, confirm=Confirm(3, 6), screened=1))  # fmt: skip
    assert seeds_of(trials)["b"] == 6
    trials = race(
        [*screened(baseline=0.4, a=0.385, b=0.41, c=0.41), run("baseline", 1, 0.4), run("a", 1, 0.3851)],
        lambda n, s: {**level, "a": 0.37}[n] + rng.gauss(0, 0.0002),
        replace(RULES, confirm=Confirm(3, 6), floor=0.01),
    )
    assert seeds_of(trials)["a"] < 6


def test_failed_runs_are_not_repeated_and_do_not_hold_up_the_race():
    trials = screened(baseline=0.4, a=0.41, b=0.41, c=0.41)
    trials += [run("a", 1, 0, "failed", 10), run("b", 1, 0, "interrupted", 11)]
    found = race(trials, lambda n, s: 0.4 + 0.01 * s + random.Random(f"{n}{s}").gauss(0, 0.01))
    keys = [(NAME[t.variant], t.seed) for t in found if t.status == "done"]
    assert ("a", 1) not in keys
    assert {("a", 2), ("b", 1), ("b", 2)} <= set(keys)


def test_further_seeds_of_the_screening():
    rules = replace(RULES, screened=3, first=5)
    trials = [run("baseline", 5, 0.4), run("a", 5, 0.4), run("a", 6, 0, "failed"), run("b", 5, 0, "failed")]
    assert [(dict(job.assignment), job.seed) for job in further_seeds(trials, rules)] == [({}, 6), ({}, 7)]
    trials += [run("baseline", 6, 0.4), run("baseline", 7, 0, "running"), run("c", 5, 0, "rejected")]
    assert list(further_seeds(trials, rules)) == []


@pytest.mark.parametrize("variants", [3, 7])
def test_a_whole_search_with_its_race_is_wrong_in_at_most_5_of_100(variants):
    """Screening, choosing the best looking, and a race that looks at the scores as they come: nothing differs."""
    draws, wrong = 250, 0
    for draw in range(draws):
        rng = random.Random(draw)
        effect = [rng.gauss(0, 1) for _ in range(9)]

        def score(name: str, seed: int, rng=rng, effect=effect) -> float:
            return 0.4 + 0.01 * effect[seed] + rng.gauss(0, 0.003 if name in "bd" else 0.001)

        trials = race([run(n, 0, score(n, 0), number=i) for i, n in enumerate(NAMES[: variants + 1])], score)
        wrong += any(r.verdict in ("better", "worse") for r in rank_trials(trials, 0.02))
    assert wrong <= stats.binom.ppf(0.9999, draws, 0.05)


def test_the_first_ones_verdict_is_clear_when_the_ranking_says_so():
    """It is corrected for all that were screened, not for the contenders alone."""
    base, a = VARIANTS["baseline"], VARIANTS["a"]
    scores = {base: dict.fromkeys(range(3), 0.4), a: {0: 0.41, 1: 0.4104, 2: 0.4096}}
    assert surviving_contenders(scores, base, [a], {a: 8.0}, RULES) == []
    others = {Variant("yolov8", "n", ((f"slot.{i}", "SPConv"),)): {0: 0.35} for i in range(40)}
    assert surviving_contenders({**scores, **others}, base, [a], {a: 8.0}, RULES) == [a]
