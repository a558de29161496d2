"""Real trainings, as short as they get: sharing, isolation, failures, no network."""

from __future__ import annotations

import copy
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from stock import tensor_count

from nas.data.dataset import load, write_resolved
from nas.errors import NotANumber, ProxyFailure
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import named_state
from nas.space.bases import load_base
from nas.space.variant import Variant, parse_swaps
from nas.training.jobs import ProxyJob
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, diverges
from nas.workers.process import ProxyWorker, trainers_of

RECIPE = Recipe(epochs=2, imgsz=64, batch=8, init="scratch", lr0=2e-3, warmup_epochs=1.0)


@pytest.fixture(scope="module")
def make_job(tiny_data, tmp_path_factory):
    dataset = load(tiny_data)
    data = write_resolved(dataset, tmp_path_factory.mktemp("resolved"))

    def make(*swaps: str, **changes) -> ProxyJob:
        variant = parse_swaps("yolov8", "n", swaps)
        job = ProxyJob(
            variant.name, render(variant).yaml, "yolov8", "n", variant.swaps, str(data), dataset.fingerprint, RECIPE, 0
        )
        return replace(job, **changes)

    return make


@pytest.fixture(scope="module")
def worker(own_cache):
    with ProxyWorker(own_cache, threads=2) as made:  # several, however many cores the tests have
        yield made


def losses(result):
    return [(s.train_loss, s.validation) for s in result.curve]


def test_a_curve_comes_while_it_trains(worker, make_job):
    heard = []
    result = worker.run(make_job(), heard.append)
    assert tuple(heard) == result.curve
    assert [s.epoch for s in result.curve] == [1, 2]
    assert result.inherited == (tensor_count(), tensor_count())
    assert all(s.train_loss > 0 and s.validation.loss > 0 and s.seconds > 0 for s in result.curve)
    assert result.average.loss > 0
    assert result.average != result.curve[-1].validation
    assert result.seconds > 0
    assert result.cpu_seconds > 0


def test_weights_are_averaged_only_where_that_is_asked_for(worker, make_job):
    """And nothing else depends on it."""
    whole, without = worker.run(make_job()), worker.run(make_job(average=False))
    assert whole.average is not None
    assert without.average is None
    assert losses(without) == losses(whole)


def test_nothing_is_written_into_the_dataset(worker, make_job, tiny_data, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(tiny_data.parent, own, ignore=shutil.ignore_patterns("*.cache"))
    before = sorted(own.rglob("*"))
    data = write_resolved(load(own / "data.yaml"), tmp_path / "resolved")
    worker.run(make_job(data=str(data), data_key="own"))
    assert sorted(own.rglob("*")) == before


def test_a_kept_process_answers_as_a_fresh_one(worker, make_job, own_cache):
    other = worker.run(make_job("neck.up_*=DySample", recipe=replace(RECIPE, epochs=10)))  # its mosaic ends before it
    assert [s.epoch for s in other.curve if s.validation] == [8, 9, 10]  # only the last ones are validated
    kept = worker.run(make_job())
    with ProxyWorker(own_cache, threads=2) as fresh:
        assert losses(fresh.run(make_job())) == losses(kept)
    assert losses(worker.run(make_job(seed=1))) != losses(kept)


def test_bfloat16_is_a_training_of_its_own(worker, make_job):
    """Rounded otherwise, so other numbers; the same ones again; and near those of float32."""
    slow = replace(RECIPE, lr0=1e-6, warmup_bias_lr=0.0)  # AdamW's first steps go by signs, which rounding decides
    narrow = make_job(recipe=replace(slow, amp="bf16"))
    first, wide = worker.run(narrow), worker.run(make_job(recipe=slow))
    assert losses(worker.run(narrow)) == losses(first) != losses(wide)
    for score, other in zip(first.curve, wide.curve, strict=True):
        assert score.train_loss == pytest.approx(other.train_loss, rel=0.02)
        assert score.validation.loss == pytest.approx(other.validation.loss, rel=0.02)


def test_a_loss_in_float32_of_predictions_in_bfloat16():
    import torch

    from nas.training.host_patches import Float32Loss
    from nas.training.host_version import autocast

    class Loss:
        updates = 0

        def __call__(self, predictions, batch):
            a, b = predictions["boxes"], torch.eye(4)
            assert a.dtype == (a @ b).dtype == torch.float32
            assert predictions["index"].dtype == torch.int64
            return a.sum(), batch

        def update(self):
            self.updates += 1

    loss = Float32Loss(Loss())
    narrow = torch.ones(4, 4, dtype=torch.bfloat16)
    with autocast(None, torch.bfloat16, device="cpu"):
        assert (narrow @ narrow.float()).dtype == torch.bfloat16
        assert loss({"boxes": narrow, "index": torch.zeros(1, dtype=torch.int64)}, 1)[1] == 1
    loss.update()
    assert loss.updates == 1
    assert copy.deepcopy(loss).updates == 1
    assert not hasattr(Float32Loss(str), "update")
    asked = []
    autocast(lambda enabled, device: asked.append((enabled, device)), False, device="cpu")
    autocast(lambda enabled, device: asked.append((enabled, device)), torch.bfloat16)
    assert asked == [(False, "cpu"), (torch.bfloat16, "cuda")]


def test_variants_start_from_the_same_values(worker, make_job):
    """DySample at zero offset is bilinear and holds new tensors; everything else is the baseline's."""
    shared, own = worker.run(make_job("neck.up_*=DySample")).inherited
    assert shared == tensor_count()
    assert own > tensor_count()


def test_trained_tensors_are_saved_and_inherited(worker, make_job, tmp_path):
    file = tmp_path / "deep" / "base.pt"
    trained = worker.run(make_job(save=str(file)))
    assert [p.name for p in file.parent.iterdir()] == ["base.pt"]
    further = worker.run(make_job(init=str(file)))
    assert further.inherited == (tensor_count(), tensor_count())
    assert losses(further) != losses(trained)
    assert worker.run(make_job("neck.c2f_p3=C2f_SPConv", init=str(file))).inherited[0] < tensor_count()


def test_an_ultralytics_checkpoint_is_inherited_from(worker, make_job, tiny_data, tmp_path):
    from ultralytics import YOLO

    YOLO("yolov8n.yaml").train(
        data=str(tiny_data), epochs=1, imgsz=64, batch=8, device="cpu", workers=0, plots=False, verbose=False,
        project=str(tmp_path), name="p",
    )  # fmt: skip
    weights = tmp_path / "p" / "weights" / "last.pt"
    assert worker.run(make_job(init=str(weights))).inherited == (tensor_count(), tensor_count())


def test_a_file_that_does_not_fit(worker, make_job, tmp_path):
    import torch

    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ProxyFailure, match=f"holds only 0 of the {tensor_count()} tensors of yolov8n"):
        worker.run(make_job(init=str(tmp_path / "x.pt")))
    larger = named_state(build(render(Variant("yolov8", "s")).yaml, "s", 2).state_dict(), load_base("yolov8"))
    torch.save(larger, tmp_path / "s.pt")
    with pytest.raises(ProxyFailure, match="it is of another model or scale"):
        worker.run(make_job(init=str(tmp_path / "s.pt")))


def test_what_cannot_be_built_fails_alone(worker, make_job):
    broken = make_job().yaml.replace("Conv, [256, 3, 2]", "Conv, [256, 3, 2, 1, 7]")
    with pytest.raises(ProxyFailure, match="cannot be built") as caught:
        worker.run(make_job(yaml=broken))
    assert caught.value.kind == "build"
    assert worker._process.is_alive()  # a variant that is wrong breaks nothing in it
    assert worker.run(make_job()).curve


def test_not_a_number_is_a_failure(worker, make_job, tmp_path):
    import torch

    worker.run(make_job(save=str(tmp_path / "base.pt")))
    state = torch.load(tmp_path / "base.pt")
    state["backbone.stem_p1:conv.weight"].fill_(float("nan"))
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(ProxyFailure, match="the validation loss is not a number") as caught:
        worker.run(make_job(init=str(tmp_path / "nan.pt")))
    assert caught.value.kind == "nan"
    assert worker.run(make_job()).curve


def test_a_loss_that_runs_away_ends_its_training(worker, make_job):
    heard = []
    reckless = replace(RECIPE, epochs=20, lr0=1.0, lrf=1.0, warmup_epochs=2.0)
    with pytest.raises(ProxyFailure, match=r"the loss rose from [\d.]+ to [\d.]+ by epoch \d") as caught:
        worker.run(make_job(recipe=reckless), heard.append)
    assert caught.value.kind == "diverged"
    assert 1 <= len(heard) < 10
    assert worker.run(make_job()).curve


def test_a_loss_that_only_moves_is_let_be():
    def epochs(*losses):
        return [EpochScore(k, loss, 1.0) for k, loss in enumerate(losses, 1)]

    before = epochs(6.0, 4.0, 5.0)
    assert not diverges(before, EpochScore(4, 40.0, 1.0))
    assert diverges(before, EpochScore(4, 40.1, 1.0))
    assert not diverges([], EpochScore(1, 1e9, 1.0))


def test_not_a_number_later_on_is_the_same_failure():
    """From the second epoch on the host looks for a checkpoint to reload, and would complain that there is none."""
    from nas.training.proxy_trainer import ProxyTrainer

    check = ProxyTrainer._handle_nan_recovery
    assert check(SimpleNamespace(loss=1.5, fitness=None), 3) is False
    for loss, fitness in ((float("nan"), 0.1), (1.5, float("nan")), (float("inf"), None)):
        with pytest.raises(NotANumber, match="the loss was no longer a number in epoch 4"):
            check(SimpleNamespace(loss=loss, fitness=fitness), 3)


def test_the_process_may_start_others(worker, make_job):
    """On a GPU images are loaded by processes of their own, which a daemon may not have."""
    worker.run(make_job())
    assert not worker._process.daemon


def test_a_dead_process_is_replaced(worker, make_job):
    def kill(_score) -> None:
        os.kill(worker._process.pid, signal.SIGKILL)

    with pytest.raises(
        ProxyFailure, match=r"the training process died \(killed by signal 9\); the system kills"
    ) as caught:
        worker.run(make_job(), kill)
    assert caught.value.kind == "died"
    assert worker.run(make_job()).curve


def test_the_child_does_not_outlive_its_parent(make_job, own_cache, tmp_path):
    code = (
        "import pickle, sys, time\nfrom pathlib import Path\nfrom nas.workers.process import ProxyWorker\n"
        "if __name__ == '__main__':\n"
        "    w = ProxyWorker(Path(sys.argv[1])); w._start(); print(w._process.pid, flush=True); time.sleep(60)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, str(script), str(own_cache)], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        import time

        time.sleep(0.1)
    pytest.fail("the training process outlived its parent")


def test_a_search_starts_its_processes_before_it_imports_what_takes_long():
    code = (
        "import sys\nfrom nas.workers import process as proxy\n"
        "def begun(self): print('torch' in sys.modules, self.threads); raise SystemExit\n"
        "proxy.ProxyWorker._start, proxy.available_cores = begun, lambda: 8\n"
        "from nas.cli import cli\n"
        "cli(['search', 'quick', '--study', 's', '--confirm', '3:3', '--rungs', '0', '--workers', '3'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False 8\n"


def test_ctrl_c_while_processes_start_is_their_parents_affair(own_cache, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, sys, time\nfrom pathlib import Path\nfrom nas.workers.process import trainers_of\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background is told to ignore it
        "    with trainers_of(Path(sys.argv[1]), 2) as started:\n"
        "        try:\n            os.killpg(0, signal.SIGINT)\n            time.sleep(60)\n"
        "        except KeyboardInterrupt:\n            print('heard')\n"
        "        time.sleep(1)\n        print([worker._process.is_alive() for worker in started])\n"
    )
    command = [sys.executable, str(script), str(own_cache)]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, timeout=60)
    assert (done.stdout, done.stderr) == ("heard\n[True, True]\n", "")


def test_a_process_that_cannot_start_early_is_tried_again_by_the_first_job(tmp_path, monkeypatch):
    tried = []

    def full(self):
        tried.append(self)
        raise OSError("no more processes")

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", full)
    with trainers_of(tmp_path, 2) as (first, _):
        assert len(tried) == 2
        with pytest.raises(ProxyFailure, match="the training process could not be started: no more processes"):
            first.work("anything")
    assert len(tried) == 3


def test_no_network(make_job, own_cache, tmp_path, monkeypatch):
    """Every name lookup and connection of a training process fails loudly; none is tried."""
    log = tmp_path / "attempts.txt"
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "def deny(*args, **kwargs):\n"
        f"    open({str(log)!r}, 'a').write(repr(args) + chr(10))\n"
        "    raise OSError('no network in this test')\n"
        "socket.getaddrinfo = socket.gethostbyname = socket.create_connection = deny\n"
        "connect = socket.socket.connect\n"
        "socket.socket.connect = lambda s, a: deny(a) if isinstance(a, tuple) else connect(s, a)\n"
    )
    for tracker in ("clearml", "comet_ml", "mlflow", "wandb", "dvclive"):  # which would open a run for each proxy
        (tmp_path / f"{tracker}.py").write_text(f"open({str(log)!r}, 'a').write({tracker!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with ProxyWorker(tmp_path / "fresh-cache") as offline:
        monkeypatch.delenv("YOLO_CONFIG_DIR")
        assert offline.run(make_job()).curve
    assert not log.exists(), log.read_text()
    assert (tmp_path / "fresh-cache" / "host").is_dir()
    assert socket.getaddrinfo.__module__ == "socket"
