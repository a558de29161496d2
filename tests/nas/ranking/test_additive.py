"""Planted truths that are found again, and errors that are as large as they say."""

import itertools
import random
import time

import numpy as np
import pytest

from nas.errors import SpaceError
from nas.ranking.additive import AdditiveModel, Estimate
from nas.ranking.combinations import cross_validate, find_outliers
from nas.ranking.grouped_scores import Observation
from nas.space.search_space import Slot, key_of

BASE = 0.4


def make_slots(count: int, labels: int = 3) -> tuple[Slot, ...]:
    return tuple(Slot(f"s{i}", (f"s{i}",), ("keep", *"ABCDEF"[:labels])) for i in range(count))


SLOTS = make_slots(5)
KEEP = {slot.key: "keep" for slot in SLOTS}


class Truth:
    """Additive scores with planted interactions."""

    def __init__(self, slots, seed, scale=0.02, noise=0.002, planted=None):
        self.slots, self.noise, self.planted = slots, noise, planted or {}
        self.rng = np.random.default_rng(seed)
        self.effects = {(s.key, c): self.rng.normal(0, scale) for s in slots for c in s.choices[1:]}

    def value(self, assignment):
        swaps = set(assignment.items())
        parts = sum(self.effects.get(swap, 0.0) for swap in swaps)
        return BASE + parts + sum(v for pair, v in self.planted.items() if set(pair) <= swaps)

    def observe(self, assignment):
        return Observation(assignment, self.value(assignment) + self.rng.normal(0, self.noise))

    def combination(self, swaps=None):
        keep = {slot.key: "keep" for slot in self.slots}
        count = swaps or int(self.rng.integers(2, len(self.slots) + 1))
        chosen = self.rng.choice(len(self.slots), count, replace=False)
        return keep | {self.slots[i].key: str(self.rng.choice(self.slots[i].choices[1:])) for i in chosen}

    def study(self, combinations, swaps=None):
        """Observe the baseline, every single swap, and different combinations."""
        keep = {slot.key: "keep" for slot in self.slots}
        wanted = [keep, *(keep | {s.key: c} for s in self.slots for c in s.choices[1:])]
        keys = {key_of(a) for a in wanted}
        while len(keys) < 1 + sum(len(s.choices) - 1 for s in self.slots) + combinations:
            assignment = self.combination(swaps)
            if key_of(assignment) not in keys:
                keys.add(key_of(assignment))
                wanted.append(assignment)
        return [self.observe(a) for a in wanted]


def gain(model, assignment) -> Estimate:
    """Return what an assignment is estimated to score more than the baseline, by the sum of its swaps."""
    return model.contrast({swap: 1.0 for swap in assignment.items() if swap[1] != "keep"})


def every(slots):
    for labels in itertools.product(*(s.choices for s in slots)):
        yield dict(zip([s.key for s in slots], labels, strict=True))


@pytest.mark.parametrize("error", [None, 0.002])
def test_an_additive_truth_is_recovered(error):
    truth = Truth(SLOTS, seed=1)
    model = AdditiveModel.fit(truth.study(30), SLOTS, error)
    misses = np.array([gain(model, a).mean - (truth.value(a) - BASE) for a in every(SLOTS)])
    misses -= misses.mean()  # the error of the baseline's own score is in all of them
    spread = np.std([truth.value(a) for a in every(SLOTS)])
    assert np.sqrt((misses**2).mean()) < min(0.0025, spread / 8)
    for (slot, label), value in truth.effects.items():
        effect = model.contrast({(slot, label): 1.0})
        assert abs(effect.mean - value) < 4 * effect.sd < 0.01
    assert gain(model, KEEP) == Estimate(0.0, 0.0)


def test_exact_scores_are_interpolated():
    truth = Truth(SLOTS, seed=2, noise=0.0)
    model = AdditiveModel.fit(truth.study(0), SLOTS, error=1e-6)
    for assignment in itertools.islice(every(SLOTS), 0, None, 97):
        assert BASE + gain(model, assignment).mean == pytest.approx(truth.value(assignment), abs=1e-4)


def test_predictions_shrink_towards_the_baseline_with_the_error():
    observations = Truth(SLOTS, seed=3).study(10)
    apart = {}
    for error in (0.002, 0.02, 0.2):
        model = AdditiveModel.fit(observations, SLOTS, error)
        apart[error] = [abs(gain(model, {s.key: c}).mean) for s in SLOTS for c in s.choices[1:]]
    assert sum(apart[0.2]) < 0.1 * sum(apart[0.002])
    assert sum(apart[0.02]) < sum(apart[0.002])
    exact, rough = (gain(AdditiveModel.fit(observations, SLOTS, error), {"s0": "A"}).sd for error in (0.002, 0.2))
    assert rough > 5 * exact


def test_pure_noise_is_not_taken_for_effects():
    rng = np.random.default_rng(4)
    truth = Truth(SLOTS, seed=4, scale=0.0)
    observations = [Observation(truth.combination(), BASE + rng.normal(0, 0.01)) for _ in range(60)]
    model = AdditiveModel.fit(observations, SLOTS, error=0.01)
    assert max(abs(gain(model, a).mean) for a in every(SLOTS)) < 0.01
    assert model.interactions() == []


@pytest.mark.parametrize("error", [None, 0.005])
@pytest.mark.parametrize("combinations", [4, 25])
def test_the_sd_covers_the_truth(error, combinations):
    distances, measured = [], []
    for seed in range(60):
        truth = Truth(SLOTS, seed=100 + seed, noise=0.005)
        observations = truth.study(combinations)
        model = AdditiveModel.fit(observations, SLOTS, error)
        for _ in range(5):
            assignment = truth.combination()
            estimated = gain(model, assignment)
            distances.append(abs(estimated.mean - (truth.value(assignment) - BASE)) / estimated.sd)
        expected, sd = model.leave_one_out
        measured.extend(np.abs(model.data.scores - expected) / sd)
    assert 0.90 < np.mean(np.array(distances) < 1.96) < 0.995
    assert 0.90 < np.mean(np.array(measured) < 1.96) < 0.99


def textbook(data, ratios):
    """Return posterior effects and leave-one-out predictions at each point, by generalised least squares."""
    n, swapped, effects = len(data.scores), data.swapped, []
    left_out = [[] for _ in range(n)]
    for ratio, (noise, effect) in itertools.product(ratios, zip(data.noise, data.effect, strict=True)):
        covariance = effect * data.rows @ data.rows.T
        variance = effect * (swapped + ratio * swapped * (swapped - 1) / 2) + noise / data.root**2
        np.fill_diagonal(covariance, variance)
        repeats = data.spare * np.log(noise) + data.within / noise

        def least_squares(of, covariance=covariance, repeats=repeats):
            inverse, ones = np.linalg.inv(covariance[np.ix_(of, of)]), np.ones(len(of))
            weight = ones @ inverse @ ones
            rest = data.scores[of] - ones @ inverse @ data.scores[of] / weight
            fit = np.linalg.slogdet(inverse)[1] - np.log(weight) - rest @ inverse @ rest
            return inverse, weight, rest, 0.5 * (fit - repeats)

        inverse, weight, rest, evidence = least_squares(np.arange(n))
        projected = inverse - np.outer(inverse.sum(0), inverse.sum(0)) / weight
        spread = effect * np.eye(data.rows.shape[1]) - effect**2 * data.rows.T @ projected @ data.rows
        effects.append((evidence, effect * data.rows.T @ inverse @ rest, spread))
        for i in range(n):
            of = np.delete(np.arange(n), i)
            inverse, weight, rest, evidence = least_squares(of)
            across = inverse @ covariance[of, i]
            mean = data.scores[of[0]] - rest[0] + across @ rest
            left_out[i].append(
                (evidence, mean, variance[i] - covariance[of, i] @ across + (1 - across.sum()) ** 2 / weight)
            )
    return effects, left_out


def mixture(evidence, means, variances):
    """Return mean and variance of a mixture."""
    weights = np.exp(np.array(evidence) - max(evidence))
    weights /= weights.sum()
    mean = weights @ np.array(means)
    return mean, weights @ (np.array(variances) + (np.array(means) - mean) ** 2)


@pytest.mark.parametrize("error", [None, 0.004])
def test_the_closed_forms_are_those_of_the_textbook(error):
    truth = Truth(SLOTS[:3], seed=5)
    keep = {slot.key: "keep" for slot in truth.slots}
    observations = [*truth.study(4), truth.observe(keep), truth.observe(keep | {"s1": "B"})]
    data = AdditiveModel.fit(observations, truth.slots, error).data
    ratios = (0.0, 1 / 16)
    model = AdditiveModel(data, data.pairs[:0], ratios)
    effects, left_out = textbook(data, ratios)
    for column, swap in enumerate(data.design.swaps):
        mean, variance = mixture(*zip(*((e, m[column], v[column, column]) for e, m, v in effects), strict=True))
        found = model.contrast({swap: 1.0})
        assert (found.mean, found.sd) == (pytest.approx(mean, rel=1e-6), pytest.approx(np.sqrt(variance), rel=1e-6))
    for i, points in enumerate(left_out):
        mean, variance = mixture(*zip(*points, strict=True))
        assert model.leave_one_out[0][i] == pytest.approx(mean, rel=1e-6)
        assert model.leave_one_out[1][i] == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_several_seeds_are_worth_more_than_one():
    truth = Truth(SLOTS, seed=6, noise=0.01)
    once = [truth.observe(a) for a in (KEEP, KEEP | {"s0": "A"}, KEEP | {"s1": "A"})]
    more = once + [truth.observe(a) for a in (KEEP, KEEP | {"s0": "A"}) for _ in range(9)]
    few, many = (AdditiveModel.fit(o, SLOTS, error=0.01) for o in (once, more))
    assert len(many.data.scores) == 3
    assert gain(many, {"s0": "A"}).sd < 0.6 * gain(few, {"s0": "A"}).sd


PAIR = (("s0", "A"), ("s1", "A"))


def planted(seed, value=0.04):
    """Observe a study in which two swaps are worth more together, eight combinations of which hold both."""
    truth = Truth(SLOTS, seed=seed, planted={PAIR: value})
    observations = truth.study(20)
    both = [truth.combination(3) | {"s0": "A", "s1": "A"} for _ in range(8)]
    return truth, observations + [truth.observe(a) for a in both]


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_interaction_is_learnt(seed):
    truth, observations = planted(seed)
    model = AdditiveModel.fit(observations, SLOTS, error=0.002)
    assert max(model.interactions(), key=lambda found: abs(found[1].mean))[0] == PAIR
    plain = AdditiveModel(model.data, model.data.pairs[:0])
    fresh = [a for a in every(SLOTS) if a["s0"] == a["s1"] == "A"]
    learnt = dict(model.interactions())

    def predicted(a):
        both = (estimate.mean for pair, estimate in learnt.items() if set(pair) <= set(a.items()))
        return BASE + gain(model, a).mean + sum(both)

    with_it = np.sqrt(np.mean([(predicted(a) - truth.value(a)) ** 2 for a in fresh]))
    without = np.sqrt(np.mean([(BASE + gain(plain, a).mean - truth.value(a)) ** 2 for a in fresh]))
    assert with_it < 0.6 * without
    of = model.data.combinations
    left, plainly = (np.square(m.leave_one_out[0] - model.data.scores)[of].mean() for m in (model, plain))
    assert cross_validate(observations, SLOTS, 0.002).rms_error == pytest.approx(np.sqrt(left), rel=0.2)
    assert left < 0.5 * plainly


@pytest.mark.parametrize("error", [None, 0.002])
def test_a_planted_interaction_is_an_outlier(error):
    truth = Truth(SLOTS, seed=7, planted={PAIR: 0.03, (("s2", "B"), ("s3", "C")): -0.05})
    observations = truth.study(0)
    for _ in range(12):
        assignment = truth.combination(2)
        if not any(set(pair) <= set(assignment.items()) for pair in truth.planted):
            observations.append(truth.observe(assignment))
    good, bad = KEEP | {"s0": "A", "s1": "A"}, KEEP | {"s2": "B", "s3": "C"}
    observations += [truth.observe(good), truth.observe(bad)]
    found = find_outliers(observations, SLOTS, error)
    assert [s.assignment for s in found[:2]] == [bad, good]
    assert found[0].text.startswith("falls short of its parts by 0.0")
    best = found[1]
    assert best.text == (
        f"beats its parts by {best.measured - best.predicted:.3f} (expected {best.predicted:.3f} ± {best.sd:.3f})"
    )
    assert best.measured - best.predicted == pytest.approx(0.03, abs=0.012)
    assert len(found) <= 4


@pytest.mark.parametrize("error", [None, 0.004])
def test_additive_scores_hold_few_find_outliers(error):
    found = tried = 0
    for seed in range(40):
        observations = Truth(SLOTS, seed=200 + seed, noise=0.004).study(20)
        found += len(find_outliers(observations, SLOTS, error))
        tried += 20
    assert 0.01 < found / tried < 0.08  # 4.6 % of a normal distribution lies beyond two deviations


def test_additive_scores_learn_few_interactions():
    studies = (Truth(SLOTS, seed=seed).study(30) for seed in range(300, 330))
    learnt = sum(bool(AdditiveModel.fit(study, SLOTS).interactions()) for study in studies)
    assert learnt <= 6


def test_cross_validation_beats_the_trivial_predictions():
    truth = Truth(SLOTS, seed=8)
    result = cross_validate(truth.study(20), SLOTS)
    assert result.combinations == 20
    assert result.rms_error < 0.3 * min(result.rms_mean, result.rms_baseline)
    without = cross_validate([o for o in truth.study(20) if set(o.assignment.values()) != {"keep"}], SLOTS)
    assert without.rms_baseline is None


def test_cross_validation_says_when_nothing_can_be_predicted():
    rng = np.random.default_rng(9)
    truth = Truth(SLOTS, seed=9)
    result = cross_validate([Observation(o.assignment, rng.normal(0.4, 0.01)) for o in truth.study(30)], SLOTS)
    assert result.rms_error > 0.85 * result.rms_mean


def test_two_hundred_observations_take_no_time():
    slots = make_slots(14, labels=3)
    observations = Truth(slots, seed=10).study(157)
    assert len(observations) == 200
    started = time.process_time()
    assert cross_validate(observations, slots).rms_error < 0.01
    assert time.process_time() - started < 5  # a second where nothing else runs


def test_only_the_baseline():
    model = AdditiveModel.fit([Observation(KEEP, BASE)], SLOTS)
    combination = gain(model, {"s0": "A", "s1": "B"})
    assert combination.mean == pytest.approx(0)
    assert combination.sd > gain(model, {"s0": "A"}).sd > 0.1
    assert cross_validate([Observation(KEEP, BASE)], SLOTS) is None
    assert find_outliers([Observation(KEEP, BASE)], SLOTS) == []


def test_one_swap():
    observations = [Observation(KEEP, 0.40), Observation(KEEP | {"s0": "A"}, 0.42)]
    model = AdditiveModel.fit(observations, SLOTS, error=0.001)
    assert gain(model, {"s0": "A"}).mean == pytest.approx(0.02, abs=0.001)
    assert gain(model, {"s1": "B"}).mean == pytest.approx(0, abs=1e-9)
    assert gain(model, {"s1": "B"}).sd > 0.02 > 5 * gain(model, {"s0": "A"}).sd
    unsure = AdditiveModel.fit(observations, SLOTS)
    assert 0 < gain(unsure, {"s0": "A"}).mean < 0.02
    assert cross_validate(observations, SLOTS) is None


def test_one_combination():
    observations = [Observation(KEEP, 0.40), Observation(KEEP | {"s0": "A", "s1": "A"}, 0.42)]
    assert cross_validate(observations, SLOTS) is None
    assert find_outliers(observations, SLOTS) == []
    assert find_outliers(observations[1:], SLOTS) == []


def test_scores_that_are_all_equal():
    observations = [Observation(o.assignment, BASE) for o in Truth(SLOTS, seed=13).study(10)]
    estimated = gain(AdditiveModel.fit(observations, SLOTS), {"s0": "A", "s1": "B"})
    assert estimated.mean == pytest.approx(0)
    assert estimated.sd < 1e-6
    assert cross_validate(observations, SLOTS).rms_error == pytest.approx(0)
    assert find_outliers(observations, SLOTS) == []


def test_a_swap_that_was_never_seen_is_as_uncertain_as_swaps_differ():
    truth = Truth(SLOTS, seed=14)
    seen = [o for o in truth.study(30) if o.assignment["s4"] == "keep"]
    model = AdditiveModel.fit(seen, SLOTS, error=0.002)
    unseen = gain(model, {"s4": "A"})
    assert unseen.mean == pytest.approx(0, abs=1e-9)
    assert 0.01 < unseen.sd < 0.04
    assert gain(model, {"s0": "A", "s4": "A"}).sd > 4 * gain(model, {"s0": "A", "s1": "A"}).sd


def test_the_order_of_observations_does_not_matter():
    _, observations = planted(0)
    shuffled = random.Random(0).sample(observations, len(observations))
    one, other = (gain(AdditiveModel.fit(o, SLOTS), {"s0": "A", "s1": "A"}) for o in (observations, shuffled))
    assert one.mean == pytest.approx(other.mean)
    assert one.sd == pytest.approx(other.sd)


def test_what_the_slots_do_not_have_is_refused():
    with pytest.raises(SpaceError, match="no choice 'Z' for 's0'"):
        AdditiveModel.fit([Observation({"s0": "Z"}, BASE)], SLOTS)
    with pytest.raises(SpaceError, match="at least one"):
        AdditiveModel.fit([], SLOTS)
