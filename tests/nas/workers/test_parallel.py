"""Several trainings side by side in one search: shared out, and stopped together."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import instant_worker
import pytest
from instant_worker import InstantTrainer, Quiet, RecordingObserver

import nas.search.runner
import nas.search.runners
import nas.study.storage
from nas.errors import STOPPED, LockError, OptionError, ProxyFailure
from nas.locks import held
from nas.ranking.race import rules_of
from nas.search.loop import plan, run_search
from nas.search.next_step import is_complete
from nas.search.runner import Runner
from nas.search.runners import runners_of
from nas.study.budget import Rung
from nas.study.study import Study
from nas.study.trial import Trial
from nas.workers.parallel import run_parallel
from nas.workers.process import ProxyWorker

WAIT_S = 60
pytestmark = pytest.mark.usefixtures("quick_costs")


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


def test_two_share_a_search(shared_study):
    trainers = [Meets(), Meets()]
    trials = run_search(shared_study, [Runner(shared_study, Path("d"), trainer, Quiet()) for trainer in trainers])
    done = [t for t in trials if t.status == "done"]
    assert len({t.key for t in done}) == len(done) == len(trials)
    assert len({t.variant.id for t in done}) == 12
    assert sum(len(trainer.jobs) for trainer in trainers) == len(done)
    assert {len([t for t in done if t.variant == v]) for v in {t.variant for t in done}} > {
        1
    }  # and the first are confirmed


def test_costs_are_counted_one_at_a_time(shared_study, monkeypatch):
    """The host shares modules between models that it counts; two counts at once would count them twice."""
    counting = threading.Semaphore(1)

    def alone(variant):
        assert counting.acquire(blocking=False)
        try:
            time.sleep(0.01)
            return instant_worker.instant_cost(variant)
        finally:
            counting.release()

    monkeypatch.setattr(nas.search.runner, "costed", alone)
    trials = run_search(shared_study, [Runner(shared_study, Path("d"), InstantTrainer(), Quiet()) for _ in range(3)])
    assert {t.status for t in trials} == {"done"}


def test_the_first_failure_stops_all(shared_study):
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
        run_search(
            shared_study, [Runner(shared_study, Path("d"), trainer, Quiet()) for trainer in (Fails(), Endless())]
        )
    trials = Study.load(shared_study.location).trials()
    assert [(t.status, t.failure) for t in trials] == [("interrupted", STOPPED)] * 2


def test_a_single_member_works_in_this_thread():
    seen = []

    class Member:
        def kill(self):
            raise AssertionError

    run_parallel([Member()], lambda _member, stop: seen.append((threading.current_thread(), stop.is_set())))
    assert seen == [(threading.main_thread(), False)]


def test_latencies_are_not_measured_beside_trainings(shared_study, tmp_path):
    object.__setattr__(shared_study.settings, "latency_on", "here")
    refused = pytest.raises(OptionError, match=r"--workers 2: the study 'k' measures latencies, .* leave --workers out")
    with refused, runners_of(shared_study, None, tmp_path, Quiet(), [ProxyWorker(tmp_path), ProxyWorker(tmp_path)]):
        pass


def test_what_is_killed_stays_so(tmp_path):
    worker = ProxyWorker(tmp_path)
    worker.kill()
    with pytest.raises(ProxyFailure, match="the training process was stopped"):
        worker.work("anything")


def test_who_waits_for_weights_stops_waiting(shared_study, tmp_path):
    runner = Runner(shared_study, Path("d"), InstantTrainer(), Quiet())
    path = tmp_path / "bank"
    path.parent.mkdir(exist_ok=True)
    with held(tmp_path / "bank.lock", "it"):
        runner.kill()
        with pytest.raises(LockError, match=STOPPED), runner.weights.locked(path):
            pass


def test_the_rungs_of_a_study_are_shared_out_and_told_once(make_shared, tmp_path):
    study, recorder = (
        make_shared(f"sqlite:///{tmp_path / 'a.db'}", trials=12, rungs=(Rung(1, 64),)),
        RecordingObserver(),
    )
    runs = run_search(study, [Runner(study, Path("d"), InstantTrainer(), recorder) for _ in range(4)])
    assert max(Counter(t.key for t in runs).values()) == 1
    assert (study.spent, len({t.variant for t in study.trials()})) == (12, 1 + 4)
    assert is_complete(runs, study.settings, rules_of(study))
    assert [note.split(" (")[0] for note in recorder.notes] == ["rung 2 of 2", recorder.notes[1].split(" (")[0]]
    assert recorder.notes[1].startswith("confirming")


@pytest.mark.parametrize(("error", "hurries"), [(KeyboardInterrupt(), True), (ValueError("a fault of ours"), False)])
def test_who_is_stopped_waits_for_no_server(shared_study, error, hurries):
    class Stopped(InstantTrainer):
        def run(self, job, on_epoch=None):
            raise error

    with pytest.raises(type(error)):
        run_search(shared_study, [Runner(shared_study, Path("d"), Stopped(), Quiet())])
    assert nas.study.storage._SHORTENED.is_set() == hurries


def test_another_search_does_not_lower_what_is_asked_for(shared_study):
    shared_study.set_target(10, 10)
    space = shared_study.settings.space
    handle = shared_study.start(Trial(-1, space.variant({}), space.baseline(), "running"))
    assert plan(Study.load(shared_study.location), 5).target == shared_study.target == 15
    handle.end(status="interrupted", failure=STOPPED)


def test_a_process_that_cannot_be_started_is_a_failure_of_that_training(tmp_path, monkeypatch):
    def no_more(_self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", no_more)
    worker = ProxyWorker(tmp_path)
    worker.start()
    with pytest.raises(ProxyFailure, match=r"could not be started: .*Resource temporarily unavailable") as caught:
        worker.work("anything")
    assert caught.value.kind == "died"


def test_what_is_raised_in_a_search_is_not_the_storage_s(shared_study):
    with pytest.raises(OSError, match="no such device"), shared_study.locked():
        raise OSError("no such device")
