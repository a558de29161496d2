"""Merit: against hand-made sums, and against simulations of known truth."""

import math
import warnings

import numpy as np
import pytest

from nas.calibration.resolution import attainable, in_map_units, merit


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


# Row means 2, 3, 6, 5, column means 3.25, 3.75, 5, grand mean 4.
SMALL = np.array([[1.0, 2, 3], [2, 4, 3], [6, 5, 7], [4, 4, 7]])
F36, CHI6 = (0.06786692, 6.59879852), (1.23734425, 14.44937534)


def test_small_layout_by_hand():
    m = merit(SMALL)
    residual = [-1 / 4, 1 / 4, 0, -1 / 4, 5 / 4, -1, 3 / 4, -3 / 4, 0, -1 / 4, -3 / 4, 1]
    ms_e = sum(r * r for r in residual) / 6
    ms_v = 3 * (4 + 1 + 4 + 1) / 3
    assert (m.variants, m.seeds, m.mean) == (4, 3, 4)
    assert m.error**2 == pytest.approx(ms_e)
    assert m.spread**2 == pytest.approx((ms_v - ms_e) / 3)
    assert m.error_unpaired**2 == pytest.approx((1 + 1 + 1 + 3) / 4)
    assert m.ratio == pytest.approx((ms_v - ms_e) / 3 / ms_e)
    assert m.reliability == pytest.approx(m.ratio / (1 + m.ratio))
    f = ms_v / ms_e  # the quantiles are those of tables, of F(3, 6) and chi²(6)
    assert m.ratio_interval == pytest.approx(((f / F36[1] - 1) / 3, (f / F36[0] - 1) / 3), rel=1e-5)
    assert m.error_interval == pytest.approx(tuple(math.sqrt(6 * ms_e / q) for q in CHI6[::-1]), rel=1e-5)


def test_known_truth_is_recovered():
    m = merit(simulated(2000, 5)[1])
    # Of 8000 and 2000 degrees of freedom: 4 standard errors are 3 % and 7 %.
    assert m.error == pytest.approx(0.004, rel=0.03)
    assert m.spread == pytest.approx(0.01, rel=0.07)
    assert m.ratio == pytest.approx(6.25, rel=0.15)
    assert m.reliability == pytest.approx(6.25 / 7.25, rel=0.03)


def test_pairing_removes_what_a_seed_does_to_all():
    _, y = simulated(12, 4, seed_effect=0)
    shifted = y + np.array([0.0, 0.3, -0.2, 0.1])
    plain, paired = merit(y), merit(shifted)
    assert paired.error == pytest.approx(plain.error)
    assert paired.spread == pytest.approx(plain.spread)
    assert paired.error_unpaired > 20 * paired.error
    assert plain.error_unpaired == pytest.approx(plain.error, rel=0.3)


def test_intervals_hold_the_truth_95_times_in_100():
    held = np.zeros(2)
    for k in range(400):
        m = merit(simulated(8, 3, seed=k)[1])
        held += m.ratio_interval[0] <= 6.25 <= m.ratio_interval[1], m.error_interval[0] <= 0.004 <= m.error_interval[1]
    # 4 standard errors of a share of 400.
    assert held / 400 == pytest.approx(0.95, abs=0.044)


def test_noise_alone_has_no_spread_worth_the_name():
    found = [merit(simulated(10, 3, spread=0, seed=k)[1]) for k in range(200)]
    assert 0.4 < np.mean([m.spread == 0 for m in found]) < 0.75
    assert np.mean([m.ratio_interval[0] == 0 for m in found]) > 0.93


def test_resolution_and_seeds_are_inverse():
    m = merit(simulated(10, 4)[1])
    for seeds in (1, 2.5, 7):
        assert m.seeds_for(m.resolution(seeds, 0.95), 0.95) == pytest.approx(seeds)
    assert m.resolution(4) == pytest.approx(m.resolution(1) / 2)
    assert m.resolution() == pytest.approx(1.2815515655 * math.sqrt(2) * m.error)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_difference_of_the_resolution_is_ordered_right_9_times_in_10(seeds):
    m = merit(simulated(3000, 4)[1])
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 0.03, (20_000, 1, seeds))
    y = shared + rng.normal(0, 0.004, (20_000, 2, seeds))
    gap = y[:, 0].mean(1) + m.resolution(seeds) - y[:, 1].mean(1)
    assert (gap > 0).mean() == pytest.approx(0.9, abs=0.012)


def test_a_deterministic_score_has_no_error():
    for shift in (0.0, np.array([0.1, 0.2, 0.7])):
        m = merit(np.repeat([[0.1], [0.3], [0.7], [0.4366]], 3, axis=1) + shift)
        assert (m.error, m.ratio, m.reliability) == (0, math.inf, 1)
        assert m.spread == pytest.approx(np.std([0.1, 0.3, 0.7, 0.4366], ddof=1))
        assert m.error_interval == (0, 0)
        assert m.ratio_interval == (math.inf, math.inf)
        assert m.resolution() == 0
        assert m.seeds_for(0.005) == 0
    assert merit(np.repeat([[0.1], [0.3], [0.7]], 2, axis=1)).error_unpaired == 0


def test_a_constant_score_tells_nothing():
    m = merit(np.full((5, 3), 0.1))
    assert (m.error, m.spread, m.ratio, m.reliability) == (0, 0, 0, 0)
    assert m.ratio_interval == (0, 0)


def test_failed_runs_take_their_variant_with_them():
    y = np.vstack([SMALL, [[np.nan, 1, 1], [1, np.inf, 1]]])
    assert merit(y) == merit(SMALL)
    assert merit(y + 10).mean == 14


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.ones((2, 4)), "at least 3 variants"),
        (np.array([[1, 2], [2, np.nan], [3, 4], [np.nan, 1]]), r"at least 3 variants .* not 2 \(of 4\)"),
        (np.ones((4, 1)), "at least 2 seeds"),
        (np.ones(4), "variants, seeds"),
        (np.ones((4, 0)), "variants, seeds"),
    ],
)
def test_too_little_is_refused(y, message):
    with pytest.raises(ValueError, match=message):
        merit(y)


def test_wrong_questions_are_refused():
    m = merit(SMALL)
    with pytest.raises(ValueError, match="above 0"):
        m.seeds_for(0)
    for confidence in (0.5, 1.0):
        with pytest.raises(ValueError, match="confidence"):
            m.resolution(confidence=confidence)


def test_attainable_is_the_correlation_of_the_truth_with_the_mean():
    truth, full = simulated(4000, 2, spread=0.01, error=0.01)
    assert attainable(full) == pytest.approx(math.sqrt(2 / 3), abs=0.02)
    assert attainable(full) == pytest.approx(np.corrcoef(truth, full.mean(1))[0, 1], abs=0.02)
    assert attainable(full[:, :1]) is None
    assert attainable(np.repeat([[0.1], [0.3], [0.7]], 2, axis=1)) == 1
    assert attainable(np.ones((4, 2))) == 0


def test_losses_are_brought_to_the_unit_of_map():
    _, reference = simulated(30, 3)
    loss = -5 * reference + 2
    loss[4, 1] = np.nan
    scaled, factor = in_map_units(loss, reference)
    assert factor == pytest.approx(0.2)
    assert scaled.shape == loss.shape
    assert merit(scaled).spread == pytest.approx(merit(np.delete(reference, 4, 0)).spread)
    assert in_map_units(np.ones((30, 2)), reference)[1] == 1
    assert in_map_units(reference, np.ones((30, 2)))[1] == 1
