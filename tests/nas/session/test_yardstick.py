"""The budgets of --yardstick, and what a session requests by them."""

from __future__ import annotations

import pytest

from nas.errors import OptionError
from nas.session.options import SearchOptions
from nas.session.yardstick import read_yardsticks


def test_budgets_are_gflops_or_changes_against_the_baseline():
    budgets, at_front = read_yardsticks("6.5, -25%,front")
    assert at_front
    assert [budget.within({"gflops": 8.0}) for budget in budgets] == [{"gflops": 6.5}, {"gflops": 6.0}]
    assert read_yardsticks("front") == ((), True)
    assert read_yardsticks("6.5")[1] is False


@pytest.mark.parametrize("text", ["", "6.5,", "25%", "-100%", "0", "six", "-6.5", "front 6", "front,"])
def test_other_budgets_are_refused(text):
    with pytest.raises(OptionError, match="budget"):
        read_yardsticks(text)


def test_they_are_requested_anew_each_time():
    options = SearchOptions(space="quick", yardstick="-20%")
    assert "yardstick" not in options.to_store()
    assert SearchOptions(replay="table.json", yardstick="-20%").idle_in_replay() == ["--yardstick"]
