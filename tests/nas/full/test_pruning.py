"""The pruned baseline of a full training starts where that of the search does: pruned by effect, and distilled."""

from __future__ import annotations

import threading

import pytest
import torch
from learnt_study import learnt_study

from nas.errors import NasError, StudyError
from nas.full.models import pruned_model
from nas.full.process import Pruning
from nas.full.start import Start, checkpoint, start_of
from nas.model.weights_file import read_checkpoint, read_state

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def learnt(taught, bank, tmp_path_factory):
    return learnt_study(taught, bank, tmp_path_factory.mktemp("pruning"), {"neck.up_p3": "CARAFE"})


@pytest.fixture
def pruning(learnt, taught, own_cache):
    said: list[str] = []
    return Pruning(learnt, taught.weights.data, own_cache, 1, said.append), said


@pytest.fixture(scope="module")
def model(learnt):
    return pruned_model(learnt, 0.7 * learnt.trials()[0].gflops)


def tensors_of(made, folder):
    (folder / made.name).write_bytes(made.content)
    return read_checkpoint(folder / made.name).tensors


def equal(some, others):
    return all(torch.equal(tensor, others[key]) for key, tensor in some.items())


def test_from_a_bank_it_is_pruned_and_distilled_once(learnt, pruning, model, tmp_path):
    pruner, said = pruning
    start = start_of(learnt, "bank", learnt.settings.classes)
    made = checkpoint(model, start, pruner.make)
    assert (made.kept, made.given) == (355, 355)
    assert said == [f"pruning the baseline of seed 0 to width {model.variant.width:g}"]
    (file,) = learnt.location.weights.glob("pruned-*.pt")
    kept = read_state(str(file), "yolov8")
    own = tensors_of(made, tmp_path)
    assert len(own) == len(kept)
    named = dict(zip(own, kept.values(), strict=True))
    assert all(torch.equal(own[key], tensor.to(own[key].dtype)) for key, tensor in named.items())
    largest = tensors_of(checkpoint(model, start), tmp_path)
    assert own["model.0.conv.weight"].shape == largest["model.0.conv.weight"].shape
    assert not equal(own, largest)
    said.clear()
    again = tensors_of(checkpoint(model, start, pruner.make), tmp_path)
    assert not said, "it is on disk"
    assert equal(own, again)
    inherited = tensors_of(checkpoint(model, start_of(learnt, "inherit", ("square", "disc")), pruner.make), tmp_path)
    assert len(list(learnt.location.weights.glob("pruned-*.pt"))) == 2
    assert not equal(own, inherited), "that one is not distilled"


def test_from_a_file_it_has_the_channels_with_the_largest_weights(learnt, pruning, model):
    pruner, said = pruning
    start = start_of(learnt, "inherit", learnt.settings.classes)
    made = checkpoint(model, Start("best.pt (1a2b3c4d)", start.given), pruner.make)
    assert not said
    assert made.nc == 2


def test_one_that_was_stopped_prunes_nothing(learnt, pruning, model):
    pruner, _ = pruning
    pruner.kill()
    learnt_start = start_of(learnt, "bank", learnt.settings.classes)
    before = set(learnt.location.weights.iterdir())
    with pytest.raises(StudyError, match="stopped"):
        checkpoint(model, learnt_start, pruner.make)
    assert set(learnt.location.weights.iterdir()) == before


def test_one_that_waits_for_another_process_can_be_stopped(learnt, pruning, model, monkeypatch):
    pruner, said = pruning
    monkeypatch.setattr("nas.bank.artifacts.Lease.try_acquire", lambda lease: False)
    start = start_of(learnt, "bank", learnt.settings.classes)
    threading.Timer(1.0, pruner.kill).start()
    with pytest.raises(NasError, match="stopped"):
        checkpoint(model, start, pruner.make)
    assert any("waiting for it" in line for line in said)
