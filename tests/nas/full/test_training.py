"""The process of a full training: cut-off checkpoints, other processes, labels; nothing is trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nas.full.training
from nas.full.training import _last_epoch, detect_each, keep_whole, labels_as_trained, main
from nas.locks import open_lock, try_lock


def epoch_of(file: Path) -> int:
    return torch.load(file, weights_only=False)["epoch"]


def saved(folder: Path, epoch: int, *, best: bool) -> None:
    """Save what the host saves after an epoch."""
    last, best_file = folder / "last.pt", folder / "best.pt"
    torch.save({"epoch": epoch}, last)
    if best:
        torch.save({"epoch": epoch}, best_file)
    keep_whole(SimpleNamespace(wdir=folder, last=last, best=best_file, fitness=1.0, best_fitness=1.0 if best else 2.0))


def test_checkpoints_that_were_cut_off_are_replaced(tmp_path):
    saved(tmp_path, 0, best=True)
    saved(tmp_path, 1, best=False)
    assert _last_epoch(tmp_path) == 1
    # In the next epoch: last.pt first, then best.pt with the same content.
    (tmp_path / "last.pt").write_bytes(b"half")
    assert _last_epoch(tmp_path) == 1
    torch.save({"epoch": 2}, tmp_path / "last.pt")
    (tmp_path / "best.pt").write_bytes(b"half")
    assert _last_epoch(tmp_path) == 2
    assert epoch_of(tmp_path / "best.pt") == 2


def test_the_best_weights_survive_when_they_are_cut_off_at_the_end(tmp_path):
    """After the last epoch the host reduces last.pt, and then best.pt, which is of an earlier epoch."""
    saved(tmp_path, 0, best=True)
    saved(tmp_path, 1, best=False)
    torch.save({"epoch": -1}, tmp_path / "last.pt")
    (tmp_path / "best.pt").write_bytes(b"half")
    assert _last_epoch(tmp_path) == -1
    assert epoch_of(tmp_path / "best.pt") == 0


def test_two_processes_do_not_train_in_one_folder(tmp_path, monkeypatch):
    """One whose parent was killed lives on for a moment, and writes the checkpoints that the next reads."""
    monkeypatch.setattr(nas.full.training, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(nas.full.training, "train", lambda job: pytest.fail("it trains"))
    monkeypatch.setattr(nas.full.training, "_die_with_parent", lambda parent: None)
    monkeypatch.setattr("nas.model.offline.go_offline", lambda cache: None)
    monkeypatch.setenv("YOLO_VERBOSE", "true")
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"parent": os.getppid(), "cache": str(tmp_path), "modules": []}))
    with open_lock(tmp_path / "lock") as other:
        assert try_lock(other)
        assert main(str(job)) == 1
    failure = json.loads((tmp_path / "result.json").read_text())["failure"]
    assert failure == f"another process has trained in {tmp_path} for 0.2 s: end it, and start again"


def test_labels_are_those_that_the_host_trains_on():
    labels = np.array([[0, 1, 1, 2, 2], [1, 1, 1, 2, 2], [2, 1, 1, 2, 2]], dtype=float)
    assert labels_as_trained(labels.copy(), {})[:, 0].tolist() == [0, 1, 2]
    assert labels_as_trained(labels.copy(), {"classes": [0, 2]})[:, 0].tolist() == [0, 2]
    assert labels_as_trained(labels.copy(), {"classes": 1})[:, 0].tolist() == [1]
    assert labels_as_trained(labels.copy(), {"single_cls": True})[:, 0].tolist() == [0, 0, 0]


def test_images_are_given_to_the_host_one_at_a_time():
    """A list is one batch to the host; a star in a name would be a pattern."""
    given = []

    def predict(source, **arguments):
        given.append((source, arguments["conf"]))
        return [source]

    assert list(detect_each(SimpleNamespace(predict=predict), ["/a/1*.png", "/a/[2].png"], conf=0.1)) == [
        "/a/1[*].png",
        "/a/[2].png",
    ]
    assert given == [("/a/1[*].png", 0.1), ("/a/[2].png", 0.1)]
