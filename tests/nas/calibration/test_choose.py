"""What a proxy costs, and which one is chosen, in which words."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from nas.calibration.choose import LEARNT, ProxyMerit, choose_proxy
from nas.calibration.rank_agreement import Agreement, agreement
from nas.calibration.resolution import Merit, merit


def report(proxy, spearman=0.9, error=0.004, minutes=1.0, spread=0.01, mean=0.4, **more):
    ratio = spread**2 / error**2 if error else math.inf
    m = Merit(10, 4, mean, error, error, spread, ratio, 0.5, (error, error), (ratio, ratio))
    a = Agreement(10, spearman, spearman, 1.0, None)
    return ProxyMerit(proxy, "map", m, a, a, minutes, **more)


def test_cost_is_runs_times_minutes_and_the_price_at_least_one_run():
    r = report("a", error=0.004, minutes=3)
    runs = 2 * (1.2815515655 * 0.8) ** 2
    assert r.cost(0.005) == pytest.approx(3 * runs)
    assert r.price() == r.cost()
    assert r.cost(0.05) == pytest.approx(3 * runs / 100)
    assert r.price(0.05) == 3


def test_the_cheapest_adequate_one_is_chosen():
    cheap_but_wrong = report("wrong", spearman=0.69, minutes=0.01)
    cheap_but_noisy = report("noisy", error=0.01, minutes=0.01)
    fine, dear = report("fine", spearman=0.8), report("dear", spearman=0.95, minutes=10)
    best, why = choose_proxy([dear, cheap_but_wrong, fine, cheap_but_noisy])
    assert best is fine
    assert "fine, map is the cheapest of 2 adequate (of 4)" in why
    assert choose_proxy([dear, cheap_but_wrong, fine], ceiling=0.68)[0] is cheap_but_wrong
    assert choose_proxy([dear, fine], ceiling=0.99, least=0.9)[0] is dear


def test_less_than_one_run_is_no_cheaper_than_one():
    exact, short = report("exact", error=0, minutes=5), report("short", error=0.001, minutes=4)
    assert exact.cost() < short.cost()
    assert choose_proxy([exact, short])[0] is short


def test_equal_prices_go_to_the_better_agreement():
    assert choose_proxy([report("a", 0.8), report("b", 0.9), report("c", 0.85)])[0].proxy == "b"


def test_none_adequate_is_said():
    best, why = choose_proxy([report("a", 0.3), report("b", 0.6, error=0.02), report("c", 0.5)], ceiling=0.9)
    assert best.proxy == "b"
    assert why == (
        "None of 3 is adequate: 3 below a Spearman of 0.70 with full training, 1 that learnt nothing or err by no less "
        "than the variants differ. b, map has the highest Spearman, 0.60; its order is not to be relied on."
    )
    with pytest.raises(ValueError, match="no proxy"):
        choose_proxy([])


@pytest.mark.parametrize(("mean", "chosen"), [(LEARNT, "dull"), (0.99 * LEARNT, "fine")])
def test_what_has_learnt_nothing_is_not_chosen(mean, chosen):
    """However cheap: the scores of variants that detect nothing differ, but not by what they will be worth."""
    dull = report("dull", spearman=0.95, error=0.001, spread=0.005, minutes=0.01, mean=mean)
    fine = report("fine", spearman=0.75)
    best, why = choose_proxy([dull, fine])
    assert best.proxy == chosen
    assert f"{2 if chosen == 'dull' else 1} adequate (of 2)" in why


def test_what_has_learnt_nothing_is_the_last_resort():
    dull, poor = report("dull", spearman=0.95, mean=0.0), report("poor", spearman=0.1)
    best, why = choose_proxy([dull, poor])
    assert best is poor
    assert "1 below a Spearman of 0.70 with full training, 1 that learnt nothing" in why
    assert choose_proxy([dull, report("worse", spearman=0.9, mean=0.0)])[0] is dull


@pytest.mark.parametrize(("top", "blind"), [(0.29, True), (0.0, True), (-0.4, True), (0.3, False), (None, False)])
def test_full_training_that_does_not_agree_with_itself_judges_nothing(top, blind):
    """Then the cheapest wins that has learnt and spreads by more than it errs."""
    cheap, noisy = report("cheap", spearman=-0.3, minutes=0.1), report("noisy", error=0.01, minutes=0.001)
    dull, fine = report("dull", mean=0.01, minutes=0.001), report("fine", spearman=0.9, minutes=5)
    best, why = choose_proxy([fine, cheap, noisy, dull], ceiling=top)
    assert best is (cheap if blind else fine)
    assert ("not used" in why) == blind
    if blind:
        assert "cheap, map is the cheapest of 2 adequate (of 4)" in why
        assert f"Spearman -0.30 (not used: full training agrees with itself by only {top:.2f})" in why
        assert choose_proxy([dull, noisy], ceiling=top)[1].startswith("None of 2 is adequate")


def test_a_low_ceiling_lowers_the_bar_to_itself():
    low, lower = report("low", spearman=0.45, minutes=2), report("lower", spearman=0.44)
    best, why = choose_proxy([low, lower], ceiling=0.45)
    assert best is low
    assert "Spearman 0.45 (at least 0.45)" in why


def test_json():
    small = np.array([[1.0, 2, 3], [2, 4, 3], [6, 5, 7], [4, 4, 7]])
    r = replace(report("a", error=0, once_minutes=2.0, failures=1, scale=0.2), agreement=agreement(small, small))
    body = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert body["merit"]["ratio"] is None
    assert body["merit"]["mean"] == 0.4
    assert body["merit"]["ratio_interval"] == [None, None]
    assert (body["proxy"], body["once_minutes"], body["failures"], body["scale"]) == ("a", 2.0, 1, 0.2)
    assert body["agreement"]["spearman"] == r.agreement.spearman
    json.dumps(replace(r, merit=merit(small)).to_json(), allow_nan=False)
