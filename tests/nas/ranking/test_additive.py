"""Planted truths that are found again, and errors that are as large as they say."""

import itertools
import random
import time

import numpy as np
import pytest

from nas.errors import SpaceError
from nas.ranking.additive import Additive, Observation, held_back, surprises
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


def every(slots):
    for labels in itertools.product(*(s.choices for s in slots)):
        yield dict(zip([s.key for s in slots], labels, strict=True))


@pytest.mark.parametrize("error", [None, 0.002])
def test_an_additive_truth_is_recovered(error):
    truth = Truth(SLOTS, seed=1)
    model = Additive.fit(truth.study(30), SLOTS, error)
    misses = np.array([model.predict(a).mean - truth.value(a) for a in every(SLOTS)])
    spread = np.std([truth.value(a) for a in every(SLOTS)])
    assert np.sqrt((misses**2).mean()) < min(0.0025, spread / 8)
    for (slot, label), value in truth.effects.items():
        assert abs(model.effect(slot, label).mean - value) < 4 * model.effect(slot, label).sd < 0.01
    assert model.effect("s0", "keep").sd == 0
    assert model.predict(KEEP) == model.predict({})


def test_exact_scores_are_interpolated():
    truth = Truth(SLOTS, seed=2, noise=0.0)
    model = Additive.fit(truth.study(0), SLOTS, error=1e-6)
    for assignment in itertools.islice(every(SLOTS), 0, None, 97):
        assert model.predict(assignment).mean == pytest.approx(truth.value(assignment), abs=1e-4)


def test_predictions_shrink_towards_the_baseline_with_the_error():
    observations = Truth(SLOTS, seed=3).study(10)
    apart = {}
    for error in (0.002, 0.02, 0.2):
        model = Additive.fit(observations, SLOTS, error)
        apart[error] = [abs(model.effect(s.key, c).mean) for s in SLOTS for c in s.choices[1:]]
    assert sum(apart[0.2]) < 0.1 * sum(apart[0.002])
    assert sum(apart[0.02]) < sum(apart[0.002])
    exact, rough = (Additive.fit(observations, SLOTS, error).predict(KEEP | {"s0": "A"}).sd for error in (0.002, 0.2))
    assert rough > 5 * exact


def test_pure_noise_is_not_taken_for_effects():
    rng = np.random.default_rng(4)
    truth = Truth(SLOTS, seed=4, scale=0.0)
    observations = [Observation(truth.combination(), BASE + rng.normal(0, 0.01)) for _ in range(60)]
    model = Additive.fit(observations, SLOTS, error=0.01)
    assert max(abs(model.predict(a).mean - BASE) for a in every(SLOTS)) < 0.01
    assert model.pairs == ()


@pytest.mark.parametrize("error", [None, 0.005])
@pytest.mark.parametrize("combinations", [4, 25])
def test_the_sd_covers_the_truth(error, combinations):
    distances, measured = [], []
    for seed in range(60):
        truth = Truth(SLOTS, seed=100 + seed, noise=0.005)
        observations = truth.study(combinations)
        model = Additive.fit(observations, SLOTS, error)
        for _ in range(5):
            assignment = truth.combination()
            predicted = model.predict(assignment)
            distances.append(abs(predicted.mean - truth.value(assignment)) / predicted.sd)
        expected, sd = model.excluded_seeds
        measured.extend(np.abs(model.data.scores - expected) / sd)
    assert 0.90 < np.mean(np.array(distances) < 1.96) < 0.995
    assert 0.90 < np.mean(np.array(measured) < 1.96) < 0.99


def test_leaving_one_out_in_closed_form_is_leaving_one_out():
    truth = Truth(SLOTS, seed=5)
    observations = [*truth.study(8), truth.observe(KEEP), truth.observe(KEEP | {"s1": "B"})]
    model = Additive.fit(observations, SLOTS, error=0.004)
    assert not model.pairs
    expected, sd = model.excluded_seeds
    for i in (len(expected) // 3, len(expected) - 1):
        held = key_of(model.data.assignments[i])
        rest = [o for o in observations if key_of(o.assignment) != held]
        again = Additive.fit(rest, SLOTS, error=0.004).predict(model.data.assignments[i])
        assert again.mean == pytest.approx(expected[i], abs=2e-4)
        assert np.hypot(again.sd, 0.004) == pytest.approx(sd[i], rel=0.1)


def test_several_seeds_are_worth_more_than_one():
    truth = Truth(SLOTS, seed=6, noise=0.01)
    once = [truth.observe(a) for a in (KEEP, KEEP | {"s0": "A"}, KEEP | {"s1": "A"})]
    more = once + [truth.observe(KEEP | {"s0": "A"}) for _ in range(9)]
    few, many = (Additive.fit(o, SLOTS, error=0.01) for o in (once, more))
    assert len(many.data.scores) == 3
    assert many.predict(KEEP | {"s0": "A"}).sd < 0.6 * few.predict(KEEP | {"s0": "A"}).sd


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
    model = Additive.fit(observations, SLOTS, error=0.002)
    assert model.pairs[0] == PAIR
    plain = Additive(model.data, model.data.pairs[:0])
    fresh = [a for a in every(SLOTS) if a["s0"] == a["s1"] == "A"]
    with_it, without = (
        np.sqrt(np.mean([(m.predict(a).mean - truth.value(a)) ** 2 for a in fresh])) for m in (model, plain)
    )
    assert with_it < 0.6 * without
    of = model.data.combinations
    left, plainly = (np.square(m.excluded_seeds[0] - model.data.scores)[of].mean() for m in (model, plain))
    assert held_back(observations, SLOTS, 0.002).rms_error == pytest.approx(np.sqrt(left), rel=0.2)
    assert left < 0.5 * plainly


@pytest.mark.parametrize("error", [None, 0.002])
def test_a_planted_interaction_is_a_surprise(error):
    truth = Truth(SLOTS, seed=7, planted={PAIR: 0.03, (("s2", "B"), ("s3", "C")): -0.05})
    observations = truth.study(0)
    for _ in range(12):
        assignment = truth.combination(2)
        if not any(set(pair) <= set(assignment.items()) for pair in truth.planted):
            observations.append(truth.observe(assignment))
    good, bad = KEEP | {"s0": "A", "s1": "A"}, KEEP | {"s2": "B", "s3": "C"}
    observations += [truth.observe(good), truth.observe(bad)]
    found = surprises(observations, SLOTS, error)
    assert [s.assignment for s in found[:2]] == [bad, good]
    assert found[0].text.startswith("falls short of its parts by 0.0")
    best = found[1]
    assert best.text == (
        f"beats its parts by {best.measured - best.predicted:.3f} (expected {best.predicted:.3f} ± {best.sd:.3f})"
    )
    assert best.measured - best.predicted == pytest.approx(0.03, abs=0.012)
    assert len(found) <= 4


@pytest.mark.parametrize("error", [None, 0.004])
def test_additive_scores_hold_few_surprises(error):
    found = tried = 0
    for seed in range(40):
        observations = Truth(SLOTS, seed=200 + seed, noise=0.004).study(20)
        found += len(surprises(observations, SLOTS, error))
        tried += 20
    assert 0.01 < found / tried < 0.08  # 4.6 % of a normal distribution lies beyond two deviations


def test_additive_scores_learn_few_interactions():
    learnt = sum(bool(Additive.fit(Truth(SLOTS, seed=s).study(30), SLOTS).pairs) for s in range(300, 330))
    assert learnt <= 6


def test_held_back_beats_the_trivial_predictions():
    truth = Truth(SLOTS, seed=8)
    result = held_back(truth.study(20), SLOTS)
    assert result.combinations == 20
    assert result.mean_error <= result.rms_error < 0.3 * min(result.rms_mean, result.rms_baseline)
    assert result.spearman > 0.9
    without = held_back([o for o in truth.study(20) if set(o.assignment.values()) != {"keep"}], SLOTS)
    assert without.rms_baseline is None


def test_held_back_says_when_nothing_can_be_predicted():
    rng = np.random.default_rng(9)
    truth = Truth(SLOTS, seed=9)
    result = held_back([Observation(o.assignment, rng.normal(0.4, 0.01)) for o in truth.study(30)], SLOTS)
    assert result.rms_error > 0.85 * result.rms_mean
    assert abs(result.spearman) < 0.6


def test_two_hundred_observations_take_no_time():
    slots = make_slots(14, labels=3)
    observations = Truth(slots, seed=10).study(157)
    assert len(observations) == 200
    started = time.process_time()
    assert held_back(observations, slots).rms_error < 0.01
    assert time.process_time() - started < 5  # a second where nothing else runs


def test_only_the_baseline():
    model = Additive.fit([Observation(KEEP, BASE)], SLOTS)
    assert model.predict(KEEP).mean == pytest.approx(BASE)
    combination = model.predict({"s0": "A", "s1": "B"})
    assert combination.mean == pytest.approx(BASE)
    assert combination.sd > model.predict({"s0": "A"}).sd > 0.1
    assert held_back([Observation(KEEP, BASE)], SLOTS) is None
    assert surprises([Observation(KEEP, BASE)], SLOTS) == []


def test_one_swap():
    observations = [Observation(KEEP, 0.40), Observation(KEEP | {"s0": "A"}, 0.42)]
    model = Additive.fit(observations, SLOTS, error=0.001)
    assert model.predict({"s0": "A"}).mean == pytest.approx(0.42, abs=0.001)
    assert model.effect("s1", "B").mean == pytest.approx(0, abs=1e-9)
    assert model.effect("s1", "B").sd > 0.02 > 5 * model.effect("s0", "A").sd
    unsure = Additive.fit(observations, SLOTS)
    assert 0.40 < unsure.predict({"s0": "A"}).mean < 0.42
    assert held_back(observations, SLOTS) is None


def test_one_combination():
    observations = [Observation(KEEP, 0.40), Observation(KEEP | {"s0": "A", "s1": "A"}, 0.42)]
    assert held_back(observations, SLOTS) is None
    assert surprises(observations, SLOTS) == []
    assert surprises(observations[1:], SLOTS) == []


def test_scores_that_are_all_equal():
    observations = [Observation(o.assignment, BASE) for o in Truth(SLOTS, seed=13).study(10)]
    predicted = Additive.fit(observations, SLOTS).predict({"s0": "A", "s1": "B"})
    assert predicted.mean == pytest.approx(BASE)
    assert predicted.sd < 1e-6
    assert held_back(observations, SLOTS).spearman is None
    assert surprises(observations, SLOTS) == []


def test_a_swap_that_was_never_seen_is_as_uncertain_as_swaps_differ():
    truth = Truth(SLOTS, seed=14)
    seen = [o for o in truth.study(30) if o.assignment["s4"] == "keep"]
    model = Additive.fit(seen, SLOTS, error=0.002)
    unseen = model.effect("s4", "A")
    assert unseen.mean == pytest.approx(0, abs=1e-9)
    assert 0.01 < unseen.sd < 0.04
    assert model.predict({"s0": "A", "s4": "A"}).sd > 4 * model.predict({"s0": "A", "s1": "A"}).sd


def test_the_order_of_observations_does_not_matter():
    _, observations = planted(0)
    shuffled = random.Random(0).sample(observations, len(observations))
    one, other = (Additive.fit(o, SLOTS).predict({"s0": "A", "s1": "A"}) for o in (observations, shuffled))
    assert one.mean == pytest.approx(other.mean)
    assert one.sd == pytest.approx(other.sd)


def test_what_the_slots_do_not_have_is_refused():
    with pytest.raises(SpaceError, match="no choice 'Z' for 's0'"):
        Additive.fit([Observation({"s0": "Z"}, BASE)], SLOTS)
    with pytest.raises(SpaceError, match="at least one"):
        Additive.fit([], SLOTS)
