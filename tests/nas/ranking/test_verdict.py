"""Verdicts: the arithmetic against cases worked out otherwise, how often they are wrong, and how often they see."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from nas.ranking.aa_check import run_aa_check
from nas.ranking.verdict import PRIOR_DEGREES, Comparison, chance_below, compare, holm, interval_of_mean, shrink
from nas.study.objective import Prior

DRAWS = 600


def allowed(share: float, draws: int) -> int:
    """Return a count that a sound procedure with this chance exceeds once in 10 000 test suites."""
    return int(stats.binom.ppf(0.9999, draws, share))


def test_a_variant_alone_is_students_paired_t():
    differences = [0.011, 0.013, 0.006, 0.012]
    (one,) = compare([differences])
    expected = stats.ttest_1samp(differences, 0)
    interval = expected.confidence_interval(0.95)
    assert one.delta == pytest.approx(np.mean(differences))
    assert (one.degrees, one.seeds) == (3, 4)
    assert one.p == pytest.approx(expected.pvalue)
    assert one.interval == pytest.approx((interval.low, interval.high))
    assert one.verdict == "better"
    assert chance_below(one) == pytest.approx(stats.ttest_1samp(differences, 0, alternative="less").pvalue)
    assert compare([[-d for d in differences]])[0].verdict == "worse"


def test_the_variance_of_others_counts_for_two_degrees_of_freedom():
    one, other = [0.01, 0.012, 0.014], [0.0, 0.03, -0.03]
    found = compare([one, other, other])
    variance = (PRIOR_DEGREES * np.var(other, ddof=1) + 2 * np.var(one, ddof=1)) / (PRIOR_DEGREES + 2)
    assert found[0].error == pytest.approx(math.sqrt(variance / 3))
    assert found[0].degrees == 4
    assert found[0].interval[1] - found[0].delta == pytest.approx(stats.t.ppf(0.975, 4) * found[0].error)
    few = compare([one[:2], other[:2]])[0]
    assert few.degrees == 1 + 0.5  # one degree of freedom of the other cannot count for two


def test_one_seed_has_an_interval_where_others_tell_the_error_but_no_verdict():
    one, several = compare([[0.5], [0.01, 0.012]])
    assert one.interval[0] < 0.5 < one.interval[1]
    assert (one.verdict, one.p) == ("cannot tell", None)
    assert several.p is not None
    (alone,) = compare([[0.5]])
    assert (alone.interval, alone.verdict, alone.delta) == (None, "cannot tell", 0.5)
    assert chance_below(alone) == 1.0


def test_a_calibration_tells_the_error_unless_these_seeds_err_by_more():
    prior = Prior(0.01, 16)
    (one,) = compare([[0.03]], prior)
    assert one.error == pytest.approx(0.01)
    assert one.degrees == PRIOR_DEGREES
    quiet = compare([[0.0, 0.002, 0.001]], prior)[0]
    assert quiet.error > compare([[0.0, 0.002, 0.001]])[0].error
    noisy = [[0.0, 0.5, 1.0], [0.1, 0.9, 0.2]]
    assert compare(noisy, prior) == compare(noisy)


def test_nothing_is_made_of_no_error_and_of_no_common_seed():
    found = compare([[0.01, 0.01], [], [0.02, 0.02]])
    assert [c.verdict for c in found] == ["cannot tell"] * 3
    assert found[0].interval is None
    assert found[1] == Comparison(0, None)
    assert compare([]) == []
    still, moved = compare([[0.001, 0.001, 0.001], [0.01, 0.03, 0.02]])
    assert still.verdict == "cannot tell"  # the others' error is its own until it shows one
    assert moved.error > 0


def test_holm_by_its_definition():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])
    p = np.array([0.011, 0.02, 0.3, 0.004])
    rejected, order = set(), np.argsort(p)
    for step, at in enumerate(order):
        if p[at] > 0.05 / (len(p) - step):
            break
        rejected.add(at)
    assert set(np.flatnonzero(holm(p) <= 0.05)) == rejected == {0, 1, 3}


def test_those_that_got_no_further_seeds_count_as_compared():
    seen = [[0.01, 0.012, 0.011], [0.0, 0.001, -0.001], [0.003, 0.001, 0.002]]
    among_three, among_thirty = compare(seen)[0], compare([*seen, *[[0.0]] * 27])[0]
    assert among_thirty.p == pytest.approx(10 * among_three.p)


def test_shrinking_by_hand_and_in_the_mean():
    assert shrink(np.array([0.1, 0.2]), np.array([1.0, 1.0])) == []
    assert shrink(np.array([0.01, 0.02, 0.03]), np.full(3, 1.0)) == pytest.approx([0.02] * 3)
    effects, variance = np.array([0.0, 1.0, 5.0]), 0.5
    between = effects.var(ddof=1) - variance  # DerSimonian and Laird's estimate where all errors are alike
    expected = 2 + between / (between + variance) * (effects - 2)
    assert shrink(effects, np.full(3, variance)) == pytest.approx(expected)
    rng = np.random.default_rng(0)
    raw, shrunk = [], []
    for _ in range(300):
        true = rng.normal(0, 0.003, 30)
        errors = rng.choice([0.002, 0.004], 30)
        seen = true + rng.normal(0, 1, 30) * errors
        best = seen.argmax()
        raw.append(seen[best] - true[best])
        shrunk.append(shrink(seen, errors**2)[best] - true[best])
    assert np.mean(raw) > 0.0025  # the winner's curse
    assert abs(np.mean(shrunk)) < 0.0006


def test_the_interval_of_a_mean():
    scores = [0.40, 0.43, 0.38]
    interval = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert interval_of_mean(scores) == pytest.approx((interval.low, interval.high))
    assert interval_of_mean([0.4]) is None


@pytest.mark.parametrize(("variants", "seeds"), [(1, 3), (3, 2), (3, 3), (3, 5), (8, 3)])
@pytest.mark.parametrize("alike", [True, False])
def test_verdicts_are_wrong_in_at_most_5_of_100_where_nothing_differs(variants, seeds, alike):
    """Also where one variant errs by ten times as much as another, as measured of banks."""
    rng = np.random.default_rng([variants, seeds, alike])
    wrong = 0
    for _ in range(DRAWS):
        sds = np.ones(variants + 1) if alike else np.append(0.4, 10 ** rng.uniform(-0.7, 0.7, variants))
        scores = rng.normal(size=(variants + 1, seeds)) * sds[:, None] + 20 * rng.normal(size=seeds)
        found = compare((scores[1:] - scores[0]).tolist())
        wrong += any(c.verdict != "cannot tell" for c in found)
    assert wrong <= allowed(0.05, DRAWS)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_a_true_difference_of_three_sigma_is_found_as_often_as_theory_says(seeds):
    """Alone, by the noncentral t; with a known error of others, by an integral over the variant's own variance."""
    rng = np.random.default_rng(seeds)
    shift = 3 / math.sqrt(2) * math.sqrt(seeds)  # 3 sigma of one score, in standard errors of the mean difference
    scores = rng.normal(size=(DRAWS, 2, seeds))
    differences = scores[:, 1] - scores[:, 0] + 3

    def power_alone() -> float:
        critical = stats.t.ppf(0.975, seeds - 1)
        return float(stats.nct.sf(critical, seeds - 1, shift) + stats.nct.cdf(-critical, seeds - 1, shift))

    def power_with_prior() -> float:
        degrees = PRIOR_DEGREES + seeds - 1
        critical = stats.t.ppf(0.975, degrees)

        def given(own: float) -> float:
            reach = critical * math.sqrt((PRIOR_DEGREES + own) / degrees)
            seen = stats.norm.sf(reach - shift) + stats.norm.cdf(-reach - shift)
            return float(seen * stats.chi2.pdf(own, seeds - 1))

        return float(integrate.quad(given, 0, np.inf)[0])

    for prior, theory in ((None, power_alone()), (Prior(math.sqrt(2), 1e6), power_with_prior())):
        found = sum(compare([d.tolist()], prior)[0].verdict == "better" for d in differences)
        low, high = stats.binom.ppf([0.0001, 0.9999], DRAWS, theory)
        assert low <= found <= high
        assert theory > (0.35 if prior is None else 0.75)


def test_the_check_of_the_baseline_against_itself():
    rng = np.random.default_rng(1)
    found = run_aa_check(rng.normal(0.4, 0.01, 12).tolist(), 3, 3, draws=200)
    assert (found.pool, found.variants, found.seeds, found.draws) == (12, 3, 3, 200)
    assert found.passes
    assert "12 seeds of the baseline, dealt out 200 times to a baseline and 3 variants of 3 seeds each" in found.text
    small = run_aa_check(rng.normal(0.4, 0.01, 6).tolist(), 3, 5, draws=50)
    assert (small.variants, small.seeds) == (1, 3)
    assert found.to_json()["passes"] is True


def test_the_check_finds_verdicts_that_are_wrong_too_often(monkeypatch):
    def eager(differences):
        return [Comparison(len(d), sum(d), verdict="better" if min(d) > 0 else "cannot tell") for d in differences]

    monkeypatch.setattr("nas.ranking.aa_check.compare", eager)
    found = run_aa_check(np.random.default_rng(1).normal(0.4, 0.01, 12).tolist(), 3, 3, draws=200)
    assert found.share > 0.1
    assert not found.passes
    assert "more than the 5% of the promise, and more than chance gives here" in found.text
