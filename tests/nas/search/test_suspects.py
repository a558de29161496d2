"""Failures of one worker beside others that work: whose they are."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from instant_worker import InstantTrainer, Quiet

from nas.errors import STOPPED, ProxyError, ProxyFailure
from nas.search.loop import run_search
from nas.search.runner import Runner
from nas.study.study import Study

WAIT_S = 60
pytestmark = pytest.mark.usefixtures("quick_costs")


def test_a_worker_whose_machine_fails_holds_nothing_against_variants(shared_study):
    """Its baseline fails too, so its failures are not the variants'; it stops and says so."""
    wait = threading.Event()

    class Fine(InstantTrainer):
        def run(self, job, on_epoch=None):
            assert wait.wait(WAIT_S)
            return super().run(job, on_epoch)

    shared_study.set_target(3, 3)
    search_one = Runner(shared_study, Path("d"), Fine(), Quiet())
    first = threading.Thread(target=lambda: run_search(shared_study, [search_one]))
    first.start()
    while not shared_study.trials():
        time.sleep(0.01)

    class Broken(InstantTrainer):
        def run(self, job, on_epoch=None):
            raise ProxyFailure("error", "CUDA error")

    other = Study.load(shared_study.location)
    with pytest.raises(ProxyError, match=r"2 trainings have failed in a row here, .*baseline \(error: CUDA error\)"):
        run_search(other, [Runner(other, Path("d"), Broken(), Quiet())])
    wait.set()
    first.join(WAIT_S)
    status = [t.status for t in Study.load(shared_study.location).trials()]
    assert status.count("interrupted") == 2
    assert status.count("failed") == 0
    assert len({t.variant for t in shared_study.trials() if t.status == "done"}) == 3


def test_a_kernel_that_fails_is_no_variants_fault(make_shared, tmp_path):
    """It stops the search: going on would be a search without the modules that have kernels."""
    study = make_shared(f"sqlite:///{tmp_path / 'b.db'}", trials=6)

    class NoKernels(InstantTrainer):
        def run(self, job, on_epoch=None):
            if job.swaps and "CARAFE" in str(job.swaps):
                raise ProxyFailure("kernel", "KernelError: carafe_forward<float>: CUDA_ERROR_NO_BINARY_FOR_GPU")
            return super().run(job, on_epoch)

    with pytest.raises(ProxyError, match=r"CARAFE.*no fault of the variant: KernelError.*\nNAS_KERNELS=reference"):
        run_search(study, [Runner(study, Path("d"), NoKernels(), Quiet())])
    ended = {t.status for t in study.runs() if "CARAFE" in str(t.variant.swaps)}
    assert ended == {"interrupted"}
    assert not any(t.status == "failed" for t in study.runs())


def test_one_bad_variant_does_not_end_a_search_of_as_many_workers_as_trials(make_shared, tmp_path):
    """Nothing has trained there before it fails."""
    study = make_shared(f"sqlite:///{tmp_path / 'b.db'}", trials=4)
    failed = threading.Event()

    class Some(InstantTrainer):
        def run(self, job, on_epoch=None):
            if job.swaps and "CARAFE" in str(job.swaps):
                failed.set()
                raise ProxyFailure("error", "RuntimeError: no such kernel")
            if job.swaps:
                assert failed.wait(WAIT_S)
            return super().run(job, on_epoch)

    trials = run_search(study, [Runner(study, Path("d"), Some(), Quiet()) for _ in range(4)])
    assert not any(t.status in ("running", "interrupted") for t in trials)
    assert all("CARAFE" in str(t.variant.swaps) for t in trials if t.status == "failed")
    assert any(t.status == "failed" for t in trials)


def test_a_device_that_fails_beside_one_that_works_holds_nothing_against_variants(make_shared, tmp_path):
    """And what the other one has in doubt while that stops the search has not failed either, nor is it left open."""
    study = make_shared(f"sqlite:///{tmp_path / 'b.db'}", trials=1)
    run_search(study, [Runner(study, Path("d"), InstantTrainer(), Quiet())])
    study.set_target(9, 8)
    in_doubt, stopped = threading.Event(), threading.Event()

    class Works(InstantTrainer):
        def __init__(self) -> None:
            self.jobs = []

        def run(self, job, on_epoch=None):
            self.jobs.append(job)
            if len(self.jobs) == 1:
                raise ProxyFailure("error", "RuntimeError: of this variant")
            in_doubt.set()
            assert stopped.wait(WAIT_S)
            raise ProxyFailure("died", "the training process died")

        def kill(self):
            stopped.set()

    class Broken(InstantTrainer):
        def run(self, job, on_epoch=None):
            assert in_doubt.wait(WAIT_S)
            raise ProxyFailure("error", "CUDA error")

    with pytest.raises(ProxyError, match=r"so does the baseline \(error: CUDA error\)"):
        run_search(study, [Runner(study, Path("d"), trainer(), Quiet()) for trainer in (Works, Broken)])
    ended = [(t.status, t.failure) for t in study.runs()[1:]]
    assert sorted(ended) == [
        *[("interrupted", "error: CUDA error")] * 3,
        ("interrupted", "error: RuntimeError: of this variant"),
        ("interrupted", STOPPED),
    ]
