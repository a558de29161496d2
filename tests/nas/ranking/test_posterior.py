"""What is computed over swaps is what is computed over assignments."""

import numpy as np
import pytest

from nas.ranking import additive, grouped_scores
from nas.ranking.additive import AdditiveModel, fit_both
from nas.ranking.combinations import MOST_ASIDE, cross_validate, find_outliers
from nas.ranking.grouped_scores import MOST_PAIRS, GroupedScores, Observation
from nas.ranking.posterior import NormalEquations, RotatedBasis, SpectralBasis, design_of
from nas.space.search_space import Slot


def made(count=60, slots=5, labels=3, seed=0, outlier=0.0, noise=0.004):
    """Return slots, and scores of the baseline and of random assignments, some of them measured several times."""
    rng = np.random.default_rng(seed)
    space = tuple(Slot(f"s{i}", (f"s{i}",), ("keep", *"ABCDEFGH"[:labels])) for i in range(slots))
    effects = {(s.key, c): rng.normal(0, 0.02) for s in space for c in s.choices[1:]}
    found = [Observation({}, 0.4), Observation({}, 0.401)]
    for i in range(count):
        assignment = {s.key: str(rng.choice(s.choices)) for s in space}
        swaps = [swap for swap in assignment.items() if swap[1] != "keep"]
        pairs = 0.01 * ({("s0", "A"), ("s1", "A")} <= set(swaps))
        value = 0.4 + sum(effects[swap] for swap in swaps) + pairs + outlier * (i == 7)
        found += [Observation(assignment, value + rng.normal(0, noise)) for _ in range(1 + (i % 5 == 0))]
    return space, found


@pytest.fixture
def many(monkeypatch):
    """Let even a few assignments count as many."""
    monkeypatch.setattr(grouped_scores, "LARGE", 0)


@pytest.mark.parametrize("error", [None, 0.004])
@pytest.mark.parametrize("ratio", [0.0, 1 / 64, 1 / 4])
@pytest.mark.parametrize("pairs", [0, 5, None])
@pytest.mark.parametrize("count", [8, 60])
def test_both_posteriors_are_the_same(error, ratio, pairs, count):
    slots, observations = made(count)
    data = GroupedScores(observations, slots, error)
    learnt = data.pairs[:pairs]
    slow, even = RotatedBasis(data, learnt, ratio), np.ptp(design_of(data, learnt, ratio)[1]) == 0
    if even:
        compare(data, slow, SpectralBasis(data, learnt, ratio))
    if not even or count > 8:  # eight noiseless scores of fifteen swaps leave the equations without full rank
        compare(data, slow, NormalEquations(data, learnt, ratio))


def compare(data, slow, fast):
    likely = np.flatnonzero(slow.evidence > slow.evidence.max() - 100)
    assert fast.evidence[likely] == pytest.approx(slow.evidence[likely], rel=1e-9)
    assert fast.evidence == pytest.approx(slow.evidence, rel=1e-6)
    assert fast.means()[:, likely] == pytest.approx(slow.means()[:, likely], abs=1e-9)
    weights = np.zeros(len(data.noise))
    weights[likely] = np.random.default_rng(1).dirichlet(np.ones(len(likely)))
    assert fast.covariance(weights) == pytest.approx(slow.covariance(weights), abs=1e-9)
    (misses, precision), found = (b.left_out(np.arange(len(data.scores)), likely) for b in (slow, fast))
    assert found[0] == pytest.approx(misses, abs=1e-9)
    assert found[1] ** -0.5 == pytest.approx(precision**-0.5, abs=1e-9)


@pytest.mark.parametrize("error", [None, 0.004])
@pytest.mark.parametrize("outlier", [0.0, 0.3])
def test_predictions_and_effects_are_the_same(many, monkeypatch, error, outlier):
    """Also with a gross outlier, without which other variances are the likely ones than with it."""
    slots, observations = made(outlier=outlier)
    data = GroupedScores(observations, slots, error)
    assert data.large
    fast = fit_both(data)
    monkeypatch.setattr(additive, "basis_over_swaps", RotatedBasis)
    monkeypatch.setattr(additive, "_AT_ONCE", 10**6)
    slow = fit_both(data)
    assert list(fast[2]) == list(slow[2])
    for mine, theirs in zip(fast[:2], slow[:2], strict=True):
        for one, other in zip(mine.leave_one_out, theirs.leave_one_out, strict=True):
            assert one == pytest.approx(other, abs=1e-9)
        for swap in data.design.swaps:
            one, other = mine.contrast({swap: 1.0}), theirs.contrast({swap: 1.0})
            assert (one.mean, one.sd) == pytest.approx((other.mean, other.sd), abs=1e-9)
        for (pair, one), (same, other) in zip(mine.interactions(), theirs.interactions(), strict=True):
            assert pair == same
            assert (one.mean, one.sd) == pytest.approx((other.mean, other.sd), abs=1e-9)


def test_data_without_some_assignments_are_those_of_the_others():
    slots, observations = made()
    data = GroupedScores(observations, slots, None)
    gone = [dict(data.assignments[i]) for i in (3, 11)]
    less = data.without((3, 11))
    again = GroupedScores([o for o in observations if dict(o.assignment) not in gone], slots, None)
    assert less.assignments == again.assignments
    for name in ("rows", "root", "scores", "swapped", "noise", "effect", "pairs"):
        assert getattr(less, name) == pytest.approx(getattr(again, name))
    assert len(data.scores) == len(less.scores) + 2


def test_many_variants_learn_their_most_frequent_pairs():
    slots, observations = made(count=400, slots=6, labels=7)
    data = GroupedScores(observations, slots, None)
    together = np.triu(data.rows.T @ data.rows, 1)
    assert data.large
    assert data.pair_count == (together >= 2).sum() > len(data.pairs) == MOST_PAIRS
    kept = together[tuple(data.pairs.T)]
    assert (together > kept.min()).sum() < MOST_PAIRS
    assert cross_validate(observations, slots).pairs == (MOST_PAIRS, data.pair_count)


@pytest.mark.parametrize("error", [None, 0.004])
def test_outliers_among_many_variants_are_found(error):
    slots, observations = made(count=400, outlier=0.3, seed=2)
    truth = max(observations, key=lambda o: o.score)
    found = find_outliers(observations, slots, error)
    assert dict(found[0].assignment) == dict(truth.assignment)
    assert len(found) < 0.1 * len(observations)


def test_the_work_on_many_outliers_is_bounded(many, monkeypatch):
    slots, observations = made(count=80, seed=3, noise=0.0001)
    bad = [Observation(o.assignment, o.score + 0.2) if i % 4 == 0 else o for i, o in enumerate(observations)]
    fits = []
    inner = AdditiveModel.__init__
    monkeypatch.setattr(AdditiveModel, "__init__", lambda self, *a, **k: fits.append(1) or inner(self, *a, **k))
    find_outliers(bad, slots, 0.0001)
    assert len(fits) <= 2 * MOST_ASIDE + 1
