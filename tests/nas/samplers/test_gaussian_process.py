"""The process finds planted scores again, and its errors are as large as it says."""

import numpy as np
import pytest

from nas.samplers.gaussian_process import GaussianProcess, distances


def planted(seed: int, count: int, slots: int = 8, noise: float = 0.002, pairs: float = 0.0):
    """Return codes, true scores and measured ones: effects of choices, and of pairs of them."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (count, slots))
    effects, both = rng.normal(0, 0.01, (slots, 4)), rng.normal(0, pairs, (slots, slots, 4, 4))
    true = effects[np.arange(slots), codes].sum(1)
    for a in range(slots):
        for b in range(a):
            true = true + both[a, b, codes[:, a], codes[:, b]]
    return codes, true, true + rng.normal(0, noise, count)


def test_distances_count_the_slots_that_differ():
    a, b = np.array([[0, 1, 2], [3, 3, 3]]), np.array([[0, 1, 2], [0, 0, 2], [3, 3, 0]])
    assert distances(a, b).tolist() == [[0, 1, 3], [3, 3, 1]]


@pytest.mark.parametrize("pairs", [0.0, 0.003])
def test_what_it_has_not_seen_is_predicted(pairs):
    codes, true, measured = planted(1, 400, pairs=pairs)
    process = GaussianProcess(codes[:300], measured[:300])
    mean, sd = process.predict(codes[300:])
    assert np.corrcoef(mean, true[300:])[0, 1] > 0.85
    z = (mean - true[300:]) / sd
    assert 0.6 < z.std() < 1.5


def test_the_noise_is_smoothed_away():
    codes, true, measured = planted(2, 200, noise=0.01)
    mean, _ = GaussianProcess(codes, measured).predict(codes)
    assert np.abs(mean - true).mean() < 0.7 * np.abs(measured - true).mean()


def test_scores_without_noise_are_met():
    codes, true, _ = planted(3, 60)
    mean, sd = GaussianProcess(codes, true).predict(codes)
    assert np.abs(mean - true).max() < 0.05 * true.std()
    assert sd.max() < 0.1 * true.std()


def test_a_measured_error_is_believed():
    codes, _, measured = planted(4, 30)
    _, trusting = GaussianProcess(codes, measured, error=1e-5).predict(codes)
    _, doubting = GaussianProcess(codes, measured, error=0.03).predict(codes)
    assert trusting.max() < doubting.min()


def test_repeated_trainings_are_surer_than_one():
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    scores = np.array([0.4, 0.41, 0.39, 0.4])
    _, once = GaussianProcess(codes, scores, error=0.01).predict(codes[:1])
    _, often = GaussianProcess(np.repeat(codes, 4, axis=0), np.repeat(scores, 4), error=0.01).predict(codes[:1])
    assert often < once


def test_one_score_and_equal_scores_stop_nothing():
    for codes in (np.zeros((1, 3), dtype=np.int64), np.array([[0, 0, 0], [1, 0, 0]])):
        mean, sd = GaussianProcess(codes, np.full(len(codes), 0.4)).predict(np.array([[2, 2, 2]]))
        assert mean[0] == pytest.approx(0.4)
        assert np.isfinite(sd[0])
