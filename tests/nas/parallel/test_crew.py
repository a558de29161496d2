"""Several trainings side by side in one search: shared out, stopped together, alone where memory is short."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import instant_worker
import pytest
from instant_worker import InstantTrainer, Quiet

import nas.fleet
import nas.runner
import nas.storage
from nas.crew import side_by_side
from nas.errors import Starved, StudyError
from nas.fleet import dealt, runners_of
from nas.locks import held
from nas.proxy import ProxyFailure, ProxyWorker
from nas.race import rules_of
from nas.room import Room
from nas.rungs import Rung
from nas.runner import Runner
from nas.search import plan, search
from nas.study import Study
from nas.trial import STOPPED, Trial
from nas.turn import is_complete

WAIT_S = 60


@pytest.fixture(autouse=True)
def _quick_costs(monkeypatch):
    monkeypatch.setattr(nas.runner, "costed", instant_worker.instant_cost)
    monkeypatch.setattr("nas.search._PAUSE_S", 0.01)


@pytest.fixture
def study(make, tmp_path) -> Study:
    return make(f"sqlite:///{tmp_path / 'a.db'}", trials=12)


class Told(Quiet):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Meets(InstantTrainer):
    """Makes its first training of a swap only when another one does too: shows that they are side by side."""

    barrier = threading.Barrier(2, timeout=WAIT_S)

    def __init__(self) -> None:
        self.jobs = []

    def run(self, job, on_epoch=None):
        if job.swaps and not any(j.swaps for j in self.jobs):
            self.barrier.wait()
        self.jobs.append(job)
        return super().run(job, on_epoch)


def test_two_share_a_search(study):
    trainers = [Meets(), Meets()]
    trials = search(study, [Runner(study, Path("d"), trainer, Quiet()) for trainer in trainers])
    done = [t for t in trials if t.status == "done"]
    assert len({t.key for t in done}) == len(done) == len(trials)
    assert len({t.variant.id for t in done}) == 12
    assert sum(len(trainer.jobs) for trainer in trainers) == len(done)
    assert {len([t for t in done if t.variant == v]) for v in {t.variant for t in done}} > {
        1
    }  # and the first are confirmed


def test_costs_are_counted_one_at_a_time(study, monkeypatch):
    """The host shares modules between models that it counts; two counts at once would count them twice."""
    counting = threading.Semaphore(1)

    def alone(variant):
        assert counting.acquire(blocking=False)
        try:
            time.sleep(0.01)
            return instant_worker.instant_cost(variant)
        finally:
            counting.release()

    monkeypatch.setattr(nas.runner, "costed", alone)
    trials = search(study, [Runner(study, Path("d"), InstantTrainer(), Quiet()) for _ in range(3)])
    assert {t.status for t in trials} == {"done"}


def test_the_first_failure_stops_all(study):
    begun = threading.Event()

    class Endless(InstantTrainer):
        def __init__(self) -> None:
            self.killed = threading.Event()

        def run(self, job, on_epoch=None):
            begun.set()
            assert self.killed.wait(WAIT_S)
            raise ProxyFailure("died", "the training process died")

        def kill(self):
            self.killed.set()

    class Fails(InstantTrainer):
        def run(self, job, on_epoch=None):
            assert begun.wait(WAIT_S)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(study, [Runner(study, Path("d"), trainer, Quiet()) for trainer in (Fails(), Endless())])
    trials = Study.load(study.place).trials()
    assert [(t.status, t.failure) for t in trials] == [("interrupted", STOPPED)] * 2


def test_what_does_not_fit_beside_another_is_trained_alone(study):
    """The second to come is out of memory as long as the first one trains."""
    inside, told, most = [], Told(), []
    lock, met = threading.Lock(), threading.Event()
    room = Room()

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

    trials = search(study, [Runner(study, Path("d"), Small(), told, room=room) for _ in range(3)])
    assert max(most) > 1
    assert {t.status for t in trials} == {"done"}
    assert any("out of memory beside other trainings; it is trained again alone" in note for note in told.notes)


def test_what_does_not_fit_alone_fails(study):
    class Small(InstantTrainer):
        def run(self, job, on_epoch=None):
            if ("neck.up_p4", "CARAFE(c_mid=64,k_up=5)") in job.swaps or "CARAFE" in str(job.swaps):
                raise ProxyFailure("memory", "out of memory")
            return super().run(job, on_epoch)

    trials = search(study, [Runner(study, Path("d"), Small(), Quiet())])
    failed = [t for t in trials if t.status == "failed"]
    assert failed
    assert all(t.failure == "memory: out of memory" for t in failed)


def test_room_lets_nobody_in_beside_who_is_alone():
    room, order = Room(), []
    with room.shared() as company:
        assert not company()
        waits = threading.Thread(target=lambda: _alone(room, order))
        waits.start()
        until_waiting(room)
        comes = threading.Thread(target=lambda: _beside(room, order))
        comes.start()
        order.append("first")
    waits.join(WAIT_S)
    comes.join(WAIT_S)
    assert order == ["first", "alone", "beside"]
    with room.shared() as one, room.shared() as other:
        assert one()
        assert other()


def _alone(room, order):
    with room.alone():
        order.append("alone")


def _beside(room, order):
    with room.shared():
        order.append("beside")


def until_waiting(room):
    while not room._waiting:
        pass


def test_a_single_member_works_in_this_thread():
    seen = []

    class Member:
        def kill(self):
            raise AssertionError

    side_by_side([Member()], lambda _member, stop: seen.append((threading.current_thread(), stop.is_set())))
    assert seen == [(threading.main_thread(), False)]


@pytest.mark.parametrize(
    ("device", "workers", "gpus", "expected"),
    [
        ("cpu", 3, 2, ["cpu"] * 3),
        ("0", 1, 2, ["0"]),
        ("0", 3, 2, ["0", "1", "0"]),
        ("1", 2, 2, ["1", "0"]),
        ("1", 2, 0, ["1", "0"]),
        ("0,1", 2, 2, ["0,1"] * 2),
    ],
)
def test_gpus_are_dealt_out(device, workers, gpus, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert dealt(device, workers) == expected


def test_a_runner_trains_on_its_own_device_and_the_recipe_stays(study):
    jobs = []

    class Looks(InstantTrainer):
        def run(self, job, on_epoch=None):
            jobs.append(job)
            return super().run(job, on_epoch)

    search(study, [Runner(study, Path("d"), Looks(), Quiet(), device="5")])
    assert {job.recipe.device for job in jobs} == {"5"}
    assert study.settings.recipe.device != "5"


def test_latencies_are_not_measured_beside_trainings(study, tmp_path):
    object.__setattr__(study.settings, "latency_on", "here")
    refused = pytest.raises(StudyError, match=r"--workers 2: the study 'k' measures latencies, .* leave --workers out")
    with refused, runners_of(study, None, tmp_path, Quiet(), [ProxyWorker(tmp_path), ProxyWorker(tmp_path)]):
        pass


def test_what_is_killed_stays_so(tmp_path):
    worker = ProxyWorker(tmp_path)
    worker.kill()
    with pytest.raises(ProxyFailure, match="the training process was stopped"):
        worker.work("anything")


def test_who_waits_for_weights_stops_waiting(study, tmp_path):
    runner = Runner(study, Path("d"), InstantTrainer(), Quiet())
    path = tmp_path / "bank"
    path.parent.mkdir(exist_ok=True)
    with held(tmp_path / "bank.lock", "it"):
        runner.kill()
        with pytest.raises(StudyError, match=STOPPED), runner.weights._alone(path):
            pass


def test_a_worker_whose_machine_fails_holds_nothing_against_variants(study):
    """Its baseline fails too, so its failures are not the variants'; it stops and says so."""
    wait = threading.Event()

    class Fine(InstantTrainer):
        def run(self, job, on_epoch=None):
            assert wait.wait(WAIT_S)
            return super().run(job, on_epoch)

    study.ask_for(3, 3)
    search_one = Runner(study, Path("d"), Fine(), Quiet())
    first = threading.Thread(target=lambda: search(study, [search_one]))
    first.start()
    while not study.trials():
        time.sleep(0.01)

    class Broken(InstantTrainer):
        def run(self, job, on_epoch=None):
            raise ProxyFailure("error", "CUDA error")

    other = Study.load(study.place)
    with pytest.raises(StudyError, match=r"2 trainings have failed in a row here, .*baseline \(error: CUDA error\)"):
        search(other, [Runner(other, Path("d"), Broken(), Quiet())])
    wait.set()
    first.join(WAIT_S)
    status = [t.status for t in Study.load(study.place).trials()]
    assert status.count("interrupted") == 2
    assert status.count("failed") == 0
    assert len({t.variant for t in study.trials() if t.status == "done"}) == 3


def test_the_rungs_of_a_study_are_shared_out_and_told_once(make, tmp_path):
    study, told = make(f"sqlite:///{tmp_path / 'a.db'}", trials=12, rungs=(Rung(1, 64),)), Told()
    runs = search(study, [Runner(study, Path("d"), InstantTrainer(), told) for _ in range(4)])
    assert max(Counter(t.key for t in runs).values()) == 1
    assert (study.spent, len({t.variant for t in study.trials()})) == (12, 1 + 4)
    assert is_complete(runs, study.settings, rules_of(study))
    assert [note.split(" (")[0] for note in told.notes] == ["rung 2 of 2", told.notes[1].split(" (")[0]]
    assert told.notes[1].startswith("confirming")


@pytest.mark.parametrize(("error", "hurries"), [(KeyboardInterrupt(), True), (ValueError("a fault of ours"), False)])
def test_who_is_stopped_waits_for_no_server(study, error, hurries):
    class Stopped(InstantTrainer):
        def run(self, job, on_epoch=None):
            raise error

    with pytest.raises(type(error)):
        search(study, [Runner(study, Path("d"), Stopped(), Quiet())])
    assert nas.storage._HURRY.is_set() == hurries


def test_another_search_does_not_lower_what_is_asked_for(study):
    study.ask_for(10, 10)
    space = study.settings.space
    handle = study.start(Trial(-1, space.variant({}), space.baseline(), "running"))
    assert plan(Study.load(study.place), 5).target == study.target == 15
    handle.end(status="interrupted", failure=STOPPED)


def test_what_the_system_kills_beside_others_is_trained_alone(study):
    """The system kills without a word when memory runs out."""
    inside, told = [], Told()
    lock, met = threading.Lock(), threading.Event()
    room = Room()

    class Large(InstantTrainer):
        def run(self, job, on_epoch=None):
            with lock:
                inside.append(self)
                crowded = len(inside) > 1
            try:
                if crowded:
                    met.set()
                    raise ProxyFailure("died", "the training process died (killed by signal 9)", starved=True)
                assert met.wait(WAIT_S)
                return super().run(job, on_epoch)
            finally:
                with lock:
                    inside.remove(self)

    trials = search(study, [Runner(study, Path("d"), Large(), told, room=room) for _ in range(3)])
    assert {t.status for t in trials} == {"done"}
    assert any("beside other trainings; it is trained again alone" in note for note in told.notes)


def test_a_bank_that_does_not_fit_beside_others_is_distilled_alone(study):
    room, leave, beside = Room(), threading.Event(), []

    class Leaves(Told):
        def note(self, text):
            super().note(text)
            leave.set()

    def stay():
        with room.shared():
            assert leave.wait(WAIT_S)

    def bank(_weights, _recipe, seed, _wanted):
        beside.append(room._inside - 1)
        if beside[-1]:
            raise Starved("the bank could not be distilled: out of memory")
        return f"bank {seed}"

    runner = Runner(study, Path("d"), InstantTrainer(), Leaves(), room=room)
    other = threading.Thread(target=stay)
    other.start()
    while not room._inside:
        time.sleep(0.01)
    assert runner.heritage.beside(lambda: bank(None, None, 3, None), "the bank of seed 3") == "bank 3"
    other.join(WAIT_S)
    assert beside == [1, 0]
    with room.shared() as company:  # and what fails alone has failed
        assert not company()
    with pytest.raises(Starved):
        runner.heritage.beside(lambda: (_ for _ in ()).throw(Starved("out of memory")), "the bank of seed 3")


def test_one_bad_variant_does_not_end_a_search_of_as_many_workers_as_trials(make, tmp_path):
    """Nothing has trained there before it fails."""
    study = make(f"sqlite:///{tmp_path / 'b.db'}", trials=4)
    failed = threading.Event()

    class Some(InstantTrainer):
        def run(self, job, on_epoch=None):
            if job.swaps and "CARAFE" in str(job.swaps):
                failed.set()
                raise ProxyFailure("error", "RuntimeError: no such kernel")
            if job.swaps:
                assert failed.wait(WAIT_S)
            return super().run(job, on_epoch)

    trials = search(study, [Runner(study, Path("d"), Some(), Quiet()) for _ in range(4)])
    assert not any(t.status in ("running", "interrupted") for t in trials)
    assert all("CARAFE" in str(t.variant.swaps) for t in trials if t.status == "failed")
    assert any(t.status == "failed" for t in trials)


def test_a_device_that_fails_beside_one_that_works_holds_nothing_against_variants(make, tmp_path):
    """And what the other one has in doubt while that stops the search has not failed either, nor is it left open."""
    study = make(f"sqlite:///{tmp_path / 'b.db'}", trials=1)
    search(study, [Runner(study, Path("d"), InstantTrainer(), Quiet())])
    study.ask_for(9, 8)
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

    with pytest.raises(StudyError, match=r"so does the baseline \(error: CUDA error\)"):
        search(study, [Runner(study, Path("d"), trainer(), Quiet()) for trainer in (Works, Broken)])
    ended = [(t.status, t.failure) for t in study.runs()[1:]]
    assert sorted(ended) == [
        *[("interrupted", "error: CUDA error")] * 3,
        ("interrupted", "error: RuntimeError: of this variant"),
        ("interrupted", STOPPED),
    ]


def test_a_process_that_cannot_be_started_is_a_failure_of_that_training(tmp_path, monkeypatch):
    def no_more(_self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", no_more)
    worker = ProxyWorker(tmp_path)
    worker.start()
    with pytest.raises(ProxyFailure, match=r"could not be started: .*Resource temporarily unavailable") as caught:
        worker.work("anything")
    assert caught.value.kind == "died"


def test_what_is_raised_in_a_search_is_not_the_storage_s(study):
    with pytest.raises(OSError, match="no such device"), study.locked():
        raise OSError("no such device")
