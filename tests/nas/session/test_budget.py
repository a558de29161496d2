"""A budget: what it chooses by the pace of the machine, what it leaves alone, and what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nas.data.fidelity import Fidelity
from nas.errors import OptionError, ProxyFailure
from nas.session import search as session_search
from nas.session.budget import FEW, Pace, further_trials, plan_new
from nas.session.options import SearchOptions
from nas.session.probe import measure_pace
from nas.session.search import DEFAULT_CONFIRM, Session
from nas.session.settings import new_settings
from nas.space.space_file import load_space
from nas.study.budget import Confirm
from nas.training.jobs import ProxyResult
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation

WANTED = 30


@pytest.fixture
def settings(tiny_data, tmp_path, monkeypatch):
    """Return the settings of a study of the space seeds, with as many images as given."""
    monkeypatch.chdir(tmp_path)

    def make(images=(300, 100), **given):
        options = SearchOptions(data=str(tiny_data), device="cpu", **given)
        found, _ = new_settings(load_space("seeds"), options)
        return replace(found, images=images), options

    return make


def planned(made, minutes, *, pace=0.02, confirm=DEFAULT_CONFIRM, images=((),), by=None):
    found, options = made
    options = replace(options, budget=minutes, workers=options.workers or 2)
    return plan_new(found, images, options, confirm, WANTED, by or (lambda fidelity: Pace(pace, pace / 4)))


def seconds(plan) -> float:
    return sum(plan.parts.values())


def test_more_time_buys_more(settings):
    """Confirmation and epochs first, what is left goes into trials; nothing takes longer than the budget."""
    made = settings()
    plans = [planned(made, minutes) for minutes in (60, 90, 150, 300, 3000)]
    for minutes, plan in zip((60, 90, 150, 300, 3000), plans, strict=True):
        assert seconds(plan) <= 60 * minutes
    choices = [plan.choice for plan in plans]
    assert [c.trials for c in choices] == sorted(c.trials for c in choices)
    assert [c.epochs for c in choices] == sorted(c.epochs for c in choices)
    assert [c.longest for c in choices] == sorted(c.longest for c in choices)
    assert (choices[-1].epochs, choices[-1].confirm, choices[-1].base_epochs) == (4, DEFAULT_CONFIRM, None)
    assert choices[-1].trials > WANTED


def test_a_twice_as_fast_machine_does_the_same_in_half_the_time(settings):
    """Up to the fixed seconds of each training."""
    made = settings(images=(30_000, 3_000))
    slow, fast = planned(made, 6000, pace=0.02), planned(made, 3000, pace=0.01)
    assert (slow.choice.epochs, slow.choice.base_epochs) == (fast.choice.epochs, fast.choice.base_epochs)
    assert slow.choice.trials == pytest.approx(fast.choice.trials, rel=0.05)


def test_the_parts_are_those_of_the_study(settings):
    made = settings(base_epochs=10, bank_epochs=2, seeds=1, epochs=4, trials=10)
    plan = planned(made, 1000, pace=0.1, confirm=Confirm(3, 3))
    image, val = 0.1 * 300, 0.025 * 100
    run = 2.0 + 4 * image + 3 * val + 128 * 0.1 / 3
    assert plan.parts["trials"] == pytest.approx(5 * run)  # 10 trials, two at a time
    assert plan.parts["confirmation"] == pytest.approx(4 * run)  # 3 variants and the baseline, two further seeds
    assert plan.parts["baseline"] == pytest.approx(2 * (10 * image + 3 * val))  # three seeds, two at a time
    one = planned(settings(base_epochs=10, bank_epochs=2, epochs=4, trials=10, baseline_per_seed=False), 1000, pace=0.1)
    assert one.parts["baseline"] == pytest.approx(10 * image + 3 * val)
    scratch = planned(settings(init="scratch", epochs=4, trials=10), 1000, pace=0.1)
    assert scratch.parts.keys() == {"trials", "confirmation"}


def test_what_is_given_is_not_changed(settings):
    made = settings(window=256, epochs=2, trials=17, confirm=Confirm(2, 2), base_epochs=5)
    plan = planned(made, 10_000, confirm=Confirm(2, 2))
    c = plan.choice
    assert (c.fidelity, c.epochs, c.trials, c.confirm) == (Fidelity(256, 640), 2, 17, Confirm(2, 2))
    applied = plan.apply(made[1])
    assert applied == made[1]
    with pytest.raises(OptionError, match="--budget chooses one proxy for all trials, and --rungs names several"):
        planned(settings(rungs="0"), 100)


def test_the_least_is_few_trials_without_training_and_confirmation(settings):
    made = settings()
    with pytest.raises(OptionError) as caught:
        planned(made, 1)
    text = str(caught.value)
    assert text.startswith(f"--budget 1 is too short here: {FEW} trials of 0 epochs on ")
    least = int(text.split("give --budget ")[1].split()[0])
    plan = planned(made, least)
    assert (plan.choice.epochs, plan.choice.confirm, plan.choice.longest) == (0, Confirm(), 20)
    assert plan.choice.trials >= FEW
    with pytest.raises(OptionError, match="is too short here"):
        planned(made, least - 1)


def test_on_a_gpu_the_target_s_size_comes_before_the_cheapest_that_does(settings, monkeypatch):
    found, options = settings()
    gpu = replace(found, recipe=replace(found.recipe, device="0", imgsz=640, windows_at=0))
    monkeypatch.setattr("nas.session.budget.choose_fidelity", lambda images, target: Fidelity(256, 640))
    paces = {640: 0.02, 256: 0.002}

    def by(fidelity):
        return Pace(paces[fidelity.imgsz], paces[fidelity.imgsz] / 4)

    made = gpu, replace(options, workers=1)
    assert planned(made, 2000, by=by).choice.fidelity == Fidelity(640)
    short = planned(made, 15, by=by)
    assert short.choice.fidelity == Fidelity(256, 640)
    assert short.apply(made[1]).window == 256
    full = planned(made, 2000, by=lambda f: by(f) if f.windows_at else None)  # 640 px do not fit into memory
    assert full.choice.fidelity == Fidelity(256, 640)
    with pytest.raises(OptionError, match="the timed probe ran out of memory: give a smaller --batch or --imgsz"):
        planned(made, 2000, by=lambda f: None)


def test_a_new_study_says_its_plan_first_and_is_stored_with_it(begin, run_what_is_left, monkeypatch, finish_a_trial):
    monkeypatch.setattr(session_search, "measure_pace", lambda *given: Pace(0.001, 0.0003))
    session = begin(budget=30)
    study = session.study
    recipe = study.settings.recipe
    assert session.planned.startswith("budget of 30 min: proxies windows of 256 px at 640 px, 4 epochs; ")
    assert (recipe.imgsz, recipe.windows_at, recipe.epochs) == (256, 640, 4)
    assert f"; {study.target} trials; confirmation 3:3. Estimate: " in session.planned
    assert "1 ms a training image" in session.planned
    lines = []
    monkeypatch.setattr(session_search.searching, "is_finished", lambda *given: True)
    session.run(SimpleNamespace(note=lines.append), [])
    assert lines[0] == session.planned
    again = begin(budget=30)  # the same command once more finishes what was planned
    assert again.trials is None
    assert "first finishes its request" in again.planned
    assert again.study.settings == study.settings


def test_further_trials_of_a_study_are_as_many_as_fit(begin, finish_a_trial, monkeypatch):
    study = begin(trials=1, confirm=Confirm()).study
    finish_a_trial(study)
    each, runs = 45.0, [replace(t, seconds=45.0) for t in study.runs()]
    monkeypatch.setattr(type(study), "runs", lambda self: runs)
    count, words = further_trials(study, 10 * each / 60, 1)
    assert (count, "10 further trials" in words) == (10, True)
    assert further_trials(study, 10 * each / 60, 2)[0] == 20
    with pytest.raises(OptionError, match="is too short for a further trial of the study 'quick'"):
        further_trials(study, each / 120, 1)
    with pytest.raises(OptionError, match="both limit the study: give one"):
        begin(budget=10, trials=3)


class Timer:
    """Answers a probe with given seconds of its epochs."""

    def __init__(self, *epochs: float, failure: ProxyFailure | None = None) -> None:
        self.epochs, self.failure, self.jobs = epochs, failure, []

    def run(self, job, on_epoch=None):
        self.jobs.append(job)
        if self.failure:
            raise self.failure
        curve = tuple(EpochScore(k, 1.0, s, Validation(0.0, 0.0, 1.0)) for k, s in enumerate(self.epochs, 1))
        return ProxyResult(curve, None, (0, 0), 1.0, 1.0)


def test_a_probe_times_a_few_images_at_the_fidelity(tiny_data, settings, monkeypatch):
    _, options = settings(batch=4)
    found, dataset = new_settings(load_space("seeds"), options)
    timer = Timer(9.0, 0.8, 1.4)
    pace = measure_pace(timer, found, dataset, Fidelity(96, 320))
    assert (pace.train, pace.val) == (pytest.approx(0.1), pytest.approx(0.15))  # of 8 and 4 images
    (job,) = timer.jobs
    assert (job.recipe.imgsz, job.recipe.windows_at, job.recipe.epochs, job.recipe.init) == (96, 320, 3, "scratch")
    assert job.data_key != dataset.fingerprint
    quick = measure_pace(Timer(9.0, 0.8, 0.7), found, dataset, Fidelity(96))
    assert quick.val == pytest.approx(0.02)
    assert (
        measure_pace(Timer(failure=ProxyFailure("memory", "x", out_of_memory=True)), found, dataset, Fidelity(96))
        is None
    )
    with pytest.raises(OptionError, match="--budget: the timed probe failed: it diverged"):
        measure_pace(Timer(failure=ProxyFailure("nan", "it diverged")), found, dataset, Fidelity(96))


def test_a_probe_in_earnest(begin):
    """A training process times the tiny data; the plan that follows fits, and the study has it."""
    session = begin(space="quick", budget=60, imgsz=32, batch=8, base_epochs=1, workers=1)
    assert isinstance(session, Session)
    assert isinstance(session.study.settings.recipe, Recipe)
    assert " ms a training image" in session.planned
    assert session.study.target > 1


@pytest.mark.parametrize("minutes", [math.inf, math.nan, -1.0])
def test_a_budget_is_a_finite_time(tmp_path, minutes):
    with pytest.raises(OptionError, match="expected minutes, a finite number above 0"):
        Session.open(tmp_path, SearchOptions(budget=minutes))
