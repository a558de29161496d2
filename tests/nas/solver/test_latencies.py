"""Latencies that are measured separately: what is stored, what a ranking and a solver make of it, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.engines import SEPARATE
from nas.engines.stored import Latencies
from nas.errors import LockError, StudyError
from nas.ranking.rank import ranking_of
from nas.solver.facts import SwapFacts
from nas.solver.front import front_of
from nas.solver.latencies import (
    store_latencies,
    sum_error,
    swap_latencies,
    timed_assignments,
    with_swap_latencies,
)
from nas.study.objective import read_budgets
from nas.study.settings import Settings
from nas.study.study import Study

CARAFE = {"neck.up_*": "CARAFE"}
SPCONV = {"neck.down_*": "SPConv"}
TRIALS = [
    ({}, "done", 0.5, 8.0),
    (CARAFE, "done", 0.52, 8.5),
    ({**CARAFE, **SPCONV}, "done", 0.51, 8.0),
    (SPCONV, "failed", 0.0, 7.5),
]


@pytest.fixture
def study(ranked_study) -> Study:
    return ranked_study(TRIALS)


def id_of(study: Study, *swaps: dict[str, str]) -> str:
    space = study.settings.space
    changed = {key: label for swap in swaps for key, label in swap.items()}
    return space.variant({**space.baseline(), **changed}).id


def store(study: Study, ms: dict[str, float], on: str = "a board", imgsz: int = 0, failures=None) -> Study:
    store_latencies(study, on, imgsz or study.settings.deployed_imgsz, ms, failures or {})
    return Study.load(study.location)


def test_the_baseline_the_best_and_each_swap_alone(study):
    space = study.settings.space
    assert [space.variant(a).id for a in timed_assignments(study, 1, slots=False)] == [
        id_of(study),
        id_of(study, CARAFE, SPCONV),
    ]
    every = [space.variant(a).id for a in timed_assignments(study, None, slots=True)]
    assert len(every) == len(set(every)) == 2 + 6  # six swaps, one of which is trained already
    assert id_of(study, SPCONV) in every


def test_a_ranking_shows_what_is_stored(study):
    stored = store(study, {id_of(study): 10.0, id_of(study, CARAFE): 12.0})
    assert {row.trial.describe(): row.trial.latency_ms for row in ranking_of(stored)} == {
        "baseline": 10.0,
        "neck.up_*=CARAFE": 12.0,
        "neck.down_*=SPConv  neck.up_*=CARAFE": None,
    }
    assert stored.settings.latency_on == "a board"
    assert not stored.settings.measures_latency


def test_later_ones_are_brought_to_the_same_baseline(study):
    """The machine was slower the second time: only the ratio to the baseline counts."""
    store(study, {id_of(study): 10.0, id_of(study, CARAFE): 12.0})
    found = store(study, {id_of(study): 20.0, id_of(study, SPCONV): 18.0}).latencies.ms
    assert found == pytest.approx({id_of(study): 10.0, id_of(study, CARAFE): 12.0, id_of(study, SPCONV): 9.0})


def test_a_failure_is_kept_until_it_is_measured(study):
    name = id_of(study, SPCONV)
    found = store(study, {id_of(study): 10.0}, failures={name: "NCNN does not support SPConv"}).latencies
    assert found.failures == {name: "NCNN does not support SPConv"}
    found = store(study, {id_of(study): 10.0, name: 9.0}).latencies
    assert (found.failures, found.ms[name]) == ({}, 9.0)


def test_one_machine_and_image_size(study):
    store(study, {id_of(study): 10.0})
    with pytest.raises(StudyError, match="has latencies of a board; these are of another board"):
        store(study, {id_of(study): 10.0}, "another board")
    with pytest.raises(StudyError, match=r"these latencies are of 64 px; .* measure with --imgsz"):
        store(study, {id_of(study): 10.0}, imgsz=64)


def test_what_a_search_has_measured_stays_the_scale(ranked_study):
    study = ranked_study([({}, "done", 0.5, 8.0)], latency_on="here", engine="openvino")
    found = store(study, {id_of(study): 10.0}, "here")
    assert found.settings.engine == "openvino"
    assert found.settings.measures_latency


def test_without_the_baseline_there_is_nothing_to_compare_with(study):
    with pytest.raises(StudyError, match=r"the baseline was not measured, .*: no such layer"):
        store(study, {id_of(study, CARAFE): 12.0}, failures={id_of(study): "no such layer"})


def test_a_study_without_results_would_be_made_again_by_its_search(ranked_study):
    study = ranked_study([(SPCONV, "failed", 0.0, 7.5)])
    with pytest.raises(StudyError, match="has no finished trial"):
        store(study, {id_of(study): 10.0})


def test_not_while_a_search_runs(study):
    with study.locked(), pytest.raises(LockError):
        store(Study.load(study.location), {id_of(study): 10.0})


def test_damaged_latencies():
    for body in ({"ms": {"a": -1.0}}, {"ms": {"a": "fast"}}, {"ms": {"a": float("nan")}}, [], {"more": 1}):
        with pytest.raises(ValueError, match="latenc"):
            Latencies.from_plain(body)


def test_settings_without_an_engine_are_stored_as_before(study):
    assert '"engine"' not in study.settings.to_json()
    settings = replace(study.settings, engine=SEPARATE)
    assert Settings.from_json(settings.to_json()) == settings
    with pytest.raises(StudyError, match="engine is 'abacus'"):
        Settings.from_json(replace(settings, engine="abacus").to_json())


@pytest.fixture
def ms(study) -> dict[str, float]:
    both = id_of(study, CARAFE, SPCONV)
    return {id_of(study): 10.0, id_of(study, CARAFE): 12.0, id_of(study, SPCONV): 9.0, both: 10.0}


def test_what_each_swap_adds_in_its_place(study, ms):
    space = study.settings.space
    assert swap_latencies(space, ms) == {("neck.up_*", "CARAFE"): 2.0, ("neck.down_*", "SPConv"): -1.0}
    assert swap_latencies(space, {}) == {}


def test_the_error_of_sums(study, ms):
    every = timed_assignments(study, None, slots=True)
    found = sum_error(study.settings.space, ms, every)
    assert (found.count, found.median, found.largest) == (1, pytest.approx(0.1), pytest.approx(0.1))
    assert sum_error(study.settings.space, {id_of(study): 10.0}, every) is None


def test_facts_get_what_was_measured_in_place(study, ms):
    swap = ("neck.up_*", "CARAFE")
    facts = SwapFacts({"gflops": 8.0, "latency_ms": 9.9}, {swap: {"gflops": 0.5, "latency_ms": 1.0}})
    found = with_swap_latencies(facts, study.settings.space, ms)
    assert found.base == {"gflops": 8.0, "latency_ms": 10.0}
    assert found.costs[swap] == {"gflops": 0.5, "latency_ms": 2.0}
    assert with_swap_latencies(facts, study.settings.space, {}) is facts


def test_a_solver_uses_them(study, ms):
    stored = store(study, ms)
    front = front_of(stored, read_budgets(None, None, "10.5"))
    assert front.base["latency_ms"] == 10.0
    assert all(row.costs["latency_ms"] <= 10.5 for row in front.rows)
    assert any("CARAFE" in row.swaps and "SPConv" in row.swaps for row in front.rows)
