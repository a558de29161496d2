"""From options to a study: what is chosen, what an option changes, and what is refused. Nothing is trained here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import nas.latency
from nas.answer import ANSWER_FILE, SCHEMA, load_answer
from nas.cli import cli
from nas.confirm import Confirm
from nas.errors import NasError, StudyError
from nas.latency import machine
from nas.objective import Goal
from nas.recipe import BANK_FINE_TUNE_LR0, FINE_TUNE_LR0, SCRATCH_LR0, Recipe, digest_of
from nas.scores import EpochScore, Validation
from nas.session import Session, hint_of
from nas.study import Study
from nas.trial import Trial

OPTIONS = {
    "space": "quick", "study": None, "data": None, "trials": None, "epochs": None, "imgsz": None, "batch": None,
    "scale": None, "proxy": None, "init": None, "weights": None, "base_epochs": None, "bank_epochs": None, "amp": None,
    "seed": None, "seeds": None, "confirm": None, "floor": None, "enable": (), "max_gflops": None, "max_params": None,
    "max_latency": None, "min_map": None, "objective": None, "sampler": None, "latency": False, "replay": None,
    "device": None, "storage": None, "workers": None, "rungs": None, "eta": None,
}  # fmt: skip


@pytest.fixture
def begin(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def opened(**options) -> Session:
        given = {**OPTIONS, "data": str(tiny_data), "device": "cpu", **options}
        assert given.keys() == OPTIONS.keys()
        return Session.open(tmp_path / "cache", **given)

    return opened


def recipe_of(session: Session) -> Recipe:
    return session.study.settings.recipe


def finish_a_trial(study: Study) -> None:
    """Keep a study from being begun anew."""
    space = study.settings.space
    curve = (EpochScore(1, 2.0, 0.1, Validation(0.5, 0.3, 1.0)),)
    handle = study.start(Trial(-1, space.variant({}), space.baseline(), "running"))
    handle.end(status="done", gflops=8.0, curve=curve, average=curve[0].validation)


def test_these_are_the_options_of_the_command():
    assert {p.name for p in cli.commands["search"].params} - {"as_json"} == set(OPTIONS)


@pytest.mark.parametrize(
    ("workers", "cores", "changes", "told"),
    [
        (1, 8, {}, "one training at a time, with 8 threads: --workers 8 makes more trials an hour"),
        (2, 8, {}, ""),
        (1, 1, {}, ""),
        (1, 8, {"recipe": Recipe(device="0")}, ""),
        (1, 8, {"latency_on": "this machine"}, ""),  # trainings beside each other would disturb what is timed
    ],
)
def test_who_has_more_cores_is_told_of_workers(begin, workers, cores, changes, told):
    hint = hint_of(replace(begin().study.settings, **changes), workers, cores)
    assert hint.startswith(told)
    assert bool(hint) == bool(told)


def test_a_bank_unless_told_otherwise(begin):
    session = begin()
    recipe, settings = recipe_of(session), session.study.settings
    assert (recipe.init, recipe.start, recipe.epochs, recipe.base_epochs) == ("bank", "near", 4, 40)
    assert (recipe.imgsz, recipe.batch, recipe.device) == (160, 16, "cpu")
    assert (recipe.lr0, recipe.base_lr0, recipe.mosaic, recipe.warmup_bias_lr) == (
        BANK_FINE_TUNE_LR0,
        SCRATCH_LR0,
        0.0,
        0.0,
    )
    assert (settings.score, settings.calibration, settings.error, settings.answer) == ("map_last", "", None, {})
    assert Study.load(session.study.place).settings == settings
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
    assert (session.study.place.name, session.study.place.file) == ("x", tmp_path / "other.db")


def test_a_file_to_inherit_from(begin, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"weights")
    recipe = recipe_of(begin(init="w.pt", epochs=0))
    assert (recipe.init, recipe.init_digest) == (str(tmp_path / "w.pt"), digest_of(str(tmp_path / "w.pt")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0, "init": "scratch"}, "--epochs 0 validates what is inherited; with --init scratch"),
        ({"base_epochs": 0}, "--base-epochs 0 takes the baseline as it is: bring a trained one with --weights"),
        ({"base_epochs": 0, "init": "baseline"}, "--base-epochs 0 takes the baseline as it is"),
        ({"weights": "nowhere.pt"}, "cannot inherit from 'nowhere.pt': expected a .pt file that exists"),
        ({"init": "nowhere"}, "cannot inherit from 'nowhere': expected bank, baseline, scratch, or a .pt file"),
    ],
)
def test_what_says_nothing_is_refused(begin, tmp_path, options, words):
    with pytest.raises(StudyError) as caught:
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


def test_another_sampler_may_go_on_and_is_said(begin):
    finish_a_trial(begin(study="a", sampler="tpe").study)
    assert begin(study="a").study.settings.sampler == "tpe"
    session = begin(study="a", sampler="random")
    assert session.news == "sampler: random from here on, tpe so far; scores do not depend on it"
    assert Study.load(session.study.place).settings.sampler == "random"


def test_another_objective_or_machine_may_not_go_on(begin, monkeypatch):
    finish_a_trial(begin(study="a", latency=True).study)
    with pytest.raises(StudyError, match="objective: map_per_gflop, not map"):
        begin(study="a", objective="map")
    monkeypatch.setattr(nas.latency, "machine", lambda device: "another machine")
    with pytest.raises(StudyError, match=r"latency measured on: .* 1 thread, .*, not another machine"):
        begin(study="a")
    finish_a_trial(begin(study="b").study)
    with pytest.raises(StudyError, match="latency measured on: none, not another machine"):
        begin(study="b", latency=True)


def test_a_refusal_holds_for_a_study_that_is_resumed(begin):
    finish_a_trial(begin(study="a").study)
    with pytest.raises(StudyError, match="bring a trained one"):
        begin(study="a", base_epochs=0)


# --- a calibration's answer -----------------------------------------------------------------------------------------

CALIBRATED = Recipe(
    epochs=2, imgsz=96, batch=8, init="bank", weights="/theirs/w.pt", weights_digest="1", base_epochs=25, start="fresh",
    bank_epochs=5, bank_lr0=0.004, validations=2, lrf=0.05, weight_decay=1e-3, device="7",
)  # fmt: skip


def calibration(**changes) -> dict:
    chosen = {
        "proxy": "bank-2", "score": "map_average", "recipe": CALIBRATED.to_json(), "error": 0.002, "resolution": 0.0036,
        "spread": 0.006, "spearman": 0.8, "spearman_interval": [0.5, 0.9], "variants": 9, "seeds": 3,
    }  # fmt: skip
    made = {"space": {"name": "seeds", "base": "yolov8", "scale": "n"}, "data": "/a.yaml", "fingerprint": "f" * 16}
    return {"schema": SCHEMA, "chosen": {**chosen, **changes}, "calibration": made}


def write(body: object, folder: Path = Path("studies/good.calibration")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ANSWER_FILE
    file.write_text(body if isinstance(body, str) else json.dumps(body))
    return file


def test_the_recipe_and_the_score_of_a_calibration(begin):
    file = write(calibration())
    session = begin(proxy="good")
    recipe, settings = recipe_of(session), session.study.settings
    theirs = replace(CALIBRATED, weights="", weights_digest="", device="cpu")
    for key in (
        "epochs", "imgsz", "batch", "init", "base_epochs", "start", "bank_epochs", "bank_lr0", "validations", "lrf",
        "weight_decay", "weights", "device",
    ):  # fmt: skip
        assert getattr(recipe, key) == getattr(theirs, key), key
    assert (settings.score, settings.error) == ("map_average", 0.002)
    assert settings.answer["spearman_interval"] == [0.5, 0.9]
    assert settings.answer["on"] == "9 variants of seeds on /a.yaml"
    assert Study.load(session.study.place).settings == settings
    for k, text in enumerate((str(file), str(file.parent))):
        assert recipe_of(begin(proxy=text, study=f"again{k}")) == recipe


def test_given_options_win_over_a_calibration(begin):
    write(calibration())
    session = begin(proxy="good", epochs=6, imgsz=64, batch=4, base_epochs=9, bank_epochs=3)
    departures = session.study.settings.answer["departures"]
    assert any(line.endswith("not 6") for line in departures)
    assert any("imgsz" in line for line in departures)
    recipe = recipe_of(session)
    assert (recipe.epochs, recipe.imgsz, recipe.batch, recipe.base_epochs, recipe.bank_epochs) == (6, 64, 4, 9, 3)
    assert (recipe.validations, session.study.settings.score) == (2, "map_average")
    scratch = recipe_of(begin(study="s", proxy="good", init="scratch"))
    assert (scratch.init, scratch.lr0, scratch.warmup_bias_lr) == ("scratch", SCRATCH_LR0, 0.1)


@pytest.mark.parametrize(
    ("given", "expected", "departures"),
    [(None, "bf16", []), ("bf16", "bf16", []), (False, False, ["amp: 'bf16', not False"])],
)
def test_the_precision_of_a_calibration_is_kept_and_another_is_a_departure(begin, given, expected, departures):
    write(calibration(recipe=replace(CALIBRATED, device="cpu", amp="bf16").to_json()))
    session = begin(proxy="good", amp=given)
    assert recipe_of(session).amp == expected
    found = session.study.settings.answer["departures"]
    assert [line for line in found if line.startswith("amp")] == departures


def test_a_calibration_of_a_gpu_in_bfloat16_says_less_of_a_cpu_in_float32(begin):
    write(calibration(recipe=replace(CALIBRATED, amp="bf16").to_json()))
    session = begin(proxy="good")
    assert recipe_of(session).amp is False
    assert "amp: 'bf16', not False" in session.study.settings.answer["departures"]


def test_precision_stays_the_studys(begin):
    assert recipe_of(begin(study="new")).amp is False
    assert recipe_of(begin(study="given", amp="bf16")).amp == "bf16"
    finish_a_trial(begin(study="given").study)
    assert recipe_of(begin(study="given")).amp == "bf16"
    with pytest.raises(StudyError, match="recipe: amp: 'bf16', not False"):
        begin(study="given", amp=False)


def test_a_calibration_that_needs_trained_weights_asks_for_them(begin, tmp_path):
    write(calibration(recipe=replace(CALIBRATED, base_epochs=0).to_json()))
    with pytest.raises(StudyError, match="bring a trained one with --weights"):
        begin(proxy="good")
    (tmp_path / "w.pt").write_bytes(b"weights")
    assert recipe_of(begin(proxy="good", weights="w.pt")).base_epochs == 0


def test_a_calibration_that_is_not_there(begin, tmp_path):
    with pytest.raises(StudyError, match=r"no calibration 'blood': neither .*blood\.calibration.* exists"):
        begin(proxy="blood")
    (tmp_path / "studies" / "blood.calibration").mkdir(parents=True)
    with pytest.raises(StudyError, match="'blood' is not finished: start `nas calibrate` again"):
        begin(proxy="blood")
    assert not list(tmp_path.rglob("*.db"))


def without(key: str, part: str = "chosen") -> dict:
    body = calibration()
    del body[part][key]
    return body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "is no calibration: it is not JSON"),
        ("[]", "is no calibration: "),
        ("{}", "is no calibration: 'schema'"),
        ({**calibration(), "schema": SCHEMA + 1}, "another version of the tool: calibrate again"),
        (without("score"), "is no calibration: 'score'"),
        (without("fingerprint", "calibration"), "is no calibration: 'fingerprint'"),
        (calibration(recipe={"epochz": 3}), "epochz"),
        (calibration(recipe=None), "is no calibration: "),
    ],
)
def test_a_calibration_that_is_none(begin, tmp_path, body, words):
    file = write(body)
    with pytest.raises(StudyError) as caught:
        begin(proxy="good")
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert not list(tmp_path.rglob("*.db"))


def test_an_answer_without_an_interval(begin):
    answer = load_answer(write(calibration(spearman_interval=None)))
    assert answer.spearman_interval is None
    assert json.loads(answer.to_json())["spearman_interval"] is None


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 9}, "recipe: epochs: 4, not 9"),
        ({"init": "scratch"}, "recipe: init: 'bank', not 'scratch'"),
        ({"bank_epochs": 9}, "recipe: bank_epochs: 8, not 9"),
        ({"base_epochs": 9}, "recipe: base_epochs: 40, not 9"),
        ({"weights": "w.pt"}, "recipe: weights: ''"),
        ({"rungs": "2"}, "rungs: none, not 2@160/1, one of 3 going on"),
        ({"seed": 3}, "seed: 0, not 3"),
        ({"proxy": "good"}, "score: map_last, not map_average"),
        ({"proxy": "good"}, "recipe: weight_decay: 0.0005, not 0.001"),
    ],
)
def test_a_study_takes_no_other_settings(begin, tmp_path, options, words):
    (tmp_path / "w.pt").write_bytes(b"weights")
    write(calibration())
    finish_a_trial(begin(study="a").study)
    assert begin(study="a", space=None, trials=3).trials == 3
    with pytest.raises(StudyError, match="scores under different ones cannot be ranked") as caught:
        begin(study="a", **options)
    assert words in str(caught.value)


def test_a_study_without_results_is_begun_anew(begin):
    begin(study="a").study.keep_baseline_training((EpochScore(1, 2.0, 0.1),))
    assert recipe_of(begin(study="a", epochs=9)).epochs == 9


def test_a_space_of_a_file_that_is_gone_is_begun_anew_as_the_study_has_it(begin, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("base: yolov8\nscale: n\nslots:\n  backbone.down_p4: [SPConv]\n", encoding="utf-8")
    study = begin(space=str(file), study="a").study
    study.keep_baseline_training((EpochScore(1, 2.0, 0.1),))
    file.unlink()
    session = begin(space=None, study="a", epochs=9)
    assert recipe_of(session).epochs == 9
    assert session.study.settings.space == study.settings.space
    with pytest.raises(NasError):  # and what cannot be read costs nothing
        begin(space="nowhere.yaml", study="a", epochs=5)
    assert recipe_of(begin(space=None, study="a")).epochs == 9


def test_a_study_on_a_calibration_is_resumed_with_and_without_it(begin):
    write(calibration())
    finish_a_trial(begin(study="a", proxy="good").study)
    for options in ({}, {"proxy": "good"}):
        session = begin(study="a", space=None, **options)
        assert session.study.settings.score == "map_average"
        assert session.study.settings.error == 0.002
    write(calibration(recipe=replace(CALIBRATED, validations=3).to_json()))
    with pytest.raises(StudyError, match="recipe: validations: 2, not 3"):
        begin(study="a", proxy="good")


def test_weights_that_have_moved_are_the_same(begin, tmp_path):
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


def test_what_a_resumed_study_is_asked_for_on_top(begin):
    finish_a_trial(begin(study="a").study)
    session = begin(study="a", space=None)
    assert (session.seeds, session.confirm, session.trials) == (None, None, None)
    session = begin(study="a", space=None, seeds=2, confirm=Confirm(1, 4))
    assert (session.seeds, session.confirm) == (2, Confirm(1, 4))


def test_rungs_stay_the_studys(begin):
    session = begin(study="r", epochs=8, rungs="0, 2@96/0.5", eta=4)
    made = session.study.settings
    assert [rung.fidelity for rung in made.rungs] == ["0@160/1", "2@96/0.5"]
    assert made.eta == 4
    finish_a_trial(session.study)
    assert begin(study="r", space=None, trials=3).study.settings.fidelities == made.fidelities


def test_rungs_that_cannot_be_used_are_refused_before_there_is_a_study(begin, tmp_path):
    with pytest.raises(StudyError, match="trains as much as the study's own recipe"):
        begin(study="r", epochs=8, rungs="9")
    with pytest.raises(StudyError, match="cannot read the rung"):
        begin(study="r", rungs="x")
    with pytest.raises(StudyError, match="--eta 4 says how many go on from a rung: give --rungs"):
        begin(study="r", eta=4)
    finish_a_trial(begin(study="plain").study)
    with pytest.raises(StudyError, match="give --rungs"):
        begin(study="plain", space=None, eta=4)
    assert not list(tmp_path.rglob("r.db"))
