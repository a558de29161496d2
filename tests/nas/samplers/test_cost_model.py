"""A cost is a sum over choices, and the cheapest sum tells which limits are out of reach."""

from __future__ import annotations

import pytest

from nas.samplers.cost_model import CostModel, model_of_limit
from nas.samplers.history import History
from nas.samplers.limits import is_infeasible
from nas.space.space_file import read_space
from nas.study.trial import Trial

SPACE = """
slots:
  neck.up_p4: [CARAFE, DySample]
  neck.up_p3: [CARAFE, DySample]
"""


def test_costs_add_up_and_tell_what_is_out_of_reach():
    space = read_space(SPACE, "l.yaml", "l")

    def gflops(a):
        return 8.0 + 0.5 * (a["neck.up_p4"] == "CARAFE") - 0.25 * (a["neck.up_p3"] == "DySample")

    trials = [
        Trial(i, space.variant(a), a, "rejected", gflops=gflops(a))
        for i, a in enumerate((space.baseline(), *space.single_swaps()))
    ]
    model = model_of_limit(History(space, trials), "max_gflops")
    assert isinstance(model, CostModel)
    assert model.has_seen_all
    assert model.minimum() == pytest.approx(7.75)
    assert model.sd == pytest.approx(0, abs=1e-9)
    assert not is_infeasible(space.with_limits(max_gflops=7.8), trials)
    assert is_infeasible(space.with_limits(max_gflops=7.7), trials)
    assert not is_infeasible(space.with_limits(max_gflops=7.7), trials[:3])  # the cheap swap may be among the rest
    assert not is_infeasible(space.with_limits(max_latency_ms=0.1), trials)  # no latency has been measured
    assert model_of_limit(History(space, trials), "min_map") is None
