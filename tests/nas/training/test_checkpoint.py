"""Trainings that are killed and go on: with the very numbers of one that never stopped."""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.data.dataset import load, write_resolved
from nas.errors import ProxyFailure
from nas.model.render import render
from nas.space.variant import parse_swaps
from nas.training.checkpoint import Checkpoint
from nas.training.jobs import ProxyJob, checkpoint_key
from nas.training.recipe import Recipe
from nas.workers.process import ProxyWorker

VERSIONS = (("swapnas", "1"),)
RECIPE = Recipe(epochs=4, imgsz=64, batch=8, init="scratch", lr0=2e-3, warmup_epochs=1.0, validations=3)
LONG = replace(RECIPE, epochs=20, validations=2)  # its mosaic ends after epoch 18


@pytest.fixture(scope="module")
def make_job(tiny_data, tmp_path_factory):
    dataset = load(tiny_data)
    data = write_resolved(dataset, tmp_path_factory.mktemp("resolved"))

    def make(recipe: Recipe = RECIPE, base: str = "yolov8", **changes) -> ProxyJob:
        variant = parse_swaps(base, "n", changes.pop("swaps", ()))
        job = ProxyJob(
            variant.name, render(variant).yaml, base, "n", variant.swaps, str(data), dataset.fingerprint, recipe, 0
        )
        return replace(job, **changes)

    return make


@pytest.fixture(scope="module")
def worker(own_cache):
    with ProxyWorker(own_cache, threads=1) as made:
        yield made


@pytest.fixture(scope="module")
def whole(worker, make_job, tmp_path_factory):
    """Return the result and the tensors of a recipe's training that nothing disturbs."""
    made = {}

    def train(recipe: Recipe = RECIPE, **changes):
        key = (recipe, *sorted(changes.items()))
        if key not in made:
            file = tmp_path_factory.mktemp("whole") / "w.pt"
            made[key] = worker.run(make_job(recipe, save=str(file), **changes)), torch.load(file)
        return made[key]

    return train


def kept(job: ProxyJob, folder: Path) -> ProxyJob:
    return replace(
        job,
        checkpoint=str(folder / "running" / checkpoint_key(job, VERSIONS)),
        checkpoint_s=0.0,
        save=str(folder / "w.pt"),
    )


def kill_after(worker: ProxyWorker, epoch: int, file: Path):
    """Return an observer that kills the training process once an epoch is reported and the one before it is saved."""

    def kill(score) -> None:
        if score.epoch == epoch:
            assert file.exists()
            os.kill(worker._process.pid, signal.SIGKILL)

    return kill


def seen(result):
    return [replace(score, seconds=0.0) for score in result.curve], result.average, result.inherited


def assert_same(result, file, whole):
    before, tensors = whole
    assert seen(result) == seen(before)
    found = torch.load(file)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(
    ("recipe", "epochs", "changes"),
    [
        (RECIPE, [2, 4], {"swaps": ("neck.up_p3=DySample",)}),
        (LONG, [19, 20], {}),  # goes on in the epoch in which mosaic ends, and in the one after
        (replace(RECIPE, amp="bf16"), [3], {"base": "yolo26"}),  # the weights of its two losses change with the epoch
    ],
)
def test_a_killed_training_ends_as_if_nothing_had_been(worker, make_job, whole, tmp_path, recipe, epochs, changes):
    job = kept(make_job(recipe, **changes), tmp_path)
    for epoch in epochs:
        with pytest.raises(ProxyFailure, match="killed by signal 9"):
            worker.run(job, kill_after(worker, epoch, Path(job.checkpoint)))
    heard = []
    result = worker.run(job, heard.append)
    assert epochs[-1] - 1 <= result.resumed <= epochs[-1]  # the kill races with the save
    assert tuple(heard) == result.curve
    assert result.seconds > sum(score.seconds for score in result.curve[: result.resumed])
    assert_same(result, job.save, whole(recipe, **changes))
    assert list(Path(job.checkpoint).parent.iterdir()) == []


def damage(file: Path, how: str) -> None:
    body = file.read_bytes()
    if how == "cut short":
        body = body[: len(body) // 2]
    elif how == "one byte":
        body = body[:-5000] + bytes([body[-5000] ^ 1]) + body[-4999:]
    elif how == "empty":
        body = b""
    elif how == "a foreign file":
        torch.save({"model": {}}, file)
        return
    elif how == "of another run":
        Checkpoint(file.with_name("other"), 0.0).save({"curve": []})
        body = file.with_name("other").read_bytes()
    file.write_bytes(body)


def test_what_is_damaged_or_foreign_is_as_good_as_none(worker, make_job, whole, tmp_path):
    job = kept(make_job(), tmp_path)
    file = Path(job.checkpoint)
    with pytest.raises(ProxyFailure):
        worker.run(job, kill_after(worker, 3, file))
    content = file.read_bytes()
    assert len(Checkpoint(file, 0.0).load()["curve"]) >= 2
    for how in ("one byte", "empty", "a foreign file", "of another run", "cut short"):
        file.write_bytes(content)
        damage(file, how)
        assert Checkpoint(file, 0.0).load() is None, how
    result = worker.run(job)
    assert result.resumed == 0
    assert_same(result, job.save, whole())


def test_a_full_disk_stops_no_training(worker, make_job, whole, tmp_path):
    job = replace(kept(make_job(), tmp_path), save=None)

    def fill(score) -> None:
        if score.epoch == 1:  # from here on no file of this process may grow beyond a megabyte
            resource.prlimit(worker._process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    try:
        result = worker.run(job, fill)
    finally:
        worker.close()  # the next test's process has no such limit
    assert seen(result) == seen(whole()[0])
    assert list(Path(job.checkpoint).parent.iterdir()) == []


def test_a_folder_that_cannot_be_written_stops_no_training(worker, make_job, whole, tmp_path):
    (tmp_path / "running").write_text("a file in the folder's place")
    job = kept(make_job(), tmp_path)
    assert_same(worker.run(job), job.save, whole())


def test_not_a_number_leaves_no_checkpoint(worker, make_job, whole, tmp_path):
    state = {key: value.clone() for key, value in whole()[1].items()}
    state["backbone.stem_p1:conv.weight"].fill_(float("nan"))
    torch.save(state, tmp_path / "nan.pt")
    job = kept(make_job(init=str(tmp_path / "nan.pt")), tmp_path)
    Path(job.checkpoint).parent.mkdir()
    Path(job.checkpoint).write_bytes(b"what was saved before")
    with pytest.raises(ProxyFailure) as caught:
        worker.run(job)
    assert caught.value.kind == "nan"
    assert list(Path(job.checkpoint).parent.iterdir()) == []


def test_the_key_is_of_all_that_decides(make_job, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"a")
    (tmp_path / "b.pt").write_bytes(b"b")
    (tmp_path / "same.pt").write_bytes(b"a")
    job = make_job()
    a = replace(job, init=str(tmp_path / "a.pt"))
    different = [
        job,
        make_job(swaps=("neck.up_p3=DySample",)),
        make_job(replace(RECIPE, epochs=5)),
        replace(job, seed=1),
        replace(job, data_key="other"),
        a,
        replace(job, init=str(tmp_path / "b.pt")),
        replace(a, overlay=(str(tmp_path / "b.pt"),)),
    ]
    keys = [checkpoint_key(j, VERSIONS) for j in different] + [checkpoint_key(job, (("swapnas", "2"),))]
    assert len(set(keys)) == len(keys)
    elsewhere = replace(job, data="moved.yaml", scratch="x", save="y", name="z", checkpoint="c")
    assert checkpoint_key(elsewhere, VERSIONS) == keys[0]
    assert checkpoint_key(replace(a, init=str(tmp_path / "same.pt")), VERSIONS) == checkpoint_key(a, VERSIONS)


def test_saves_keep_their_distance(tmp_path):
    file = Checkpoint(tmp_path / "x", 3600.0)
    assert not file.due
    file = Checkpoint(tmp_path / "x", 1e-9)
    assert file.due
    assert file.save({"t": torch.zeros(1 << 20)})
    assert not file.due  # saving took some milliseconds; fifty times that have not passed yet
    file = Checkpoint(tmp_path / "x", 0.0)
    assert file.save({"t": torch.zeros(1 << 20)})
    assert file.due
    assert file.load()["t"].shape == (1 << 20,)


def test_what_nobody_came_back_for_goes(tmp_path):
    old, recent = tmp_path / "old", tmp_path / "recent"
    for file, days in ((old, 15), (recent, 13)):
        file.write_bytes(b"")
        then = time.time() - 86400 * days
        os.utime(file, (then, then))
    Checkpoint(tmp_path / "x", 0.0).save({})
    assert {p.name for p in tmp_path.iterdir()} == {"recent", "x"}
