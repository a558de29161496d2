"""From options to a study: what is chosen, what an option changes, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import nas.model.latency
from nas.engines import SEPARATE
from nas.errors import OptionError, StudyError, WeightsError
from nas.model.host import build
from nas.model.latency import machine
from nas.model.render import render
from nas.ranking.rank import ranking_of
from nas.session.options import SearchOptions
from nas.session.search import Session
from nas.session.settings import auto_workers
from nas.solver.latencies import store_latencies
from nas.space.variant import Variant
from nas.study.budget import Confirm
from nas.study.objective import Goal
from nas.study.settings import PER_SEED, SHARED
from nas.study.study import Study
from nas.training.recipe import BANK_FINE_TUNE_LR0, FINE_TUNE_LR0, SCRATCH_LR0, Recipe, digest_of


def recipe_of(session: Session) -> Recipe:
    return session.study.settings.recipe


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, 8), ({"recipe": Recipe(device="0")}, 1), ({"latency_on": "this machine"}, 1)],
)
def test_workers_by_default(begin, monkeypatch, changes, expected):
    """One for each core; parallel trainings would disturb what is timed."""
    monkeypatch.setattr("nas.workers.count.available_cores", lambda: 8)
    monkeypatch.setattr("nas.workers.count.available_memory", lambda: 64e9)
    assert auto_workers(replace(begin().study.settings, **changes)) == expected


def test_a_bank_unless_told_otherwise(begin):
    session = begin()
    recipe, settings = recipe_of(session), session.study.settings
    assert (recipe.init, recipe.start, recipe.epochs, recipe.base_epochs) == ("bank", "near", 4, 40)
    assert (recipe.imgsz, recipe.windows_at, recipe.batch, recipe.device) == (256, 640, 16, "cpu")
    assert (recipe.lr0, recipe.base_lr0, recipe.mosaic, recipe.warmup_bias_lr) == (
        BANK_FINE_TUNE_LR0,
        SCRATCH_LR0,
        0.0,
        0.0,
    )
    assert (settings.score, settings.calibration, settings.error, settings.calibrated) == ("map_last", "", None, {})
    assert Study.load(session.study.location).settings == settings
    assert session.study.target == 7  # the baseline and every swap alone


@pytest.mark.parametrize(
    ("init", "expected"), [("scratch", (8, SCRATCH_LR0, 0.1)), ("baseline", (8, FINE_TUNE_LR0, 0.0))]
)
def test_other_starts_have_other_recipes(begin, init, expected):
    recipe = recipe_of(begin(init=init))
    assert (recipe.init, recipe.epochs, recipe.lr0, recipe.warmup_bias_lr) == (init, *expected)
    assert recipe.mosaic == 1.0


def test_every_option_arrives(begin, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"weights")
    session = begin(
        study="x", trials=5, epochs=3, imgsz=64, batch=4, scale="s", weights="w.pt", base_epochs=0, bank_epochs=2,
        seed=9, floor=0.5, max_gflops=30.0, max_params=2e7, storage=f"sqlite:///{tmp_path / 'other.db'}",
    )  # fmt: skip
    recipe, settings = recipe_of(session), session.study.settings
    assert (recipe.epochs, recipe.imgsz, recipe.batch, recipe.base_epochs, recipe.bank_epochs) == (3, 64, 4, 0, 2)
    assert recipe.weights == str(tmp_path / "w.pt")
    assert recipe.weights_digest == digest_of(recipe.weights) != ""
    assert recipe.base_lr0 == FINE_TUNE_LR0  # the baseline goes on from them
    assert (settings.space.scale, settings.seed, settings.floor, session.study.target) == ("s", 9, 0.5, 5)
    assert dict(settings.space.limits) == {"max_gflops": 30.0, "max_params": 2e7}
    assert (session.study.location.name, session.study.location.file) == ("x", tmp_path / "other.db")


def test_a_file_to_inherit_from(begin, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"weights")
    recipe = recipe_of(begin(init="w.pt", epochs=0))
    assert (recipe.init, recipe.init_digest) == (str(tmp_path / "w.pt"), digest_of(str(tmp_path / "w.pt")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0, "init": "scratch"}, "--epochs 0 only validates inherited weights; with --init scratch"),
        ({"base_epochs": 0}, "--base-epochs 0 uses the baseline without training: give a trained one by --weights"),
        ({"base_epochs": 0, "init": "baseline"}, "--base-epochs 0 uses the baseline without training"),
        ({"weights": "nowhere.pt"}, "cannot inherit from 'nowhere.pt': expected a .pt file that exists"),
        ({"init": "nowhere"}, "cannot inherit from 'nowhere': expected bank, baseline, scratch, or a .pt file"),
    ],
)
def test_what_says_nothing_is_refused(begin, tmp_path, options, words):
    with pytest.raises(OptionError) as caught:
        begin(**options)
    assert words in str(caught.value)
    assert not list(tmp_path.rglob("*.db"))
    assert recipe_of(begin(epochs=0)).epochs == 0  # which a bank is good for
    assert recipe_of(begin(study="s", base_epochs=0, init="scratch")).base_epochs == 0  # which does not matter there


def test_sampler_objective_and_limits(begin):
    settings = begin(sampler="tpe", objective="map,gflops", min_map=0.3, max_latency=20.0).study.settings
    assert (settings.sampler, settings.objective, settings.goal) == ("tpe", "map,gflops", Goal("map,gflops", 0.3))
    assert dict(settings.space.limits) == {"max_latency_ms": 20.0, "min_map": 0.3}
    assert settings.latency_on == machine("cpu")


@pytest.mark.parametrize("options", [{"latency": True}, {"objective": "map,latency"}])
def test_latency_is_measured_where_it_is_asked_for(begin, options):
    assert begin().study.settings.latency_on == ""
    assert begin(study="l", **options).study.settings.latency_on == machine("cpu")


def test_another_sampler_may_go_on_and_is_said(begin, finish_a_trial, run_what_is_left):
    finish_a_trial(begin(study="a", sampler="tpe", trials=1, confirm=Confirm()).study)
    assert begin(study="a").study.settings.sampler == "tpe"
    session = begin(study="a", sampler="random")
    assert Study.load(session.study.location).settings.sampler == "tpe"  # written down by the search, which is alone
    notes = run_what_is_left(session)
    assert notes[0] == "sampler: random from here on, tpe so far; scores do not depend on it"
    assert Study.load(session.study.location).settings.sampler == "random"


def test_a_study_of_a_removed_sampler_resumes_with_the_default_one(begin, finish_a_trial, run_what_is_left):
    made = begin(study="a", trials=1, confirm=Confirm()).study
    made.settings = replace(made.settings, sampler="nsga2")
    made.store_settings()
    finish_a_trial(made)
    stored = Study.load(made.location)
    assert stored.settings.sampler == "nsga2"
    assert len(ranking_of(stored)) == 1
    assert run_what_is_left(begin(study="a"))[0].startswith("sampler: auto from here on, nsga2 so far")
    assert Study.load(made.location).settings.sampler == "auto"


def test_another_objective_or_machine_may_not_go_on(begin, monkeypatch, finish_a_trial):
    finish_a_trial(begin(study="a", latency=True).study)
    with pytest.raises(StudyError, match="objective: map_per_gflop, not map"):
        begin(study="a", objective="map")
    monkeypatch.setattr(nas.model.latency, "machine", lambda device: "another machine")
    with pytest.raises(StudyError, match=r"latency measured on: .* 1 thread, .*, not another machine"):
        begin(study="a")
    finish_a_trial(begin(study="b").study)
    with pytest.raises(StudyError, match="latency measured on: none, not another machine"):
        begin(study="b", latency=True)


def test_latencies_that_are_stored_are_measured_by_no_search(begin, finish_a_trial):
    made = begin(study="a", trials=1, confirm=Confirm()).study
    finish_a_trial(made)
    base = made.settings.space.variant(made.settings.space.baseline()).id
    store_latencies(made, "a board", made.settings.deployed_imgsz, {base: 10.0}, {})
    settings = begin(study="a").study.settings
    assert (settings.latency_on, settings.engine, settings.measures_latency) == ("a board", SEPARATE, False)
    assert auto_workers(settings) == auto_workers(replace(settings, latency_on="", engine=""))
    for options in ({"max_latency": 9.0}, {"budget_latency": "9"}):
        with pytest.raises(OptionError, match=r"a search cannot measure the latencies of this study, .* of a board"):
            begin(study="a", **options)
    with pytest.raises(StudyError, match="latency measured on: a board, not"):
        begin(study="a", latency=True)


def test_a_refusal_holds_for_a_study_that_is_resumed(begin, finish_a_trial):
    finish_a_trial(begin(study="a").study)
    with pytest.raises(OptionError, match="give a trained one"):
        begin(study="a", base_epochs=0)


def test_every_seed_has_a_baseline_unless_told_otherwise(begin, finish_a_trial):
    assert begin().study.settings.baselines == PER_SEED
    finish_a_trial(begin(study="one", baseline_per_seed=False).study)
    assert begin(study="one", space=None).study.settings.baselines == SHARED
    with pytest.raises(StudyError, match="trained baselines: one, not one for each seed"):
        begin(study="one", baseline_per_seed=True)


@pytest.mark.parametrize("options", [{"init": "scratch"}, {"weights": "w.pt", "base_epochs": 0}, {"init": "w.pt"}])
def test_what_is_given_is_one_for_all(begin, tmp_path, options):
    (tmp_path / "w.pt").write_bytes(b"weights")
    assert begin(**options).study.settings.baselines == SHARED


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"init": "scratch"}, "here none is trained: --init scratch"),
        ({"weights": "w.pt", "base_epochs": 0}, "here none is trained: --base-epochs 0 takes it as it is"),
    ],
)
def test_seeds_have_no_baselines_where_none_is_trained(begin, tmp_path, options, why):
    (tmp_path / "w.pt").write_bytes(b"weights")
    with pytest.raises(OptionError, match=why):
        begin(baseline_per_seed=True, **options)


@pytest.mark.parametrize("option", ["weights", "init"])
def test_weights_that_do_not_fit_are_refused_before_a_study_is_created(option, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"space": "quick", "data": str(tiny_data), "device": "cpu", option: "w.pt"}
    (tmp_path / "w.pt").write_bytes(b"weights")
    with pytest.raises(WeightsError, match=rf"--{option} w\.pt cannot be used: .*w\.pt is no checkpoint"):
        Session.open(tmp_path / "cache", SearchOptions(**given))
    torch.save(build(render(Variant("yolov8", "s")).yaml, "s").state_dict(), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"it is of another model or scale; give a \.pt of yolov8n"):
        Session.open(tmp_path / "cache", SearchOptions(**given))
    assert not list(tmp_path.rglob("*.db"))
    assert Session.open(tmp_path / "cache", SearchOptions(**given, scale="s")).study.settings.space.scale == "s"
