"""Detections of the baseline and the winner of a study that has learnt, by the host."""

from __future__ import annotations

import shutil
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from full_trainings import run_of
from learnt_study import learnt_study

from nas.cli import cli
from nas.data.dataset import load
from nas.data.levels import read_rows
from nas.errors import DataError, NasError, StudyError
from nas.html.sections import sections_of
from nas.html.source import read_source
from nas.pictures import detections
from nas.pictures.detections import MOST_BYTES, MOST_SHOWN, has_layer_cam, look
from nas.pictures.models import find_pair, has_bank, weights_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def learnt(taught, bank, tmp_path_factory):
    """Return a study whose winner is a variant that has yet to be trained."""
    return learnt_study(taught, bank, tmp_path_factory.mktemp("seen"), {"backbone.down_p3": "SPConv"})


@pytest.fixture(scope="module")
def seen(learnt):
    """Return what its baseline and winner detect, and what is said before that."""
    notes = []
    return look(learnt, [], read_source(learnt).winner.trial, notes.append), notes


def test_the_images_on_which_they_differ_most(learnt, seen, boxes_data):
    found, notes = seen
    dataset = load(boxes_data)
    labels = sum(len(read_rows(image)) for image in dataset.val)
    assert found.looked == (32, 32)
    assert (found.base[0] + found.base[1], found.other[0] + found.other[1]) == (labels, labels)
    assert found.base[0] > labels / 3  # it has learnt
    assert found.title == "backbone.down_p3=SPConv"
    assert "before it is trained" in found.origin
    assert notes == [
        "looking at 32 validation images with the baseline and backbone.down_p3=SPConv; --no-pictures skips this"
    ]
    assert 0 < len(found.images) <= min(MOST_SHOWN, found.differ)
    for image in found.images:
        assert image.size == (64, 64)
        assert image.photo.startswith(b"\xff\xd8")
        own = len(read_rows(next(path for path in dataset.val if path.name == image.name)))
        for side in (image.base, image.other):
            kinds = [box.kind for box in side.boxes]
            assert side.counts == tuple(kinds.count(kind) for kind in ("found", "missed", "false"))
            assert side.counts[0] + side.counts[1] == own
            assert {box.name for box in side.boxes} <= {"square", "disc"}
            assert all((box.confidence is None) == (box.kind == "missed") for box in side.boxes)
        assert image.base.boxes != image.other.boxes
    assert sum(len(i.photo) + len(i.base.heat) + len(i.other.heat) for i in found.images) < MOST_BYTES


def test_heat_maps_are_the_hosts(seen):
    found, _ = seen
    heats = [side.heat for image in found.images for side in (image.base, image.other)]
    if not has_layer_cam():
        assert not any(heats)
        assert any("no LayerCAM" in note for note in found.notes)
        return
    assert found.notes == ()
    assert all(heat.startswith(b"\xff\xd8") for heat in heats)
    assert len(set(heats)) > 1


def test_the_report_shows_them(learnt, tmp_path):
    place = [learnt.location.name, "--storage", learnt.location.url]
    result = CliRunner().invoke(cli, ["report", *place, "-o", str(tmp_path / "r.html")])
    assert result.exit_code == 0, result.output
    assert "looking at 32 validation images" in result.stderr
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert '<section id="detections">' in page
    picture = page.split("data:image/jpeg;base64,")[1].partition('"')[0]
    assert b64decode(picture).startswith(b"\xff\xd8")
    result = CliRunner().invoke(cli, ["report", *place, "--no-pictures", "-o", str(tmp_path / "without.html")])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "data:image/jpeg" not in (tmp_path / "without.html").read_text(encoding="utf-8")


def test_images_that_have_moved(learnt, boxes_data, tmp_path, monkeypatch):
    moved = replace(learnt.settings, data=str(tmp_path / "gone" / "data.yaml"))
    monkeypatch.setattr(learnt, "settings", moved)
    source = read_source(learnt, pictures=True)
    sections_of(source)
    (problem,) = source.problems
    assert problem.startswith("detections: left out, its images have moved or have changed: ")
    assert problem.endswith("no such file: give a data.yaml, or a folder that holds one")
    copy = shutil.copytree(boxes_data.parent, tmp_path / "some")
    monkeypatch.setattr(learnt, "settings", replace(learnt.settings, data=str(copy / "data.yaml")))
    (copy / "labels" / "val" / "00.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match="has changed since the study"):
        look(learnt, [], source.winner.trial)


def test_a_study_without_weights(learnt, tmp_path, monkeypatch):
    winner = read_source(learnt).winner.trial
    assert has_bank(learnt)
    with monkeypatch.context() as changed:
        changed.setattr("nas.full.start.baseline_file", missing)
        assert find_pair(learnt, [], winner) is None
    (tmp_path / "empty").mkdir()
    gone = replace(learnt.location, file=tmp_path / "empty" / "s.db")
    with monkeypatch.context() as changed:
        changed.setattr(learnt, "location", gone)
        changed.setattr(type(learnt), "bank", property(lambda self: {"folder": str(tmp_path / "bank-0")}))
        assert not has_bank(learnt)
        assert find_pair(learnt, [], winner) is None
    assert find_pair(learnt, [], None) is None


def missing(*_):
    raise StudyError("it is gone")


def test_damaged_weights_are_named(learnt, tmp_path, monkeypatch):
    trial = read_source(learnt).winner.trial
    base = next(t for t in learnt.runs() if t.variant.is_baseline)
    (tmp_path / "best.pt").write_bytes(b"no checkpoint")
    runs = [run_of(t, 0.5, weights=str(tmp_path / "best.pt")) for t in (base, trial)]
    with pytest.raises(NasError, match=r"best\.pt is no checkpoint"):
        find_pair(learnt, runs, trial)
    assert find_pair(learnt, [replace(run, weights="best.pt") for run in runs], trial).origin.startswith("The trained")


def test_weights_of_a_study_that_was_moved(learnt, tmp_path):
    run = run_of(learnt.runs()[0], 0.5, folder="/elsewhere/runs/one-seed0", weights="/elsewhere/weights/best.pt")
    assert weights_of(learnt, run) is None
    here = learnt.location.folder / "runs" / "one-seed0" / "weights" / "best.pt"
    here.parent.mkdir(parents=True)
    here.write_bytes(b"")
    assert weights_of(learnt, run) == Path(here)
    assert weights_of(learnt, replace(run, weights="")) is None


def test_many_images_are_sampled(learnt, monkeypatch):
    monkeypatch.setattr(detections, "MOST_LOOKED", 5)
    monkeypatch.setattr(detections, "has_layer_cam", lambda: False)
    found = look(learnt, [], read_source(learnt).winner.trial)
    assert found.looked == (5, 32)
    assert all("no LayerCAM" in note for note in found.notes)
    assert not any(image.base.heat for image in found.images)


def test_a_host_that_fails_is_named(learnt, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("CUDA error: no kernel image")

    monkeypatch.setattr(detections, "detect_each", broken)
    source = read_source(learnt, pictures=True)
    sections_of(source)
    assert source.problems == [
        "detections: left out, Ultralytics cannot detect: RuntimeError: CUDA error: no kernel image"
    ]
