"""What is checked before a full training starts, and the order in which several are made; nothing is trained."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import nas.full.session
from nas.cli import cli
from nas.errors import BuildError, NasError, OutputError, ProxyFailure
from nas.full.models import model_of_trial, pruned_model, scaled_model
from nas.full.run import FullScores
from nas.full.store import FullRuns
from nas.model.cost import model_cost
from nas.model.host import build
from nas.study.trial import Trial


@pytest.fixture
def instant(monkeypatch):
    """Let trainings end at once; what was trained is kept."""
    jobs, lock = [], threading.Lock()

    def run_training(job, folder, stopped, on_epoch):
        with lock:
            jobs.append(job)
        (folder / "weights").mkdir(parents=True, exist_ok=True)
        (folder / "weights" / "best.pt").write_bytes(b"weights")
        return FullScores(0.5, 0.5, 0.6, 0.4 + 0.01 * len(job["arguments"].get("distill_model", "")) ** 0)

    monkeypatch.setattr(nas.full.session, "run_training", run_training)
    monkeypatch.setattr(nas.full.session.FullTraining, "latency", lambda self, run: (1.0, "here"))
    return jobs


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("epoch=3", r"refuses an argument: 'epoch' is not a valid YOLO argument. Similar arguments are i.e. \['epochs"),
        ("lr0=fast", "refuses an argument: 'lr0=fast' is of invalid type str"),
        ("epochs=3", r"epochs is not given so here \(--epochs\)"),
        ("time=0.5", r"time is not given so here \(--epochs"),
        ("cfg=mine.yaml", r"cfg is not given so here \(its arguments are given as KEY=VALUE"),
        ("resume=True", "it resumes what was stopped"),
        ("lr0", "expected an argument of Ultralytics as key=value"),
    ],
)
def test_arguments_that_the_host_does_not_know_get_its_message(full_study, training, argument, words):
    with pytest.raises(NasError, match=words):
        training(full_study(), arguments=(argument,))


def test_a_study_that_does_not_fit_is_refused(full_study, training, tiny_data, tmp_path, boxes_data, monkeypatch):
    study = full_study()
    with pytest.raises(NasError, match="has changed since the study 's'"):
        training(study, data=str(boxes_data))
    with pytest.raises(NasError, match="if it moved, give --data"):
        training(with_settings(study, data=str(tmp_path / "gone.yaml")))
    older = tuple((name, "8.3.0" if name == "ultralytics" else number) for name, number in study.settings.versions)
    with pytest.raises(NasError, match=r"was made with Ultralytics 8.3.0, and .* is installed"):
        training(with_settings(study, versions=older))
    with pytest.raises(NasError, match="no variant 'zzz'"):
        training(study, variants=("zzz",))
    with pytest.raises(NasError, match="is the baseline itself"):
        training(study, trial=0, distill=True)
    with pytest.raises(NasError, match="has no trained baseline: its proxies start from scratch"):
        training(study, start="inherit")
    monkeypatch.setattr(nas.full.session, "can_distil", lambda: False)
    with pytest.raises(NasError, match="has no distill_model"):
        training(study, distill=True)
    assert FullRuns(study.location).read() == []


def with_settings(study, **changes):
    other = copy.copy(study)
    other.settings = replace(study.settings, **changes)
    return other


def test_the_options_decide_what_is_trained(full_study, training):
    study = full_study()
    ids = [trial.variant.id for trial in study.trials()]
    ends = [run.kind for run in training(study, variants=(ids[2],), extras=("pruned", "scaled")).wanted]
    assert ends == ["variant", "pruned", "scaled"]
    made = training(study, variants=(ids[1][:5], ids[2]), extras=("baseline",), seeds=2)
    assert [(run.model, run.seed) for run in made.wanted] == [(i, seed) for seed in (0, 1) for i in ids]
    assert made.wanted[0].yaml == study.trials()[0].yaml  # byte for byte
    same = training(study, variants=(ids[1],), arguments=(*made_arguments(), "workers=4", "cache=ram"))
    assert same.wanted[0].group == made.wanted[0].group  # nothing of a result depends on these
    assert training(study, variants=(ids[1],), imgsz=96).wanted[0].group != made.wanted[0].group
    # A teacher makes another row, which is compared with the same baseline.
    taught = training(study, variants=(ids[1],), distill=True)
    assert [run.model for run in taught.wanted] == [ids[0], f"{ids[1]}+distil"]
    assert taught.wanted[1].group == made.wanted[0].group


def made_arguments():
    return "batch=8", "plots=False", "warmup_epochs=0", "amp=False"


def test_the_scaled_model_is_the_largest_within_the_gflops(full_study):
    study = full_study()
    stock = study.trials()[0]
    model = scaled_model(study, 0.7 * stock.gflops)
    cost = model_cost(build(model.yaml, "n"))
    assert 0.65 * stock.gflops < cost.gflops <= 0.707 * stock.gflops
    assert (model.gflops, model.params) == (cost.gflops, cost.params)
    assert model.name.startswith("yolov8n-scaled")
    assert model.model == f"scaled-{cost.gflops:.2f}"
    narrower = pruned_model(study, 0.7 * stock.gflops)
    assert 0.65 * stock.gflops < narrower.gflops <= 0.7 * stock.gflops
    assert narrower.variant.width
    with pytest.raises(NasError, match="leave scaled out of --with"):
        scaled_model(study, 0.1)


def test_several_workers_make_each_once_and_teachers_first(full_study, training, instant):
    study = full_study()
    made = training(study, front=True, distill=True, seeds=2, workers=2)
    runs = made.run()
    assert len(runs) == len(made.wanted) == len(instant)
    assert {run.status for run in runs} == {"done"}
    for run in runs:
        job = next(job for job in instant if job["arguments"]["name"] == Path(run.folder).name)
        teacher = job["arguments"].get("distill_model")
        base = next(r for r in runs if r.kind == "baseline" and r.seed == run.seed)
        assert teacher == (base.weights if run.distilled else None)
        assert job["threads"] >= 1
    assert made.run() == runs
    assert len(instant) == len(runs)  # nothing is trained again


def test_a_full_disk_leaves_what_is_finished_and_the_rest_to_be_resumed(full_study, training, instant, monkeypatch):
    study = full_study()
    done = training(study, trial=0).run()

    def full(*_):
        raise ProxyFailure("error", "the disk is full: OSError: [Errno 28] No space left on device; see train.log")

    ended = nas.full.session.run_training
    monkeypatch.setattr(nas.full.session, "run_training", full)
    with pytest.raises(OutputError, match=r"(?s)the disk is full.*start again, and it will be resumed"):
        training(study, trial=1).run()
    assert [run.status for run in FullRuns(study.location).read()] == ["done", "running"]
    monkeypatch.setattr(nas.full.session, "run_training", ended)
    (run,) = training(study, trial=1).run()
    assert (run.status, run.attempts) == ("done", 2)
    assert FullRuns(study.location).read() == [*done, run]
    # A failure of the model is a row of its own, and no other training waits for it.

    def fails(*_):
        raise ProxyFailure("error", "RuntimeError: why; see train.log")

    tries = []
    monkeypatch.setattr(nas.full.session, "run_training", lambda *given: (tries.append(given), fails(*given)))
    (failed,) = training(study, trial=2, workers=2).run()
    assert len(tries) == 1
    assert (failed.status, failed.failure) == ("failed", "RuntimeError: why; see train.log")


def test_the_command(full_study, instant, tmp_path):
    study = full_study()
    command = ["train", "s", "--storage", study.location.url, "--imgsz", "64", "--device", "cpu"]
    out = CliRunner().invoke(cli, [*command, "--trial", "1", "--with", "baseline", "--epochs", "2", "batch=8"])
    assert out.exit_code == 0, out.output
    assert "2 full trainings, 0 of them are done: 2 epochs at 64 px from scratch, batch=8, on cpu" in out.output
    rows = json.loads(CliRunner().invoke(cli, [*command, "--trial", "1", "--epochs", "2", "batch=8", "--json"]).stdout)
    assert [row["status"] for row in rows] == ["done"]
    for wrong in (["--best", "--front"], ["--with", "nothing"]):
        assert CliRunner().invoke(cli, [*command, *wrong]).exit_code == 2
    unknown = CliRunner().invoke(cli, [*command, "epoch=3"])
    assert unknown.exit_code == 1
    assert len(unknown.output.strip().splitlines()) == 1


def test_image_sizes_are_those_that_the_host_trains_at(full_study, training):
    made = training(full_study(), trial=1, imgsz=100)
    assert [run.imgsz for run in made.wanted] == [128]
    assert made.observer.said == ["128 px, not 100: Ultralytics rounds the image size up to a multiple of 32"]


def test_a_model_that_cannot_be_timed_keeps_its_training(full_study, training, instant, monkeypatch):
    def fails(self, run):
        raise BuildError("cannot be timed: RuntimeError: why")

    monkeypatch.setattr(nas.full.session.FullTraining, "latency", fails)
    made = training(full_study(), trial=1)
    (run,) = made.run()
    assert (run.status, run.latency_ms) == ("done", None)
    assert any("its latency is left out, cannot be timed: RuntimeError: why" in line for line in made.observer.said)


def test_a_teacher_that_failed_before_is_trained_again_first(full_study, training, instant, monkeypatch):
    study = full_study()
    ended = nas.full.session.run_training

    def fails(*_):
        raise ProxyFailure("error", "RuntimeError: why; see train.log")

    monkeypatch.setattr(nas.full.session, "run_training", fails)
    assert [run.status for run in training(study, trial=1, distill=True).run()] == ["failed"]
    monkeypatch.setattr(nas.full.session, "run_training", ended)
    runs = training(study, trial=1, distill=True).run()
    assert [(run.kind, run.distilled, run.status) for run in runs] == [
        ("baseline", False, "done"), ("variant", True, "done")
    ]  # fmt: skip


def test_only_a_full_disk_is_one(full_study, training, instant, monkeypatch):
    def fails(*_):
        raise ProxyFailure("error", "FileNotFoundError: /mnt/disk1/coco/a.jpg; see train.log")

    monkeypatch.setattr(nas.full.session, "run_training", fails)
    (run,) = training(full_study(), trial=1).run()
    assert (run.status, run.failure) == ("failed", "FileNotFoundError: /mnt/disk1/coco/a.jpg; see train.log")


def test_a_yardstick_of_the_study_is_no_variant(full_study):
    """By its number a trial of the pruned baseline can be trained too: as what --with pruned makes."""
    study = full_study()
    pruned = pruned_model(study, 0.7 * study.trials()[0].gflops)
    trial = Trial(
        9, pruned.variant, {}, "done", yaml=pruned.yaml, params=pruned.params, gflops=pruned.gflops
    )  # fmt: skip
    assert model_of_trial(trial) == pruned


def test_a_failed_training_is_an_exit_code(full_study, instant, monkeypatch):
    def fails(*_):
        raise ProxyFailure("error", "RuntimeError: why; see train.log")

    monkeypatch.setattr(nas.full.session, "run_training", fails)
    command = ["train", "s", "--storage", full_study().location.url, "--imgsz", "64", "--device", "cpu", "--trial", "1"]
    out = CliRunner().invoke(cli, command)
    assert out.exit_code == 1
    assert "RuntimeError: why; see train.log" in out.output.splitlines()[-1]
