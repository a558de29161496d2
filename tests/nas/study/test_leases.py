"""Who has which trial: one at a time, for as long as they are there."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import optuna
import pytest

import nas.study.leases
from nas.errors import LockError
from nas.ranking.race import rules_of
from nas.search.next_step import choose_step
from nas.study.leases import FileLeases, LeaseLost, ServerLeases, claim_lock
from nas.study.location import locate
from nas.study.running_trial import TAKEN_OVER
from nas.study.study import Study
from nas.study.trial import DIED, DIED_OFTEN, Trial
from nas.training.scores import EpochScore, Validation

SEEN = (EpochScore(1, 2.0, 0.1, Validation(0.5, 0.3, 1.0)),)


def begin(study: Study, assignment: dict[str, str] | None = None):
    space = study.settings.space
    assignment = {**space.baseline(), **(assignment or {})}
    return study.start(Trial(-1, space.variant(assignment), assignment, "running"))


def gone(study: Study) -> None:
    """Let the process that has a study's file look gone, as after SIGKILL."""
    study.leases._held.close()


def test_only_one_has_its_turn(storage_url, make_shared):
    study = make_shared(storage_url)
    code = (
        "import sys; from nas.study.leases import claim_lock; from nas.study.location import locate\n"
        "with claim_lock(locate('k', sys.argv[1])): print('in', flush=True); sys.stdin.readline()\n"
        "print('out', flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, storage_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nas.study.leases, "_LOCK_WAIT_S", 1.0)
            with (
                pytest.raises(LockError, match=r"held .* for 1 s|lock timeout|does not|canceling"),
                claim_lock(study.location),
            ):
                pass
        other.kill()  # its turn goes with it
        other.wait()
        with claim_lock(study.location):
            pass


def test_a_turn_that_may_not_have_been_alone_is_lost(database, postgres, make_shared):
    study = make_shared(database)
    with pytest.raises(LeaseLost, match="was lost"), study.leases.claim_lock():
        postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


def test_what_a_dead_worker_had_is_tried_again_and_no_more_than_twice(tmp_path, make_shared):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    make_shared(url)
    swap = {"neck.up_p4": "CARAFE"}
    for again in range(3):
        study = Study.load(locate("k", url))
        begin(study, swap).report(EpochScore(3, 2.0, 0.1))
        study.take_over()
        assert study.trials()[-1].status == "running"  # it is there
        gone(study)
        other = Study.load(locate("k", url))
        assert other.take_over() == 1
        expected = ("interrupted", DIED) if again < 2 else ("failed", DIED_OFTEN)
        assert (other.trials()[-1].status, other.trials()[-1].failure) == expected
        if again < 2:
            turn = choose_step(other.trials(), other.settings.space, other.settings, rules_of(other), 1)
            assert turn.job.assignment == other.trials()[-1].assignment
        gone(other)


def test_coming_further_counts(tmp_path, make_shared):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    make_shared(url)
    for epoch in range(4):
        study = Study.load(locate("k", url))
        begin(study, {"neck.up_p4": "CARAFE"}).report(EpochScore(epoch, 2.0, 0.1))
        gone(study)
        assert Study.load(locate("k", url)).take_over() == 1
    assert {t.failure for t in study.trials()} == {DIED}


def test_who_dies_while_a_baseline_is_made_has_not_died_of_the_variant(tmp_path, make_shared):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    make_shared(url)
    for _ in range(5):
        study = Study.load(locate("k", url))
        begin(study, {"neck.up_p4": "CARAFE"}).preparing().__enter__()
        gone(study)
        assert Study.load(locate("k", url)).take_over() == 1
    assert {t.failure for t in study.trials()} == {DIED}
    for again in range(3):
        study = Study.load(locate("k", url))
        with (handle := begin(study, {"neck.up_p4": "CARAFE"})).preparing():
            pass
        gone(study)
        assert Study.load(locate("k", url)).take_over() == 1
        assert handle.trial.status == "running"
        assert study.trials()[-1].failure == (DIED if again < 2 else DIED_OFTEN)


def test_an_end_on_record_is_told(tmp_path, make_shared, monkeypatch):
    study = make_shared(f"sqlite:///{tmp_path / 'a.db'}")
    handle = begin(study)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", lambda *_, **__: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            handle.end(status="done", gflops=8.0, curve=SEEN)
    gone(study)
    other = Study.load(study.location)
    assert other.take_over() == 0
    assert [t.status for t in other.trials()] == ["done"]


def test_who_was_taken_for_dead_hears_of_it(tmp_path, make_shared):
    study = make_shared(f"sqlite:///{tmp_path / 'a.db'}")
    handle = begin(study)
    gone(study)
    Study.load(study.location).take_over()
    ended = handle.end(status="done", gflops=8.0, curve=SEEN)
    assert (ended.status, ended.failure) == ("interrupted", TAKEN_OVER)
    assert [t.status for t in Study.load(study.location).trials()] == ["interrupted"]


def test_an_end_that_is_stored_twice_is_one(storage_url, make_shared):
    handle = begin(make_shared(storage_url))
    ended = handle.end(status="done", gflops=8.0, curve=SEEN)
    assert handle.end() == ended


def test_a_count_that_stands_still_is_watched_by_the_onlookers_own_clock(database, make_shared, monkeypatch):
    study = make_shared(database)
    clock = [1000.0]
    monkeypatch.setattr(nas.study.leases.time, "monotonic", lambda: clock[0])
    leases = ServerLeases(study.location, lambda *_: None, dict)

    def is_gone_after(seconds: float, beat: int) -> bool:
        clock[0] += seconds
        return leases.is_stale(7, "other", beat)

    assert not is_gone_after(0, 0)
    assert not any(is_gone_after(15, 0) for _ in range(7))  # 105 s
    assert not is_gone_after(10, 1)  # it counts on
    assert not any(is_gone_after(15, 1) for _ in range(7))
    assert is_gone_after(15, 1)
    assert not is_gone_after(600, 1)  # after a server that was away, everybody has counted unseen
    assert not any(is_gone_after(30, 1) for _ in range(3))
    assert is_gone_after(30, 1)


def test_a_worker_counts_beside_its_trial_and_looks_at_others(database, make_shared, monkeypatch):
    monkeypatch.setattr(nas.study.leases, "HEARTBEAT_S", 0.05)
    study = make_shared(database)
    handle = begin(study)

    def beat() -> int:
        return study._inner.get_trials(deepcopy=False)[0].user_attrs.get("beat", 0)

    until = time.monotonic() + 60
    while beat() < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert study.leases._seen
    handle.end(status="done", gflops=8.0, curve=SEEN)
    assert not study.leases._mine


def test_a_stopped_worker_of_a_file_does_not_keep_its_trial(tmp_path, make_shared, monkeypatch):
    """SIGSTOP leaves it the lock of its file, which nobody touches then."""
    monkeypatch.setattr(FileLeases, "beat", lambda *_: False)
    study = make_shared(f"sqlite:///{tmp_path / 'a.db'}")
    stopped = begin(study)
    other = Study.load(study.location)
    clock = [1000.0]
    monkeypatch.setattr(nas.study.leases.time, "monotonic", lambda: clock[0])
    lock = study.leases._lock_of(study.leases.owner)
    os.utime(lock, (1, 1))

    def taken_over_after(seconds: float) -> int:
        clock[0] += seconds
        return other.take_over()

    assert not any(taken_over_after(30) for _ in range(4))  # 90 s after the first look
    os.utime(lock, (2, 2))  # it goes on
    assert not any(taken_over_after(30) for _ in range(4))
    assert taken_over_after(30) == 1
    ended = stopped.end(status="done", gflops=8.0, curve=SEEN)
    assert (ended.status, ended.failure) == ("interrupted", TAKEN_OVER)


def test_a_claim_of_a_process_that_was_stopped_is_lost(tmp_path, make_shared):
    study = make_shared(f"sqlite:///{tmp_path / 'a.db'}")
    with pytest.raises(LeaseLost, match="as this process was stopped"), study.leases.claim_lock():
        (study.location.workers / "turn").unlink()  # as another does that has waited long enough


def test_an_older_trial_without_an_owner_is_nobodys(tmp_path, make_shared):
    study = make_shared(f"sqlite:///{tmp_path / 'a.db'}")
    assert study.leases.is_stale(1, "", 0)
    assert study.leases.is_stale(1, "host-1-abc", 0)
    other = Study.load(study.location)
    assert not study.leases.is_stale(1, other.leases.owner, 0)


def test_a_trial_of_ones_own_that_nobody_handles_is_nobodys(storage_url, make_shared):
    """As after a claim that was stored, but whose acknowledgement was lost."""
    study = make_shared(storage_url)
    begin(study)
    assert study.take_over() == 0
    (trial,) = study._inner.get_trials(deepcopy=False)
    study.leases.release(trial._trial_id)
    assert study.take_over() == 1
    assert [t.status for t in study.trials()] == ["interrupted"]


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_a_file_is_the_same_however_its_path_is_written(tmp_path, make_shared, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    study = make_shared(None)
    handle = begin(study)
    (tmp_path / "link.db").symlink_to(tmp_path / "studies" / "k.db")
    for path in ("studies/k.db", f"{tmp_path}/studies/k.db", f"{tmp_path}/studies/../studies/k.db", "link.db"):
        other = Study.load(locate("k", f"sqlite:///{path}"))
        assert other.take_over() == 0
        with pytest.raises(LockError, match="another search works on"), study.locked(), other.locked():
            pass
    assert handle.end(status="done", gflops=8.0, curve=SEEN).status == "done"


def test_a_study_is_not_begun_anew_under_a_worker(tmp_path, make_shared):
    study = make_shared(f"sqlite:///{tmp_path / 'a.db'}")
    worker = Study.load(study.location)
    assert worker.leases.owner
    with pytest.raises(LockError, match="a worker runs trials of the study 'k', which cannot be created again"):
        study.recreate(study.settings, 5)
    assert Study.load(study.location).target != 5
    gone(worker)
    assert study.recreate(study.settings, 5).target == 5


def test_a_study_that_was_cut_short_before_its_settings_is_none(storage_url, instant_settings, monkeypatch):
    class Killed(BaseException):
        pass

    def dies(self, key, value, real=optuna.Study.set_user_attr):
        if key == "nas_settings":
            raise Killed
        real(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "set_user_attr", dies)
        with pytest.raises(Killed):
            Study.create(locate("k", storage_url), instant_settings, 3)
    assert not Study.exists(locate("k", storage_url))
    assert not Study.is_created(locate("k", storage_url))
    assert Study.create(locate("k", storage_url), instant_settings, 7).target == 7
    assert Study.is_created(locate("k", storage_url))
