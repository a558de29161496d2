"""The prediction: it recovers what made the scores, its intervals hold, and its mean is that of its parts."""

from __future__ import annotations

import numpy as np
import pytest

import nas.solver.prediction
from nas.solver.facts import SwapFacts, all_swaps
from nas.solver.prediction import Prediction
from nas.space.search_space import SearchSpace, Slot

SLOTS = tuple(Slot(f"s{i}", (f"s{i}",), ("keep", "a", "b", "c")) for i in range(6))
SPACE = SearchSpace("made", "yolov8", "n", SLOTS)
SWAPS = all_swaps(SPACE)


def drawn(count: int, seed: int, sd: float = 0.002, interaction: float = 0.0):
    """Return facts, a function that gives the true difference, assignments and their measured scores."""
    rng = np.random.default_rng(seed)
    parts = {swap: tuple(rng.gamma(0.5, 0.5, 6)) for swap in SWAPS}
    weights = rng.uniform(0.005, 0.015, 6)
    own = {swap: rng.normal(0, 0.002) for swap in SWAPS}

    def truth(assignment):
        swaps = [pair for pair in assignment.items() if pair in own]
        both = interaction * (assignment["s0"] == "a" and assignment["s1"] == "a")
        return sum(own[s] - weights @ np.array(parts[s]) for s in swaps) + both

    assignments = [SPACE.baseline()]
    while len(assignments) < count:
        assignments.append({s.key: str(rng.choice(s.choices, p=[0.55, 0.15, 0.15, 0.15])) for s in SLOTS})
    scores = [(a, 0.4 + truth(a) + rng.normal(0, sd)) for a in assignments]
    return SwapFacts(parts=parts), truth, scores


def test_before_any_training_a_larger_score_is_a_larger_loss() -> None:
    facts, _, scores = drawn(2, 0)
    prediction = Prediction(SPACE, facts, scores[:1])
    totals = {swap: sum(parts) for swap, parts in facts.parts.items()}
    found = prediction.of([SPACE.baseline() | dict([swap]) for swap in SWAPS])
    order = sorted(range(len(SWAPS)), key=lambda i: totals[SWAPS[i]])
    assert [e.mean for e in (found[i] for i in order)] == sorted((e.mean for e in found), reverse=True)
    assert prediction.of([SPACE.baseline()])[0].mean == 0


def test_without_any_trial_it_predicts_by_the_scores() -> None:
    facts, _, _ = drawn(2, 0)
    worst = max(SWAPS, key=lambda swap: sum(facts.parts[swap]))
    assert Prediction(SPACE, facts, []).of([SPACE.baseline() | dict([worst])])[0].mean < 0


@pytest.mark.parametrize("seed", range(3))
def test_trainings_make_it_better_and_its_intervals_hold(seed: int) -> None:
    facts, truth, scores = drawn(60, seed)
    _, _, fresh = drawn(200, seed)
    others = [a for a, _ in fresh[60:]]
    true = np.array([truth(a) for a in others])

    def error(prediction: Prediction) -> float:
        return float(np.sqrt(np.mean((np.array([e.mean for e in prediction.of(others)]) - true) ** 2)))

    few, many = Prediction(SPACE, facts, scores[:3]), Prediction(SPACE, facts, scores)
    assert error(many) < 0.5 * error(few)
    found = many.of(others)
    inside = np.mean([abs(e.mean - t) <= 1.96 * e.sd for e, t in zip(found, true, strict=True)])
    assert inside > 0.85


def test_the_mean_is_the_sum_of_swaps_and_pairs() -> None:
    facts, _, scores = drawn(40, 5, interaction=-0.1)
    prediction = Prediction(SPACE, facts, scores, error=0.002)
    values, pairs = prediction.values(), prediction.pairs()
    for assignment, _ in scores[:10]:
        chosen = set(assignment.items())
        summed = sum(values.get(swap, 0.0) for swap in chosen)
        summed += sum(value for pair, value in pairs.items() if chosen >= set(pair))
        assert prediction.of([assignment])[0].mean == pytest.approx(summed, abs=2e-3)


def test_an_interaction_is_learnt() -> None:
    facts, _, scores = drawn(150, 7, interaction=-0.1)
    pairs = Prediction(SPACE, facts, scores).pairs()
    assert min(pairs, key=lambda pair: pairs[pair]) == (("s0", "a"), ("s1", "a"))


def test_swaps_without_scores_have_effects_only() -> None:
    _, _, scores = drawn(40, 3)
    prediction = Prediction(SPACE, SwapFacts(), scores)
    assert prediction.trained
    assert prediction.of([scores[1][0]])[0].sd > 0


def test_facts_survive_storing() -> None:
    facts = SwapFacts(
        {"gflops": 8.9}, {("s0", "a"): {"gflops": -0.5}}, {("s0", "a"): (0.25, 0.5)}, {("s1", "b"): "raises"}
    )
    again = SwapFacts.from_plain(facts.to_plain())
    assert (again.base, again.parts, again.failures) == (facts.base, facts.parts, facts.failures)
    assert again.costs[("s0", "a")] == {"gflops": -0.5}
    assert again.cost({"s0": "a", "s1": "keep"}, "gflops") == pytest.approx(8.4)
    assert SwapFacts.from_plain(None) == SwapFacts()


def test_of_many_trainings_the_baselines_and_the_latest_are_fitted_to(monkeypatch) -> None:
    facts, _, scores = drawn(9, 4)
    expected = Prediction(SPACE, facts, [scores[0], *scores[4:]]).of([scores[1][0]])
    monkeypatch.setattr(nas.solver.prediction, "_MOST", 5)
    assert Prediction(SPACE, facts, scores).of([scores[1][0]]) == expected


def test_a_mean_over_seeds_counts_for_more_than_one_score() -> None:
    facts, _, scores = drawn(12, 6)
    odd = [*scores, ({**SPACE.baseline(), "s0": "a"}, 0.45)]
    once = Prediction(SPACE, facts, odd, error=0.004)
    often = Prediction(SPACE, facts, odd, error=0.004, seeds=[*[1] * 12, 9])
    before, after = (p.of([odd[-1][0]])[0] for p in (once, often))
    assert after.mean > before.mean, "nearer to what was measured"
    assert after.sd < before.sd
    assert Prediction(SPACE, facts, odd, error=0.004, seeds=[1] * 13).of([odd[-1][0]]) == [before]
