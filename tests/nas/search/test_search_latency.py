"""Latency in a search: measured where it is wanted, held against its limit, and not for what is rejected anyway."""

from __future__ import annotations

from pathlib import Path

from nas.model.latency import Latency
from nas.ranking.rank import rank_trials
from nas.search.loop import plan, run_search
from nas.search.runner import Runner


class FakeMeter:
    """Two swaps take less than one."""

    def __init__(self) -> None:
        self.measured: list[str] = []

    def measure(self, yaml: str, scale: str) -> Latency:
        self.measured.append(yaml)
        return Latency(10.0 - 2 * yaml.count("DySample") + yaml.count("CARAFE"), 0.1, 9, 160, "here")


def run(study, trials, trainer, observer):
    meter = FakeMeter()
    with study.locked():
        runner = Runner(study, Path("data.yaml"), trainer, observer, meter=meter)
        plan(study, trials)
        found = run_search(study, [runner])
    return found, meter


class Silent:
    def __getattr__(self, name):
        return lambda *_: None


def test_a_search_for_latency(make_study, fake_trainer):
    study = make_study(changes={"objective": "map,latency", "latency_on": "here"})
    trials, meter = run(study, 9, fake_trainer(), Silent())
    assert len(meter.measured) == len(trials) == 9
    assert all(t.latency_ms for t in study.trials())
    rows = rank_trials(trials, 1.0, study.settings.goal)
    assert rows[0].trial.latency_ms == min(t.latency_ms for t in trials)
    assert rows[0].on_front


def test_a_limit_of_latency_is_checked_before_training(make_study, fake_trainer, space):
    trainer = fake_trainer()
    trials, _ = run(make_study(space.with_limits(max_latency_ms=10.5)), 9, trainer, Silent())
    rejected = [t for t in trials if t.status == "rejected"]
    assert rejected
    assert all("ms, over the limit of 10.5" in t.failure for t in rejected)
    assert len(trainer.jobs) == len(trials) - len(rejected)


def test_what_is_over_another_limit_is_not_timed(make_study, fake_trainer, space):
    limited = space.with_limits(max_latency_ms=100.0, max_gflops=9.5)
    trials, meter = run(make_study(limited), 9, fake_trainer(), Silent())
    assert len(meter.measured) == sum(t.status == "done" for t in trials) < len(trials)
