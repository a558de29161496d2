"""A search on a calibration's answer: what it takes over, what departs from it, and files that are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nas.calibration.result import RESULT_FILE, RESULT_SCHEMA, load_result
from nas.errors import CalibrationError, OptionError, StudyError
from nas.session.search import Session
from nas.study.budget import Confirm
from nas.study.settings import PER_SEED, SHARED
from nas.study.study import Study
from nas.training.recipe import SCRATCH_LR0, Recipe

CALIBRATED = Recipe(
    epochs=2, imgsz=96, batch=8, init="bank", weights="/theirs/w.pt", weights_digest="1", base_epochs=25, start="fresh",
    bank_epochs=5, bank_lr0=0.004, validations=2, lrf=0.05, weight_decay=1e-3, device="7",
)  # fmt: skip


def recipe_of(session: Session) -> Recipe:
    return session.study.settings.recipe


def calibration(**changes) -> dict:
    chosen = {
        "proxy": "bank-2", "score": "map_average", "recipe": CALIBRATED.to_json(), "error": 0.002, "resolution": 0.0036,
        "spread": 0.006, "spearman": 0.8, "spearman_interval": [0.5, 0.9], "variants": 9, "seeds": 3,
    }  # fmt: skip
    made = {"space": {"name": "seeds", "base": "yolov8", "scale": "n"}, "data": "/a.yaml", "fingerprint": "f" * 16}
    return {"schema": RESULT_SCHEMA, "chosen": {**chosen, **changes}, "calibration": made}


def write(body: object, folder: Path = Path("studies/good.calibration")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RESULT_FILE
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
    assert settings.calibrated["spearman_interval"] == [0.5, 0.9]
    assert settings.calibrated["on"] == "9 variants of seeds on /a.yaml"
    assert Study.load(session.study.location).settings == settings
    for k, text in enumerate((str(file), str(file.parent))):
        assert recipe_of(begin(proxy=text, study=f"again{k}")) == recipe


def test_given_options_win_over_a_calibration(begin):
    write(calibration())
    session = begin(proxy="good", epochs=6, imgsz=64, batch=4, base_epochs=9, bank_epochs=3)
    departures = session.study.settings.calibrated["departures"]
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
    found = session.study.settings.calibrated["departures"]
    assert [line for line in found if line.startswith("amp")] == departures


def test_a_calibration_of_a_gpu_in_bfloat16_says_less_of_a_cpu_in_float32(begin):
    write(calibration(recipe=replace(CALIBRATED, amp="bf16").to_json()))
    session = begin(proxy="good")
    assert recipe_of(session).amp is False
    assert "amp: 'bf16', not False" in session.study.settings.calibrated["departures"]


def test_a_calibration_that_needs_trained_weights_asks_for_them(begin, tmp_path):
    write(calibration(recipe=replace(CALIBRATED, base_epochs=0).to_json()))
    with pytest.raises(OptionError, match="give a trained one by --weights"):
        begin(proxy="good")
    (tmp_path / "w.pt").write_bytes(b"weights")
    assert recipe_of(begin(proxy="good", weights="w.pt")).base_epochs == 0


def test_a_calibration_that_is_not_there(begin, tmp_path):
    with pytest.raises(CalibrationError, match=r"no calibration 'blood': neither .*blood\.calibration.* exists"):
        begin(proxy="blood")
    (tmp_path / "studies" / "blood.calibration").mkdir(parents=True)
    with pytest.raises(CalibrationError, match="'blood' is not finished: resume it with `nas calibrate`"):
        begin(proxy="blood")
    assert not list(tmp_path.rglob("*.db"))


def without(key: str, part: str = "chosen") -> dict:
    body = calibration()
    del body[part][key]
    return body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "is not a calibration: it is not JSON"),
        ("[]", "is not a calibration: "),
        ("{}", "is not a calibration: 'schema'"),
        ({**calibration(), "schema": RESULT_SCHEMA + 1}, "another version of the tool: calibrate again"),
        (without("score"), "is not a calibration: 'score'"),
        (without("fingerprint", "calibration"), "is not a calibration: 'fingerprint'"),
        (calibration(recipe={"epochz": 3}), "epochz"),
        (calibration(recipe=None), "is not a calibration: "),
    ],
)
def test_a_calibration_that_is_none(begin, tmp_path, body, words):
    file = write(body)
    with pytest.raises(CalibrationError) as caught:
        begin(proxy="good")
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert not list(tmp_path.rglob("*.db"))


def test_an_answer_without_an_interval(begin):
    calibrated = load_result(write(calibration(spearman_interval=None)))
    assert calibrated.spearman_interval is None
    assert json.loads(calibrated.to_json())["spearman_interval"] is None


def test_a_study_on_a_calibration_is_resumed_with_and_without_it(begin, finish_a_trial):
    write(calibration())
    finish_a_trial(begin(study="a", proxy="good").study)
    for options in ({}, {"proxy": "good"}):
        session = begin(study="a", space=None, **options)
        assert session.study.settings.score == "map_average"
        assert session.study.settings.error == 0.002
    write(calibration(recipe=replace(CALIBRATED, validations=3).to_json()))
    with pytest.raises(StudyError, match="recipe: validations: 2, not 3"):
        begin(study="a", proxy="good")


@pytest.mark.parametrize("words", ["score: map_last, not map_average", "recipe: weight_decay: 0.0005, not 0.001"])
def test_a_study_without_a_calibration_takes_none_later(begin, words, finish_a_trial):
    write(calibration())
    finish_a_trial(begin(study="a").study)
    with pytest.raises(StudyError, match="scores under different ones cannot be ranked") as caught:
        begin(study="a", proxy="good")
    assert words in str(caught.value)


def test_a_calibrated_proxy_that_inherits_nothing_has_no_baselines(begin):
    """Those that it was compared with had one for each seed; that says nothing of this one's error."""
    body = calibration(recipe=replace(CALIBRATED, init="scratch").to_json())
    body["calibration"]["baselines"] = PER_SEED
    write(body)
    settings = begin(study="a", proxy="good").study.settings
    assert (settings.baselines, settings.error) == (SHARED, 0.002)


@pytest.mark.parametrize(("measured", "other"), [(SHARED, PER_SEED), (PER_SEED, SHARED)])
def test_a_study_has_as_many_trained_baselines_as_its_calibration(begin, measured, other):
    """Unless it is told otherwise: then what the calibration says of the error does not hold."""
    body = calibration()
    if measured == PER_SEED:  # those that do not say had one
        body["calibration"]["baselines"] = PER_SEED
    write(body)
    settings = begin(study="a", proxy="good").study.settings
    assert (settings.baselines, settings.error) == (measured, 0.002)
    assert not any("baselines" in line for line in settings.calibrated["departures"])
    assert begin(study="b", proxy="good", baseline_per_seed=measured == PER_SEED).study.settings.error == 0.002
    settings = begin(study="c", proxy="good", baseline_per_seed=other == PER_SEED).study.settings
    assert settings.calibrated["departures"][-1] == f"trained baselines: {measured}, not {other}"
    assert (settings.baselines, settings.prior, settings.error) == (other, None, None)


def test_a_calibration_that_was_extended_holds_for_everyone(begin, finish_a_trial, run_what_is_left):
    write(calibration())
    finish_a_trial(begin(study="a", proxy="good", trials=1, confirm=Confirm()).study)
    assert begin(study="a", proxy="good").news == ""
    write(calibration(error=0.004))
    session = begin(study="a", proxy="good")
    assert Study.load(session.study.location).settings.error == 0.002
    assert "calibration: intervals and verdicts now use its error" in run_what_is_left(session)[0]
    assert Study.load(session.study.location).settings.error == 0.004
    assert begin(study="a").study.settings.error == 0.004
