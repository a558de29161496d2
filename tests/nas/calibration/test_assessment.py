"""The answer of a calibration whose truth is known, and its way through files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nas.calibration import report as calibration_report
from nas.calibration.assessment import OVER_CONTROL, RANKABLE, assess, reference_of
from nas.calibration.calibrator import control_of
from nas.calibration.result import RESULT_FILE, load_result
from nas.errors import CalibrationError, OutputError, ProxyFailure
from nas.report.calibration_table import calibration_table, next_steps
from nas.space.choice import parse_choice
from nas.training.scores import SCORES


@pytest.fixture
def judged(calibrator):
    made = calibrator()
    made.run()
    return made, assess(made)


def truth(fake, variants) -> np.ndarray:
    """Return what each variant is worth, by the formula."""
    return np.array([0.02 * sum(fake.EFFECTS[m] for m in v.modules) for v in variants])


def test_the_proxy_that_knows_the_order_is_chosen(judged, fake_worker):
    made, calibrated = judged
    effects = truth(fake_worker, calibrated.variants)
    assert np.ptp(effects) > 0.05
    assert calibrated.chosen.proxy == "bank-0"
    assert calibrated.chosen.score in RANKABLE
    assert calibrated.recipe == dict(made.calibration.proxies)["bank-0"]
    assert calibrated.full == pytest.approx(0.4 + effects[:, None] + np.array([[0.0, 0.01]]), abs=0.003)
    assert calibrated.ceiling.spearman > 0.9
    assert calibrated.attainable > 0.99
    assert "adequate" in calibrated.reason
    by_name = {(m.proxy, m.score): m for m in calibrated.merits}
    assert by_name["bank-0", "map" + OVER_CONTROL].agreement.spearman > 0.9
    assert by_name["bank-0", "map"].merit.ratio > 10 > by_name["scratch-2", "map"].merit.ratio
    assert by_name["bank-0", "map"].merit.error < 0.002
    assert by_name["bank-0", "map"].minutes == pytest.approx(0.1)
    assert by_name["bank-0", "map"].once_minutes == pytest.approx((6.0 * 21 + 60.0) / 60)
    assert by_name["scratch-2", "map"].once_minutes == 0
    assert calibrated.full_minutes == pytest.approx(6.0 * 21 / 60)


def test_every_score_of_every_proxy_is_judged(judged):
    _, calibrated = judged
    untrained = ("map", "val_loss", "train_loss")  # of the others each is one of these
    assert {(m.proxy, m.score) for m in calibrated.merits} == {
        *(("scratch-2", score) for score in SCORES),
        *(("bank-0", score + over) for score in untrained for over in ("", OVER_CONTROL)),
    }


def test_a_variant_is_compared_with_its_own_control(judged, fake_worker):
    """Each layer from the bank costs 0.01; the control costs the same for the layers that can be distilled anew."""
    made, calibrated = judged
    tables = calibrated.tables["bank-0"]
    effects = truth(fake_worker, calibrated.variants)
    for i, variant in enumerate(calibrated.variants):
        layers, controlled = len(variant.swaps), len(control_of(made.calibration, variant))
        plain = tables["map"][i] - tables["map"][0]
        over = tables["map" + OVER_CONTROL][i] - tables["map" + OVER_CONTROL][0]
        assert plain == pytest.approx(effects[i] - 0.01 * layers, abs=0.003)
        assert over == pytest.approx(effects[i] - 0.01 * (layers - controlled), abs=0.006)
    assert np.array_equal(tables["map" + OVER_CONTROL][0], tables["map"][0])


def test_what_failed_is_left_out_and_counted(calibrator, fake_worker):
    fake_worker.fails = {"SPConv": ProxyFailure("nan", "it diverged")}
    made = calibrator()
    made.run()
    calibrated = assess(made)
    hit = [i for i, v in enumerate(calibrated.variants) if "SPConv" in v.modules]
    assert hit
    assert np.isnan(calibrated.full[hit]).all()
    assert np.isnan(calibrated.full).sum() == 2 * len(hit)
    (found,) = (m for m in calibrated.merits if (m.proxy, m.score) == ("bank-0", "map"))
    assert found.failures == 3 * len(hit)
    assert found.merit.variants == len(calibrated.variants) - len(hit)
    assert calibrated.chosen.proxy == "bank-0"
    files = calibration_report.write_report(calibrated, made.folder)
    assert load_result(files[0]).proxy == "bank-0"
    row = next(line for line in files[1].read_text().splitlines() if calibrated.variants[hit[0]].describe() in line)
    assert row.endswith("| – – | – | – | – |")
    json.loads(files[0].read_text(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


def test_too_little_to_judge(calibrator, fake_worker):
    made = calibrator(variants=3)
    made.run()
    lines = made.file.path.read_text().splitlines(keepends=True)
    made.file.path.write_text("".join(lines[:4]))
    with pytest.raises(CalibrationError, match="the runs of bank-0 cannot be assessed: at least 3 variants"):
        assess(made)


def test_one_seed_of_full_training_does_not_know_itself(calibrator):
    made = calibrator(full_seeds=1)
    made.run()
    calibrated = assess(made)
    assert (calibrated.ceiling, calibrated.attainable, calibrated.full_merit) == (None, None, None)
    files = calibration_report.write_report(calibrated, made.folder)
    assert "so its agreement with itself is unknown" in "\n".join(next_steps(calibrated, made.folder, files))


def test_the_answer_survives_its_file(judged):
    made, calibrated = judged
    path, tables, picture = calibration_report.write_report(calibrated, made.folder)
    assert [p.name for p in (path, tables, picture)] == [RESULT_FILE, "calibration.md", "calibration.svg"]
    assert picture.read_text(encoding="utf-8").startswith("<svg ")
    kept = load_result(path)
    chosen = calibrated.chosen
    assert (kept.proxy, kept.score, kept.recipe) == (chosen.proxy, chosen.score, calibrated.recipe)
    assert kept.error == chosen.merit.error
    assert kept.resolution == chosen.merit.resolution()
    assert kept.spread == chosen.merit.spread
    assert kept.spearman == chosen.agreement.spearman
    assert kept.spearman_interval == chosen.agreement.spearman_interval
    assert (kept.fingerprint, kept.base) == ("f" * 16, "yolov8n")
    assert kept.on == "7 variants of quick on the demo data"


def test_the_tables_hold_everything(judged):
    made, calibrated = judged
    text = calibration_report.to_markdown(calibrated)
    assert calibrated.reason in text
    for variant in calibrated.variants:
        assert f"| {variant.describe()} |" in text
    for m in calibrated.merits:
        assert f"| {m.proxy} | {m.score} |" in text
    assert "neck.down_n5: 0.0000 (cannot matter here)" in text
    assert "| neck.down_n4=SPConv | 0.250 |" in text
    assert "nan" not in text
    lines = next_steps(calibrated, made.folder, ())
    assert lines[0] == "No swap can matter on these data in: neck.down_n5."
    assert lines[-1] == "Next:  nas search quick --proxy quick"
    assert calibration_table(calibrated).row_count == 2


def test_a_place_that_cannot_be_written(judged):
    made, calibrated = judged
    (made.folder / "calibration.md").mkdir()
    with pytest.raises(OutputError, match="cannot write to"):
        calibration_report.write_report(calibrated, made.folder)
    assert not (made.folder / RESULT_FILE).exists()  # it comes last: where it is, everything is


def broken(body: dict, how: str) -> str:
    if how == "schema":
        body["schema"] = 99
    elif how == "chosen":
        del body["chosen"]["recipe"]
    elif how == "recipe":
        body["chosen"]["recipe"]["colour"] = "red"
    return {"text": "no JSON", "list": "[1]", "empty": "{}"}.get(how) or json.dumps(body)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("text", "is not a calibration: it is not JSON"),
        ("list", "is not a calibration"),
        ("empty", "is not a calibration: 'schema'"),
        ("schema", "was written by another version of the tool: calibrate again"),
        ("chosen", "is not a calibration: 'recipe'"),
        ("recipe", "is not a calibration: .*colour"),
    ],
)
def test_a_file_that_is_no_answer(judged, tmp_path, how, message):
    path = tmp_path / "answer.json"
    path.write_text(broken(judged[1].to_json(), how))
    with pytest.raises(CalibrationError, match=message):
        load_result(path)


def test_an_answer_that_is_not_there(tmp_path):
    with pytest.raises(CalibrationError, match=r"cannot read the calibration .*none.json: No such file"):
        load_result(tmp_path / "none.json")


def test_effects_of_the_fake_are_of_modules_that_exist(calibrator, fake_worker):
    labels = {label for v in calibrator().calibration.tested for _, label in v.swaps}
    assert {parse_choice(label).module for label in labels} <= fake_worker.EFFECTS.keys()


def test_full_training_is_judged_by_what_agrees_with_itself():
    """mAP first; the loss only where mAP cannot repeat its own order and the loss can."""
    order = np.linspace(0.0, 1.0, 8)[:, None]
    agrees = order + np.array([[0.0, 0.1]])
    disagrees = np.hstack([order, order[::-1]])
    assert reference_of({"map_average": agrees, "val_loss": agrees}) == "map_average"
    assert reference_of({"map_average": disagrees, "val_loss": agrees}) == "val_loss"
    assert reference_of({"map_average": disagrees, "val_loss": disagrees}) == "map_average"
    assert reference_of({"map_average": order, "val_loss": order}) == "map_average"  # one seed says nothing of itself
