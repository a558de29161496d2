"""Pruning a trained baseline: what it inherits, what the distillation adds, and that it is repeated exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nas.yardstick.prune
from nas.bank.artifacts import ArtifactStore
from nas.errors import ArtifactError, OutOfMemory, ProxyFailure
from nas.space.variant import make_yardstick
from nas.training.recipe import Recipe
from nas.workers.worker import do_job
from nas.yardstick.jobs import PruneJob
from nas.yardstick.prune import prune
from nas.yardstick.store import pruned_weights

YARDSTICK = make_yardstick("yolov8", "n", 0.12)


def recipe_of(taught) -> Recipe:
    """Return the recipe of a study with a bank, which is distilled in 32 steps."""
    return replace(taught.recipe_of_bank, bank_epochs=4)


def map_of(weights: ArtifactStore, recipe: Recipe, file: Path) -> float:
    """Return the mAP50-95 of the yardstick as it starts."""
    job = weights.job(YARDSTICK, replace(recipe, epochs=0), 0)
    job = replace(job, init=str(weights.baseline(recipe).file), overlay=(str(file),))
    result = weights.worker.run(job)
    assert result.inherited[0] == result.inherited[1]  # every tensor is given
    return result.curve[-1].validation.map


class Asked:
    """In place of a training process: keeps what it is asked for."""

    threads = 1

    def __init__(self) -> None:
        self.jobs: list[PruneJob] = []

    def work(self, job, on_progress=None):
        self.jobs.append(job)
        Path(job.file).write_bytes(b"")


@pytest.fixture(scope="module")
def weights(taught, tmp_path_factory) -> ArtifactStore:
    return taught.weights_in(tmp_path_factory.mktemp("pruned"))


@pytest.fixture(scope="module")
def distilled(taught, weights) -> Path:
    return pruned_weights(weights, YARDSTICK, recipe_of(taught), 0)


@pytest.fixture(scope="module")
def sliced(taught, weights) -> Path:
    return pruned_weights(weights, YARDSTICK, taught.recipe, 0)


def test_distilled_layers_are_nearer_to_the_baseline_than_those_that_are_only_pruned(
    taught, weights, distilled, sliced
):
    assert distilled != sliced
    with_less = map_of(weights, taught.recipe, sliced)
    assert map_of(weights, recipe_of(taught), distilled) > with_less + 0.02


def test_the_channels_that_matter_to_the_loss_are_kept(taught, weights, sliced, tmp_path, monkeypatch, inside):
    job = weights.job(YARDSTICK, taught.recipe, 0)
    proxy = replace(job, yaml=taught.job().yaml, swaps=(), init=str(weights.baseline(taught.recipe).file))

    def least(model, batches):
        scores = real(model, batches)
        return {name: -score for name, score in scores.items()}

    real = nas.yardstick.prune.channel_scores
    monkeypatch.setattr(nas.yardstick.prune, "channel_scores", least)
    prune(PruneJob(proxy, YARDSTICK, False, str(tmp_path / "worst.pt")), 1, lambda seen: None)
    best, worst = map_of(weights, taught.recipe, sliced), map_of(weights, taught.recipe, tmp_path / "worst.pt")
    assert best > worst + 0.02


def test_it_is_made_once_and_again_with_the_same_tensors(taught, weights, distilled, tmp_path, inside):
    asked = Asked()
    assert pruned_weights(replace(weights, worker=asked), YARDSTICK, recipe_of(taught), 0) == distilled
    assert not asked.jobs
    other = taught.weights_in(tmp_path, worker=asked)
    assert pruned_weights(other, YARDSTICK, recipe_of(taught), 0).name == distilled.name
    (job,) = asked.jobs
    seen = []
    made = do_job(job, 1, seen.append)
    assert seen[-1] == (32, 32)
    assert 0 < made.error < 0.9 * made.start_error
    first, second = (torch.load(file, weights_only=True) for file in (distilled, job.file))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_seed_recipe_and_width_decide_the_file(taught, weights, distilled):
    asked = Asked()
    other = replace(weights, worker=asked)
    found = [
        pruned_weights(other, YARDSTICK, recipe_of(taught), 1),
        pruned_weights(other, make_yardstick("yolov8", "n", 0.2), recipe_of(taught), 0),
        pruned_weights(other, YARDSTICK, replace(recipe_of(taught), bank_epochs=5), 0),
    ]
    assert len({*found, distilled}) == 4
    assert [job.proxy.seed for job in asked.jobs] == [1, 0, 0]
    assert all(job.distils and not job.proxy.swaps for job in asked.jobs)


@pytest.mark.parametrize(("memory", "kind"), [(True, OutOfMemory), (False, ArtifactError)])
def test_a_pruning_that_fails_says_so(taught, weights, tmp_path, memory, kind):
    class Fails:
        threads = 1

        def work(self, job, on_progress=None):
            raise ProxyFailure("memory" if memory else "error", "why", out_of_memory=memory)

    failing = replace(taught.weights_in(tmp_path), worker=Fails())
    with pytest.raises(kind, match="the baseline could not be pruned: why"):
        pruned_weights(failing, YARDSTICK, recipe_of(taught), 0)
    assert not list(tmp_path.glob("pruned-*.pt"))
