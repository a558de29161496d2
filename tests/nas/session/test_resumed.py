"""A study that goes on: what stays, what may be asked for on top, and what is refused."""

from __future__ import annotations

import pytest

from nas.errors import LockError, NasError, OptionError, StudyError
from nas.session.search import Session
from nas.study.budget import Confirm
from nas.study.settings import PER_SEED, SHARED
from nas.study.study import Study
from nas.training.recipe import SCRATCH_LR0, Recipe
from nas.training.scores import EpochScore


def recipe_of(session: Session) -> Recipe:
    return session.study.settings.recipe


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 9}, "recipe: epochs: 4, not 9"),
        ({"init": "scratch"}, "recipe: init: 'bank', not 'scratch'"),
        ({"bank_epochs": 9}, "recipe: bank_epochs: 8, not 9"),
        ({"base_epochs": 9}, "recipe: base_epochs: 40, not 9"),
        ({"weights": "w.pt"}, "recipe: weights: ''"),
        ({"rungs": "2"}, "rungs: none, not 2@256/640/1, keep 1/3"),
        ({"seed": 3}, "seed: 0, not 3"),
    ],
)
def test_a_study_takes_no_other_settings(begin, tmp_path, options, words, finish_a_trial):
    (tmp_path / "w.pt").write_bytes(b"weights")
    finish_a_trial(begin(study="a").study)
    assert begin(study="a", space=None, trials=3).trials == 3
    with pytest.raises(StudyError, match="scores under different ones cannot be ranked") as caught:
        begin(study="a", **options)
    assert words in str(caught.value)


def test_a_study_without_results_is_begun_anew(begin):
    begin(study="a").study.store_baseline_training((EpochScore(1, 2.0, 0.1),))
    assert recipe_of(begin(study="a", epochs=9)).epochs == 9


def test_a_space_of_a_file_that_is_gone_is_begun_anew_as_the_study_has_it(begin, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("base: yolov8\nscale: n\nslots:\n  backbone.down_p4: [SPConv]\n", encoding="utf-8")
    study = begin(space=str(file), study="a").study
    study.store_baseline_training((EpochScore(1, 2.0, 0.1),))
    file.unlink()
    session = begin(space=None, study="a", epochs=9)
    assert recipe_of(session).epochs == 9
    assert session.study.settings.space == study.settings.space
    with pytest.raises(NasError):  # and what cannot be read costs nothing
        begin(space="nowhere.yaml", study="a", epochs=5)
    assert recipe_of(begin(space=None, study="a")).epochs == 9


def test_weights_that_have_moved_are_the_same(begin, tmp_path, finish_a_trial):
    (tmp_path / "w.pt").write_bytes(b"weights")
    finish_a_trial(begin(study="a", weights="w.pt").study)
    (tmp_path / "w.pt").rename(tmp_path / "v.pt")
    assert recipe_of(begin(study="a", weights="v.pt")).weights == str(tmp_path / "v.pt")
    (tmp_path / "v.pt").write_bytes(b"others")
    with pytest.raises(StudyError, match="weights_digest"):
        begin(study="a", weights="v.pt")


def test_a_new_study_confirms_its_first_three(begin):
    study = begin().study
    assert (study.seeds, study.confirm) == (1, Confirm(3, 3))
    study = begin(study="a", seeds=2, confirm=Confirm(5, 4)).study
    assert (study.seeds, study.confirm) == (2, Confirm(5, 4))
    assert begin(study="b", confirm=Confirm()).study.confirm == Confirm()


def test_what_a_resumed_study_is_asked_for_on_top(begin, finish_a_trial):
    finish_a_trial(begin(study="a").study)
    session = begin(study="a", space=None)
    assert (session.seeds, session.confirm, session.trials) == (None, None, None)
    session = begin(study="a", space=None, seeds=2, confirm=Confirm(1, 4))
    assert (session.seeds, session.confirm) == (2, Confirm(1, 4))


def test_rungs_stay_the_studys(begin, finish_a_trial):
    session = begin(study="r", epochs=8, rungs="0, 2@96/0.5", eta=4)
    made = session.study.settings
    assert [rung.fidelity for rung in made.rungs] == ["0@256/640/1", "2@96/0.5"]
    assert made.eta == 4
    finish_a_trial(session.study)
    assert begin(study="r", space=None, trials=3).study.settings.fidelities == made.fidelities


def test_rungs_that_cannot_be_used_are_refused_before_there_is_a_study(begin, tmp_path, finish_a_trial):
    with pytest.raises(OptionError, match="trains as much as the study's own recipe"):
        begin(study="r", epochs=8, rungs="9")
    with pytest.raises(OptionError, match="cannot read the rung"):
        begin(study="r", rungs="x")
    with pytest.raises(OptionError, match="--eta 4 is the halving factor of rungs: give --rungs"):
        begin(study="r", eta=4)
    finish_a_trial(begin(study="plain").study)
    with pytest.raises(OptionError, match="give --rungs"):
        begin(study="plain", space=None, eta=4)
    assert not list(tmp_path.rglob("r.db"))


def test_precision_stays_the_studys(begin, finish_a_trial):
    assert recipe_of(begin(study="new")).amp is False
    assert recipe_of(begin(study="given", amp="bf16")).amp == "bf16"
    finish_a_trial(begin(study="given").study)
    assert recipe_of(begin(study="given")).amp == "bf16"
    with pytest.raises(StudyError, match="recipe: amp: 'bf16', not False"):
        begin(study="given", amp=False)


def barren(study) -> None:
    """Let a study have begun, and come to nothing."""
    study.store_baseline_training((EpochScore(1, 2.0, 0.1),))


def test_what_is_begun_anew_stays_as_it_was_but_for_what_is_given(begin, tiny_data):
    given = {"imgsz": 64, "objective": "map", "floor": 0.05, "seed": 3, "trials": 5, "sampler": "random", "epochs": 6}
    barren(begin(study="a", **given, seeds=2, confirm=Confirm(2, 4)).study)
    session = begin(study="a", space=None, data=None, batch=4)
    study, settings, recipe = session.study, session.study.settings, recipe_of(session)
    assert settings.data == str(tiny_data.resolve())
    assert (recipe.imgsz, recipe.epochs, recipe.batch) == (64, 6, 4)
    assert (settings.objective, settings.floor, settings.seed, settings.sampler) == ("map", 0.05, 3, "random")
    assert (study.target, study.seeds, study.confirm) == (5, 2, Confirm(2, 4))
    assert not study.baseline_training
    assert session.news == "the study 'a' had no results and is created again; before:\n  recipe: batch: 16, not 4"
    barren(study)
    assert recipe_of(begin(study="a", space=None, data=None, trials=9, init="scratch")).batch == 4  # and once more
    assert Study.load(study.location).target == 9


def test_another_start_brings_what_goes_with_it(begin):
    barren(begin(study="a", imgsz=64).study)
    session = begin(study="a", space=None, data=None, init="scratch")
    recipe = recipe_of(session)
    assert (recipe.init, recipe.epochs, recipe.lr0, recipe.imgsz) == ("scratch", 8, SCRATCH_LR0, 64)
    assert "recipe: epochs: 4, not 8" in session.news


def test_weights_alone_bring_no_other_start(begin, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"weights")
    barren(begin(study="a", init="baseline", epochs=6).study)
    recipe = recipe_of(begin(study="a", space=None, data=None, weights="w.pt"))
    assert (recipe.init, recipe.epochs, recipe.weights) == ("baseline", 6, str(tmp_path / "w.pt"))


def test_the_demo_s_recipe_does_not_go_with_other_data(begin, tiny_data):
    barren(begin(study="a", data=None).study)
    session = begin(study="a", space=None)
    assert session.study.settings.data == str(tiny_data.resolve())
    assert recipe_of(session) == recipe_of(begin(study="b"))


def test_what_is_given_later_is_judged_with_what_goes_with_it(begin):
    """A rung of two epochs is none for the demo's recipe, which has two; that of other data has four."""
    barren(begin(study="a", data=None).study)
    assert begin(study="a", space=None, rungs="2").study.settings.fidelities == ("2@256/640/1", "")
    with pytest.raises(OptionError, match="trains as much as the study's own recipe"):
        begin(study="a", space=None, epochs=2)
    assert begin(study="a", space=None).news == ""  # and is refused as for a new study, which changes nothing


def test_a_space_of_its_own_is_begun_anew_with_its_limits(begin):
    barren(begin(study="a", space="seeds", enable=("backbone.down_p2",), max_gflops=9.0).study)
    settings = begin(study="a", space=None, data=None, epochs=6).study.settings
    assert dict(settings.space.limits) == {"max_gflops": 9.0}
    assert "backbone.down_p2" in {slot.key for slot in settings.space.active}


def test_another_space_is_begun_anew_without_what_was_said_of_the_first(begin):
    barren(begin(study="a", space="seeds", enable=("backbone.down_p2",), max_gflops=9.0, epochs=6).study)
    session = begin(study="a", space="quick", data=None)
    assert session.study.settings.space.limits == ()
    assert recipe_of(session).epochs == 6


def test_an_older_study_that_is_begun_anew_stays_as_it_was(begin, monkeypatch):
    """It does not say by which options it was begun."""
    barren(begin(study="a", init="scratch", epochs=9, seed=3, trials=7).study)
    monkeypatch.setattr(Study, "options", None)
    session = begin(study="a", space=None, data=None)
    assert session.news == ""
    session = begin(study="a", space=None, data=None, imgsz=64)
    recipe, study = recipe_of(session), session.study
    assert (recipe.init, recipe.epochs, recipe.imgsz, study.settings.seed, study.target) == ("scratch", 9, 64, 3, 7)


def test_what_was_asked_for_can_be_taken_back(begin):
    barren(begin(study="a", baseline_per_seed=True).study)
    assert begin(study="a", space=None).study.settings.baselines == PER_SEED
    assert begin(study="a", space=None, baseline_per_seed=False, init="scratch").study.settings.baselines == SHARED


def test_nothing_is_begun_anew_under_a_search_that_works(begin):
    session = begin(study="a")
    barren(session.study)
    with session.study.locked(), pytest.raises(LockError, match="another search works on the study 'a'"):
        begin(study="a", epochs=6)
    assert recipe_of(begin(study="a")).epochs == 4
