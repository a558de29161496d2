"""The levels of a trained baseline: counted from the assigner's positives, stored, found again, and said."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from nas.bank.store import SwapBank, bank_facts, bank_json
from nas.data.assigned import assigned_words, count_assigned, stored_levels
from nas.data.fidelity import Fidelity


class Assigner(torch.nn.Module):
    """Takes 6 anchors of P3, 3 of P4 and 1 of P5, of images of 64 px."""

    def forward(self, images):
        taken = torch.zeros(len(images), 64 + 16 + 4, dtype=torch.bool)
        taken[0, 58:67] = True
        taken[1, -1] = True
        return None, None, None, taken, None


def trainer_with(assigner, images=(2, 3, 64, 64), **more):
    criterion = SimpleNamespace(assigner=assigner)
    model = SimpleNamespace(criterion=SimpleNamespace(one2many=criterion) if more.get("end2end") else criterion)
    model.stride = torch.tensor([8.0, 16.0, 32.0])
    model.loss = lambda batch, predictions: assigner(batch["img"]) if assigner else None
    whole = type("Model", (), {**vars(model), "__call__": lambda self, images: images})()
    whole.loss = model.loss
    return SimpleNamespace(ema=SimpleNamespace(ema=whole), sample=lambda count: [{"img": torch.zeros(images)}] * count)


@pytest.mark.parametrize("end2end", [False, True])
def test_positives_are_counted_by_level(end2end):
    found = count_assigned(trainer_with(Assigner(), end2end=end2end))
    assert found == {"P3": 0.6, "P4": 0.3, "P5": 0.1}


def test_a_criterion_that_is_not_known_tells_nothing():
    assert count_assigned(trainer_with(None)) == {}
    assert count_assigned(trainer_with(Assigner(), images=(2, 3, 96, 96))) == {}  # its anchors are others


def test_words_name_the_levels_that_are_not_used():
    assert assigned_words({"P3": 0.6, "P4": 0.4}).endswith("takes P3 60%, P4 40% of the positives on training images")
    assert assigned_words({"P3": 0.995, "P4": 0.005, "P5": 0.0}).endswith("; it does not use P4 and P5")


def test_the_levels_of_a_distilled_bank(bank, taught):
    """The baseline of the tests is real: its shares add up, and they survive the files of bank and study."""
    assert list(bank.levels) == ["P3", "P4", "P5"]
    assert sum(bank.levels.values()) == pytest.approx(1, abs=0.001)
    assert bank_facts(json.loads(json.dumps(bank.facts)))["levels"] == bank.levels
    (found,) = stored_levels(bank.folder.parent, taught.fingerprint)
    assert (found.base, found.fidelity, found.levels) == ("yolov8n", Fidelity(64), bank.levels)
    assert found.line.startswith("trained baseline, yolov8n on 64 px: its assigner takes P3 ")
    assert stored_levels(bank.folder.parent, "another") == []


def test_banks_of_earlier_versions_and_damaged_ones_tell_nothing(bank, tmp_path):
    assert "levels" not in bank_json(SwapBank(tmp_path))
    assert "levels" not in bank_facts(SwapBank(tmp_path).facts)
    (tmp_path / "bank-1").mkdir()
    for text in ("{", "[]", '{"about": 3}', json.dumps({"about": {"data": "f", "recipe": {}}, "levels": {"P3": 1}})):
        (tmp_path / "bank-1" / "bank.json").write_text(text)
        assert stored_levels(tmp_path, "f") == []
    with pytest.raises(ValueError, match="it"):
        bank_facts({"levels": {"P3": "much"}})
