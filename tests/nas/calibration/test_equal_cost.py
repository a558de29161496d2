"""Partial rank agreement: by the formula on known orders, and what the cost alone explains."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nas.calibration.equal_cost import COST, cost_rows
from nas.calibration.rank_agreement import at_equal_cost


def partial(x, y, z, of) -> float:
    xy, xz, yz = (of(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    return (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))


def test_partial_correlations_are_those_of_the_formula():
    rng = np.random.default_rng(3)
    cost = rng.normal(size=14)
    full, proxy = cost + rng.normal(size=14), cost + rng.normal(size=14)
    found = at_equal_cost(proxy[:, None], full[:, None], cost)
    assert found.spearman == pytest.approx(partial(proxy, full, cost, stats.spearmanr))
    assert found.kendall == pytest.approx(partial(proxy, full, cost, stats.kendalltau))
    low, high = found.spearman_interval
    assert low < found.spearman < high


def test_a_proxy_that_only_follows_the_cost_agrees_no_more_at_equal_cost():
    """Two orders that are the cost with noise of their own agree well, and hardly at equal cost."""
    rng = np.random.default_rng(0)
    cost = np.linspace(0, 1, 80)
    proxy, full = (cost[:, None] + rng.normal(scale=0.2, size=(80, 2)) for _ in range(2))
    rows = cost_rows({("bank-0", "map"): proxy}, {"scratch": full}, cost)
    alone, own = rows
    assert (alone.order, alone.partial) == (COST, None)
    assert alone.agreement.spearman > own.agreement.spearman > 0.5
    assert abs(own.partial.spearman) < 0.25
    low, high = own.partial.spearman_interval
    assert low < 0 < high


def test_what_a_proxy_knows_beyond_the_cost_is_left_at_equal_cost():
    rng = np.random.default_rng(1)
    cost, quality = rng.normal(size=(2, 40))
    full = (cost + quality)[:, None]
    assert at_equal_cost(quality[:, None], full, cost).spearman > 0.9


def test_each_kind_of_full_training_is_compared_with_the_other_and_not_with_itself():
    full = {name: np.arange(5.0)[:, None] + np.array([[0.0, 0.5]]) for name in ("a", "b")}
    orders = {**{(name, "map"): values for name, values in full.items()}, ("bank-0", "map"): full["a"]}
    found = [(row.order, row.full) for row in cost_rows(orders, full, np.array([3.0, 1.0, 2.0, 5.0, 4.0]))]
    assert found == [(COST, "a"), ("b", "a"), ("bank-0", "a"), (COST, "b"), ("a", "b"), ("bank-0", "b")]


def test_an_order_that_the_cost_gives_has_nothing_left():
    values = np.arange(6.0)
    found = at_equal_cost(values[:, None], values[::-1, None] ** 2, values)
    assert math.isnan(found.spearman)
    assert found.spearman_interval is None
    (_, row) = cost_rows({("bank-0", "map"): values[:, None]}, {"scratch": values[:, None]}, values)
    assert row.to_json()["partial"]["spearman"] is None


def test_it_is_the_correlation_of_what_a_line_over_the_cost_leaves():
    rng = np.random.default_rng(0)
    cost = np.arange(30.0)
    proxy, full = cost + rng.normal(0, 3, 30), cost + rng.normal(0, 3, 30)

    def rest(a):
        slope, offset = np.polyfit(stats.rankdata(cost), stats.rankdata(a), 1)
        return stats.rankdata(a) - slope * stats.rankdata(cost) - offset

    found = at_equal_cost(proxy[:, None], full[:, None], cost).spearman
    assert found == pytest.approx(np.corrcoef(rest(proxy), rest(full))[0, 1])
    assert stats.spearmanr(proxy, full).statistic > found + 0.3  # most of the agreement was that of the cost


def test_equal_costs_explain_nothing():
    rng = np.random.default_rng(2)
    full = rng.normal(size=12)
    proxy = full + rng.normal(size=12)
    found = at_equal_cost(proxy[:, None], full[:, None], np.full(12, 8.9))
    assert found.spearman == pytest.approx(stats.spearmanr(proxy, full).statistic)
    assert found.kendall == pytest.approx(stats.kendalltau(proxy, full).statistic)
