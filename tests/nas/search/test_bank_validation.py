"""The bank of a study, validated on the trained baseline, and its table."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from dataclasses import replace

import pytest
from rich.console import Console

import nas.search.bank_validation
from nas.bank.jobs import CONTROL, Candidate, Distilled
from nas.errors import StudyError
from nas.report.bank_table import bank_notes, bank_table
from nas.search.bank_validation import BankValidation, validate_bank
from nas.study.location import locate
from nas.study.settings import Settings
from nas.study.study import Study

FAILED = ("neck.up_p3", "CARAFE")


@pytest.fixture(scope="module")
def study(taught, bank, tmp_path_factory):
    """Return a study beside the bank of its space, of which one candidate is marked as failed."""
    folder = tmp_path_factory.mktemp("studies")
    settings = Settings(
        space=taught.weights.space,
        recipe=taught.recipe_of_bank,
        data=str(taught.yaml),
        fingerprint=taught.fingerprint,
        classes=("square", "disc"),
        images=(64, 32),
        seed=0,
        floor=0.02,
        versions=taught.weights.versions,
    )
    made = Study.create(locate("s", f"sqlite:///{folder / 's.db'}"), settings, 0)
    shutil.copytree(bank.folder.parent, made.location.weights)
    index = made.location.weights / bank.folder.name / "bank.json"
    body = json.loads(index.read_text())
    for entry in body["candidates"]:
        if (entry["candidate"]["slot"], entry["candidate"]["label"]) == FAILED:
            entry.update(file="", sha256="", error=None, failure="its distillation diverged")
    index.write_text(json.dumps(body))
    return made


@pytest.fixture(scope="module")
def validated(taught, study, own_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nas.search.bank_validation, "ProxyWorker", lambda _: contextlib.nullcontext(taught.worker))
        return validate_bank(study, own_cache, taught.weights_in(study.location.folder / "unused").observer)


def test_every_usable_swap_is_validated(validated, bank):
    assert validated.maps.keys() == bank.candidates.keys() - {FAILED}
    assert [c.candidate for c in validated.bank.failures] == [Candidate(*FAILED)]
    assert math.isnan(validated.bank.candidates[FAILED].error)


def test_it_is_what_the_variant_itself_would_score(validated, taught, bank):
    for slot, label in (("backbone.down_p3", "SPConv"), ("neck.up_p3", "DySample")):
        assert validated.maps[slot, label] == taught.map_of(f"{slot}={label}", bank=bank, init="bank", mosaic=0.0)
    assert validated.base == taught.map_of(init="bank", mosaic=0.0)


def test_a_swap_is_compared_with_its_control(validated):
    slot = "backbone.down_p3"
    control = validated.maps[slot, CONTROL]
    assert control < validated.base
    assert validated.over_control((slot, "DynamicConv")) == validated.maps[slot, "DynamicConv"] - control
    assert validated.over_control((slot, CONTROL)) is None
    assert validated.over_control(("neck.up_p3", "DySample")) is None
    assert validated.over_control(FAILED) is None


def test_the_table_and_the_notes(validated):
    console = Console(width=200)
    with console.capture() as captured:
        console.print(bank_table(validated))
    text = captured.get()
    rows = [line.split() for line in text.splitlines()]
    assert rows[0][:2] == ["slot", "swap"]
    assert len(rows) == 1 + len(validated.bank.candidates)
    down = [row for row in rows if row[0] == "backbone.down_p3"]
    assert [float(row[4]) for row in down] == sorted((float(row[4]) for row in down), reverse=True)
    assert "its distillation diverged" in text
    assert any("cannot matter here" in line and "neck.c2f_n5" in line for line in text.splitlines())
    assert f"mAP50-95 {validated.base:.3f}" in bank_notes(validated)[1]
    assert bank_notes(validated)[-1] == (
        f"No swap can matter on these data in: {', '.join(validated.bank.idle_slots)}. Nothing is lost without them."
    )


def test_plain_values(validated):
    body = json.loads(json.dumps(validated.to_json()), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    rows = {(row["slot"], row["label"]): row for row in body["candidates"]}
    assert rows.keys() == validated.bank.candidates.keys()
    assert rows[FAILED]["map50_95"] is None
    assert rows[FAILED]["error"] is None
    assert rows[FAILED]["failure"] == "its distillation diverged"
    row = rows["backbone.down_p3", "SPConv"]
    assert row["over_baseline"] == validated.maps["backbone.down_p3", "SPConv"] - validated.base
    assert row["over_control"] == validated.over_control(("backbone.down_p3", "SPConv"))
    assert "neck.c2f_n5" in body["idle_slots"]


def test_a_bank_without_idle_slots_says_nothing_of_them(validated):
    bank = replace(
        validated.bank, drops={"neck.up_p3": 0.1}, candidates={FAILED: Distilled(Candidate(*FAILED), "", 1, 1)}
    )
    assert not any("cannot matter" in line for line in bank_notes(BankValidation(bank, 0.5, {})))


def test_a_study_without_a_bank(study, own_cache, recorder):
    without = Study.load(study.location)
    without.settings = replace(without.settings, recipe=replace(without.settings.recipe, init="scratch"))
    with pytest.raises(StudyError, match="the study 's' has no bank: its variants start from scratch"):
        validate_bank(without, own_cache, recorder)


def test_data_that_have_changed(study, own_cache, recorder):
    changed = Study.load(study.location)
    changed.settings = replace(changed.settings, fingerprint="0" * 16)
    with pytest.raises(StudyError, match="the data of the study 's' have changed since its bank was distilled"):
        validate_bank(changed, own_cache, recorder)
