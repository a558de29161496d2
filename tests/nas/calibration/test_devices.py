"""Calibrations on GPUs that are made up: who trains where, in which precision, and alone where memory is short."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from nas.calibration.calibrator import _AssignedWorker
from nas.device import Gpu
from nas.errors import OutOfMemory, ProxyError, ProxyFailure
from nas.session.calibration import open_calibrator
from nas.session.options import CalibrationOptions
from nas.study.settings import PER_SEED
from nas.workers.parallel import DeviceLock


@pytest.fixture
def two_gpus(monkeypatch):
    """Return what lets a calibration run on two GPUs."""
    monkeypatch.setattr("nas.device.gpus", lambda: (Gpu("NVIDIA A100", (8, 0), bf16=True, code=True),) * 2)

    def on_them(made):
        c = made.calibration
        proxies = tuple((name, replace(recipe, device="0")) for name, recipe in c.proxies)
        return replace(made, calibration=replace(c, full=replace(c.full, device="0"), proxies=proxies))

    return on_them


def test_gpus_are_dealt_to_the_workers(calibrator, fake_worker, two_gpus, monkeypatch):
    made = two_gpus(calibrator(workers=2, proxies=("bank-0", "scratch-2"), baselines=PER_SEED))
    both, first, train = threading.Barrier(2, timeout=60), set(), fake_worker.run

    def run(self, job, on_epoch=None):
        if self not in first:  # neither does all of it before the other begins
            first.add(self)
            both.wait()
        return train(self, job, on_epoch)

    monkeypatch.setattr(fake_worker, "run", run)
    made.run()
    assert {job.recipe.device for job in fake_worker.jobs} == {"0", "1"}
    assert {job.proxy.recipe.device for job in fake_worker.distilled} <= {"0", "1"}
    assert not made.missing()  # whichever device a run was made on


def test_the_cores_are_shared_out(calibrator, two_gpus, monkeypatch):
    monkeypatch.setattr("nas.calibration.calibrator.available_cores", lambda: 12)
    assert two_gpus(calibrator(workers=2))._threads == 6
    assert two_gpus(calibrator(workers=24))._threads == 1
    assert calibrator(workers=2)._threads == 1


def test_what_does_not_fit_beside_another_is_trained_alone(calibrator, recorder):
    made, lock, leave, tried = calibrator(), DeviceLock(), threading.Event(), []

    class Leaves(type(recorder)):
        def note(self, text):
            super().note(text)
            leave.set()

    def stay():
        with lock.shared():
            assert leave.wait(60)

    def train():
        tried.append(lock._inside)
        if lock._inside > 1:
            raise ProxyFailure("memory", "out of memory")
        return "trained"

    made = replace(made, observer=Leaves())
    other = threading.Thread(target=stay)
    other.start()
    while not lock._inside:
        time.sleep(0.01)
    assert made._run_on(_AssignedWorker(None, "0", lock), train) == "trained"
    other.join(60)
    assert tried == [2, 1]
    assert "alone" in made.observer.said[-1]
    with pytest.raises(OutOfMemory):  # and what fails alone has failed
        made._run_on(_AssignedWorker(None, "0", lock), lambda: (_ for _ in ()).throw(OutOfMemory("out of memory")))


def test_a_kernel_that_fails_ends_a_calibration(calibrator, fake_worker):
    fake_worker.fails["CARAFE"] = ProxyFailure("kernel", "KernelError: no")
    with pytest.raises(ProxyError, match="a CUDA kernel cannot be used here: KernelError: no\nNAS_KERNELS=reference"):
        calibrator(proxies=("scratch-2",)).run()


def test_the_precision_of_a_calibration(tmp_path, recorder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = CalibrationOptions(space="quick", device="cpu", amp="bf16")
    made = open_calibrator(tmp_path, recorder, options)
    assert {made.calibration.full.amp, *(recipe.amp for _, recipe in made.calibration.proxies)} == {"bf16"}
    assert recorder.said == ["trainings run on the CPU in bf16"]
