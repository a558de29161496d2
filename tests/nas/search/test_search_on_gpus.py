"""Searches on GPUs that are made up, by a stand-in that asks the host for its autocast as a training does."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from click.testing import CliRunner
from instant_worker import InstantTrainer
from made_up_gpu import as_torch_sees
from ultralytics.utils.torch_utils import autocast

import nas.workers.process
from nas import device as devices
from nas.cli import cli
from nas.errors import ProxyFailure, failure_kind, failure_text
from nas.study.location import locate
from nas.study.study import Study


class OnGpu(InstantTrainer):
    """Trains in no time, and fails where the host would."""

    threads = 1

    def __init__(self) -> None:
        self.jobs = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self):
        pass

    def run(self, job, on_epoch=None):
        self.jobs.append(job)
        try:
            autocast(torch.bfloat16 if job.recipe.amp == "bf16" else bool(job.recipe.amp), device="cuda")
        except RuntimeError as error:
            raise ProxyFailure(failure_kind(error), failure_text(error)) from None
        return super().run(job, on_epoch)


@pytest.fixture
def search(monkeypatch, tmp_path, tiny_data):
    """Return what searches with further options, and the stand-in that trained."""
    trainer = OnGpu()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nas.workers.process, "ProxyWorker", lambda cache: trainer)
    monkeypatch.setattr(nas.workers.process, "trainers_of", contextmanager(lambda *_: iter([[trainer]])))
    monkeypatch.setattr(devices, "gpus", lambda: tuple(devices.query_gpus()))
    given = ["--data", str(tiny_data), "--init", "scratch", "--epochs", "2", "--trials", "2", "--confirm", "0"]

    def run(*more: str):
        return CliRunner().invoke(cli, ["search", "quick", *given, *more]), trainer

    return run


@pytest.mark.parametrize(
    ("name", "capability", "amp", "words"),
    [
        ("Tesla T4", (7, 5), False, "GPU 0 (Tesla T4, compute capability 7.5) in fp32, because it has no native bf"),
        ("NVIDIA A100", (8, 0), "bf16", "GPU 0 (NVIDIA A100, compute capability 8.0) in bf16"),
    ],
)
def test_a_search_trains_in_what_the_gpu_computes(name, capability, amp, words, search, monkeypatch):
    as_torch_sees(monkeypatch, name, capability)
    done, trainer = search()
    assert done.exit_code == 0, done.output
    assert words in " ".join(done.stderr.split())
    assert {(job.recipe.device, job.recipe.amp) for job in trainer.jobs} == {("0", amp)}
    assert {t.status for t in Study.load(locate("quick")).trials()} == {"done"}


def test_emulated_bfloat16_is_refused_before_anything(search, monkeypatch):
    as_torch_sees(monkeypatch, "Tesla T4", (7, 5))
    done, trainer = search("--precision", "bf16")
    assert done.exit_code == 1
    assert "error: --precision bf16: GPU 0 (Tesla T4, compute capability 7.5) has no native bfloat16" in done.stderr
    assert not trainer.jobs


def test_a_gpu_without_code_leaves_the_search_to_the_cpu(search, monkeypatch):
    as_torch_sees(monkeypatch, "Tesla P40", (6, 1))
    done, trainer = search()
    assert done.exit_code == 0, done.output
    assert "on the CPU in fp32; GPU 0: the installed PyTorch has no code for it (Tesla P40" in " ".join(
        done.stderr.split()
    )
    assert {job.recipe.device for job in trainer.jobs} == {"cpu"}
