"""Agreement of orders: against SciPy's numbers, by hand, and against simulations of known truth."""

import math
import warnings

import numpy as np
import pytest

from nas.calibration.rank_agreement import agreement, ceiling


@pytest.fixture(autouse=True)
def _strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def simulated(variants, seeds, spread=0.01, error=0.004, seed_effect=0.03, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.4, spread, variants)
    shared = rng.normal(0, seed_effect, seeds)
    return truth, truth[:, None] + shared + rng.normal(0, error, (variants, seeds))


# With ties in both; the expected values are those of scipy.stats.spearmanr and kendalltau, 1.17.
FULL = np.array([0.50, 0.53, 0.51, 0.51, 0.55, 0.50, 0.47, 0.52])
CLOSE = np.array([0.40, 0.42, 0.42, 0.39, 0.45, 0.41, 0.38, 0.43])
FAR = np.array([3.0, 1, 2, 2, 5, 4, 0, 1])
S1, K1 = 0.8424397143700719, 0.7171087882915774
S2, K2 = 0.20731707317073172, 0.038461538461538464


@pytest.mark.parametrize(("score", "spearman", "kendall"), [(CLOSE, S1, K1), (FAR, S2, K2)])
def test_agreement_is_that_of_scipy(score, spearman, kendall):
    a = agreement(score[:, None], FULL[:, None])
    assert (a.n, a.spearman, a.kendall) == (8, pytest.approx(spearman), pytest.approx(kendall))
    assert a.top_decile_kendall is None
    assert a.top_decile_kendall_interval is None


def test_agreement_of_one_run_is_the_mean_over_seeds():
    a = agreement(np.stack([CLOSE, FAR], 1), FULL[:, None])
    assert a.spearman == pytest.approx((S1 + S2) / 2)
    assert a.kendall == pytest.approx((K1 + K2) / 2)
    mean = agreement(np.stack([CLOSE, 0.001 * FAR], 1), FULL[:, None], mean_of_seeds=True)
    assert mean.spearman == pytest.approx(agreement((CLOSE + 0.001 * FAR)[:, None], FULL[:, None]).spearman)


def test_averaging_seeds_agrees_better_than_one_run():
    truth, y = simulated(40, 6, error=0.01)
    one, mean = (agreement(y, truth[:, None], mean_of_seeds=m, draws=50) for m in (False, True))
    assert mean.spearman > one.spearman + 0.1


def test_top3_recall():
    full = np.arange(6.0)[:, None]
    assert agreement(full, full).top3_recall == 1
    assert agreement(-full, full).top3_recall == 0
    assert agreement(np.array([[0], [4], [1], [3], [2], [5.0]]), full).top3_recall == pytest.approx(2 / 3)
    # The third place is shared by a right one and a wrong one.
    assert agreement(np.array([[0], [0], [1], [1], [2], [3.0]]), full).top3_recall == pytest.approx(2.5 / 3)


def test_top_decile_looks_at_the_best_by_full_training_only():
    full = np.arange(40.0)[:, None]
    score = full.copy()
    score[36:] = score[36:][::-1]
    a = agreement(score, full)
    assert a.top_decile_kendall == pytest.approx(-1)
    assert a.kendall > 0.95
    assert agreement(score[:30], full[:30]).top_decile_kendall is None


def test_extremes():
    full = np.random.default_rng(0).normal(size=(9, 1))
    same, opposite = agreement(3 * full + 1, full), agreement(-full, full)
    assert (same.spearman, same.kendall) == pytest.approx((1, 1))
    assert same.spearman_interval == pytest.approx((1, 1))
    assert (opposite.spearman, opposite.kendall) == pytest.approx((-1, -1))


def test_the_bootstrap_interval_covers():
    """Of 60 studies of 30 variants, at least 52 intervals hold the population's correlation: 95 %, less 3 sigma."""
    held = 0
    population = 6 / math.pi * math.asin(0.8 / 2)  # Spearman of normal variables with correlation 0.8
    for k in range(60):
        rng = np.random.default_rng(k)
        full = rng.normal(size=(30, 1))
        low, high = agreement(0.8 * full + 0.6 * rng.normal(size=(30, 1)), full, draws=400).spearman_interval
        assert -1 <= low < high <= 1
        held += low <= population <= high
    assert held >= 52


def test_more_variants_make_the_interval_narrower_and_the_seed_decides_the_draws():
    truth, y = simulated(60, 3)
    few, many = (agreement(y[:n], truth[:n, None], draws=300) for n in (10, 60))
    assert np.ptp(many.kendall_interval) < np.ptp(few.kendall_interval)
    assert few == agreement(y[:10], truth[:10, None], draws=300)
    assert few.spearman_interval != agreement(y[:10], truth[:10, None], draws=300, seed=1).spearman_interval


def test_the_bootstrap_draws_seeds_too():
    full = np.arange(12.0)[:, None]
    a = agreement(np.hstack([full, -full]), full, draws=200)
    assert a.spearman == pytest.approx(0)
    assert a.spearman_interval == pytest.approx((-1, 1))


def test_three_variants_have_too_few_draws_for_an_interval():
    full = np.arange(4.0)[:, None]
    assert agreement(full[:3], full[:3]).spearman_interval is None
    assert agreement(full, full).spearman_interval is not None


def test_a_constant_proxy_has_no_order():
    a = agreement(np.ones((6, 2)), np.arange(6.0)[:, None])
    assert (a.spearman, a.kendall, a.top3_recall) == (0, 0, pytest.approx(0.5))
    assert a.spearman_interval is None
    assert a.kendall_interval is None


def test_agreement_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="no order"):
        agreement(np.arange(4.0)[:, None], np.ones((4, 2)))
    with pytest.raises(ValueError, match="at least 3 variants"):
        agreement(np.array([[1], [2], [np.nan], [4.0]]), np.array([[1], [2], [3], [np.nan]]))
    with pytest.raises(ValueError, match="same variants"):
        agreement(np.ones((4, 1)), np.ones((5, 1)))


def test_a_failed_run_of_either_leaves_its_variant_out():
    full = np.append(FULL, [9, np.nan])[:, None]
    score = np.append(CLOSE, [np.nan, 9])[:, None]
    assert agreement(score, full) == agreement(CLOSE[:, None], FULL[:, None])


def test_ceiling_is_the_agreement_of_the_seeds():
    found = ceiling(np.stack([CLOSE, FULL], 1))
    assert (found.n, found.spearman, found.kendall) == (8, pytest.approx(S1), pytest.approx(K1))
    assert found.spearman_interval[0] < found.spearman < found.spearman_interval[1]
    three = ceiling(np.stack([CLOSE, FULL, FAR], 1), draws=50)
    pairs = [(CLOSE, FULL), (CLOSE, FAR), (FULL, FAR)]
    assert three.spearman == pytest.approx(np.mean([agreement(a[:, None], b[:, None]).spearman for a, b in pairs]))
    assert ceiling(FULL[:, None]) is None
