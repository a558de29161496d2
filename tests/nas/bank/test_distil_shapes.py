"""Distilling candidates with other tensors than their layer: fewer channels with a decoder, and none at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nas.bank.distil import distil
from nas.bank.jobs import Assembled, Candidate, DistilJob
from nas.bank.output_score import score_variants
from nas.errors import WeightsError
from nas.model.weights_file import read_checkpoint

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def distilled(taught):
    def make(folder, candidate: Candidate, **recipe):
        job = taught.job(**{"bank_epochs": 3, **recipe})
        return distil(DistilJob(job, (candidate,), str(folder)), 1, lambda _: None)

    return make


def test_a_layer_with_fewer_channels_learns_with_its_decoder(distilled, taught, tmp_path):
    candidate = Candidate("backbone.down_p3", "Narrow(0.5)")
    (narrow,) = distilled(tmp_path, candidate).candidates
    assert not narrow.failure
    assert narrow.error <= narrow.start_error < 0.1, "of so few images the start says all"
    file = tmp_path / narrow.file
    state = torch.load(file, weights_only=True)
    assert state["backbone.down_p3:conv.weight"].shape == (32, 32, 3, 3)
    assert state["backbone.down_p3:wide.weight"].shape == (64, 32, 1, 1)
    assert all(key.startswith("backbone.down_p3:") for key in state)


def test_a_variant_with_a_narrow_layer_is_assembled(distilled, taught, tmp_path):
    """Its readers have what the decoder makes of their weights, and it detects without any training."""
    swap = "backbone.down_p3=Narrow(0.75)"
    (narrow,) = distilled(tmp_path, Candidate(*swap.split("=")), bank_epochs=6).candidates
    job = replace(taught.job(swap), overlay=(str(tmp_path / narrow.file),))
    assembled = taught.worker.run(job)
    assert assembled.inherited[0] == assembled.inherited[1], "every tensor is given"
    whole, fresh = taught.map_of(), taught.map_of(swap, start="fresh")
    near = taught.map_of(swap)
    assert fresh < 0.5 * whole
    assert near > fresh + 0.1
    assert assembled.curve[-1].validation.map > 0.7 * whole


def test_a_layer_without_tensors_is_assembled_and_scored(distilled, taught, tmp_path):
    """Its file is empty, which is no damage."""
    swap = "backbone.c2f_p4=host:nn.Identity(repeats=1)"
    (none,) = distilled(tmp_path, Candidate(*swap.split("=", 1)), bank_epochs=1).candidates
    assert torch.load(tmp_path / none.file, weights_only=True) == {}
    assembled = taught.worker.run(replace(taught.job(swap), overlay=(str(tmp_path / none.file),)))
    assert assembled.inherited[0] == assembled.inherited[1]
    variants = (Assembled((tuple(swap.split("=", 1)),), (str(tmp_path / none.file),)),)
    (score,) = score_variants(taught.weights_in(tmp_path), taught.recipe_of_bank, 0, variants)
    assert not score.failure
    with pytest.raises(WeightsError, match="holds no model"):
        read_checkpoint(tmp_path / none.file)
