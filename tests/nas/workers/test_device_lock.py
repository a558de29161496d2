"""Devices that several trainings share, and one alone where memory is short."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from instant_worker import InstantTrainer, Quiet, RecordingObserver

from nas.errors import OutOfMemory, ProxyFailure
from nas.search.loop import run_search
from nas.search.runner import Runner
from nas.workers.parallel import DeviceLock

WAIT_S = 60
pytestmark = pytest.mark.usefixtures("quick_costs")


def test_what_does_not_fit_beside_another_is_trained_alone(shared_study):
    """The second to come is out of memory as long as the first one trains."""
    inside, recorder, most = [], RecordingObserver(), []
    lock, met = threading.Lock(), threading.Event()
    device_lock = DeviceLock()

    class Small(InstantTrainer):
        def run(self, job, on_epoch=None):
            with lock:
                inside.append(self)
                most.append(len(inside))
                crowded = len(inside) > 1
            try:
                if crowded:
                    met.set()
                    raise ProxyFailure("memory", "out of memory")
                assert met.wait(WAIT_S)  # the first one is there until another has come
                return super().run(job, on_epoch)
            finally:
                with lock:
                    inside.remove(self)

    trials = run_search(
        shared_study, [Runner(shared_study, Path("d"), Small(), recorder, device_lock=device_lock) for _ in range(3)]
    )
    assert max(most) > 1
    assert {t.status for t in trials} == {"done"}
    assert any("out of memory in parallel with other trainings; it is" in note for note in recorder.notes)


def test_what_does_not_fit_alone_fails(shared_study):
    class Small(InstantTrainer):
        def run(self, job, on_epoch=None):
            if ("neck.up_p4", "CARAFE(c_mid=64,k_up=5)") in job.swaps or "CARAFE" in str(job.swaps):
                raise ProxyFailure("memory", "out of memory")
            return super().run(job, on_epoch)

    trials = run_search(shared_study, [Runner(shared_study, Path("d"), Small(), Quiet())])
    failed = [t for t in trials if t.status == "failed"]
    assert failed
    assert all(t.failure == "memory: out of memory" for t in failed)


def test_room_lets_nobody_in_beside_who_is_alone():
    device_lock, order = DeviceLock(), []
    with device_lock.shared() as company:
        assert not company()
        waits = threading.Thread(target=lambda: _alone(device_lock, order))
        waits.start()
        until_waiting(device_lock)
        comes = threading.Thread(target=lambda: _beside(device_lock, order))
        comes.start()
        order.append("first")
    waits.join(WAIT_S)
    comes.join(WAIT_S)
    assert order == ["first", "alone", "beside"]
    with device_lock.shared() as one, device_lock.shared() as other:
        assert one()
        assert other()


def _alone(device_lock, order):
    with device_lock.exclusive():
        order.append("alone")


def _beside(device_lock, order):
    with device_lock.shared():
        order.append("beside")


def until_waiting(device_lock):
    while not device_lock._waiting:
        pass


def test_a_runner_trains_on_its_own_device_and_the_recipe_stays(shared_study):
    jobs = []

    class Looks(InstantTrainer):
        def run(self, job, on_epoch=None):
            jobs.append(job)
            return super().run(job, on_epoch)

    run_search(shared_study, [Runner(shared_study, Path("d"), Looks(), Quiet(), device="5")])
    assert {job.recipe.device for job in jobs} == {"5"}
    assert shared_study.settings.recipe.device != "5"


def test_what_the_system_kills_beside_others_is_trained_alone(shared_study):
    """The system kills without a word when memory runs out."""
    inside, recorder = [], RecordingObserver()
    lock, met = threading.Lock(), threading.Event()
    device_lock = DeviceLock()

    class Large(InstantTrainer):
        def run(self, job, on_epoch=None):
            with lock:
                inside.append(self)
                crowded = len(inside) > 1
            try:
                if crowded:
                    met.set()
                    raise ProxyFailure("died", "the training process died (killed by signal 9)", out_of_memory=True)
                assert met.wait(WAIT_S)
                return super().run(job, on_epoch)
            finally:
                with lock:
                    inside.remove(self)

    trials = run_search(
        shared_study, [Runner(shared_study, Path("d"), Large(), recorder, device_lock=device_lock) for _ in range(3)]
    )
    assert {t.status for t in trials} == {"done"}
    assert any("in parallel with other trainings; it is trained again alone" in note for note in recorder.notes)


def test_a_bank_that_does_not_fit_beside_others_is_distilled_alone(shared_study):
    device_lock, leave, beside = DeviceLock(), threading.Event(), []

    class Leaves(RecordingObserver):
        def note(self, text):
            super().note(text)
            leave.set()

    def stay():
        with device_lock.shared():
            assert leave.wait(WAIT_S)

    def bank(_weights, _recipe, seed, _wanted):
        beside.append(device_lock._inside - 1)
        if beside[-1]:
            raise OutOfMemory("the bank could not be distilled: out of memory")
        return f"bank {seed}"

    runner = Runner(shared_study, Path("d"), InstantTrainer(), Leaves(), device_lock=device_lock)
    other = threading.Thread(target=stay)
    other.start()
    while not device_lock._inside:
        time.sleep(0.01)
    assert runner.inheritance.make_parallel(lambda: bank(None, None, 3, None), "the bank of seed 3") == "bank 3"
    other.join(WAIT_S)
    assert beside == [1, 0]
    with device_lock.shared() as company:  # and what fails alone has failed
        assert not company()
    with pytest.raises(OutOfMemory):
        runner.inheritance.make_parallel(
            lambda: (_ for _ in ()).throw(OutOfMemory("out of memory")), "the bank of seed 3"
        )
