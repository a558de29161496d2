"""What the runs of a study inherit where each seed has a trained baseline of its own."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from nas.errors import STOPPED, ArtifactError, BaselineNotTrained, LockError, ProxyFailure, SeedExcluded
from nas.report.ranking_notes import ranking_notes
from nas.search.inheritance import Inheritance
from nas.search.loop import is_finished, plan, train_baseline
from nas.search.runner import Runner
from nas.search.schedule import Job
from nas.study.budget import Confirm
from nas.study.leases import LeaseLost
from nas.study.settings import PER_SEED
from nas.training.scores import EpochScore, Validation
from nas.workers.parallel import DeviceLock

WAIT_S = 60


@pytest.fixture
def study(make_study):
    """Return a study with a bank, whose first two are confirmed under two further seeds, each with its baseline."""
    made = make_study(init="bank", base_epochs=3, changes={"baselines": PER_SEED})
    made.set_seeds(1, Confirm(2, 3))
    return made


@pytest.fixture
def fails_under(fake_trainer):
    """Return what makes a trainer whose baselines of some seeds fail, or do not learn."""

    def make(*seeds: int, kind: str = "nan"):
        class Fails(fake_trainer):
            def run(self, job, on_epoch=None):
                if not (job.save and job.seed in seeds):
                    return super().run(job, on_epoch)
                if kind != "learns nothing":
                    self.jobs.append(job)
                    raise ProxyFailure(kind, "the loss was no longer a number")
                result = super().run(job, on_epoch)
                nothing = Validation(0.01, 0.005, 9.0)
                return replace(result, curve=tuple(replace(s, validation=nothing) for s in result.curve))

        return Fails()

    return make


@pytest.mark.parametrize("init", ["bank", "baseline"])
def test_every_seed_of_a_study_may_have_a_baseline_of_its_own(run, make_study, init):
    study = make_study(init=init, base_epochs=3, changes={"baselines": PER_SEED})
    study.set_seeds(1, Confirm(2, 3))
    trials, _, trainer = run(study, 4)
    trained = {job.seed: job.save for job in trainer.jobs if job.save}
    assert set(trained) == {t.seed for t in trials} == {0, 1, 2}
    proxies = [job for job in trainer.jobs if not job.save]
    assert {(job.seed, job.init) for job in proxies} == set(trained.items())
    assert {(job.proxy.seed, job.proxy.init) for job in trainer.distillations} <= set(trained.items())
    assert sum(bool(job.save) for job in trainer.jobs) == 3
    assert all(study.baseline_training_of(seed) for seed in (0, 1, 2))
    assert not study.baseline_training_of(3)


@pytest.mark.parametrize("init", ["bank", "baseline"])
@pytest.mark.parametrize("kind", ["nan", "diverged", "learns nothing"])
def test_a_further_seed_whose_baseline_has_not_learnt_is_left_out(run, make_study, fails_under, init, kind):
    """It says nothing of any variant; the next seed takes its place, and so it stays."""
    study = make_study(init=init, base_epochs=3, changes={"baselines": PER_SEED})
    study.set_seeds(1, Confirm(2, 3))
    trials, observer, trainer = run(study, 4, fails_under(1, kind=kind))
    assert list(study.excluded_seeds) == [1]
    assert {t.seed for t in trials if t.status == "done"} == {0, 2, 3}
    assert {t.status for t in trials if t.seed == 1} == {"interrupted"}
    assert sum(job.save is not None and job.seed == 1 for job in trainer.jobs) == 1
    assert sum(said.startswith("seed 1 is left out, and the next one takes its place: ") for said in observer.said) == 1
    (line,) = [note for note in ranking_notes(study) if "excluded" in note]
    assert line.startswith("Seed 1 is excluded for all variants: the baseline ")
    todo = plan(study, None)
    assert is_finished(study, todo)
    again, _, idle = run(study, None)
    assert again == trials
    assert not idle.jobs


def test_a_screening_with_several_seeds_goes_on_without_one(run, study, fails_under):
    study.set_seeds(3, Confirm())
    trials, _, _ = run(study, 4, fails_under(2))
    seeds = [{t.seed for t in trials if t.variant == v and t.status == "done"} for v in {t.variant for t in trials}]
    assert seeds == [{0, 1, 3}] * 4


def test_seeds_of_the_baseline_go_on_without_one(run, study, fails_under):
    """Those of the A/A check."""
    run(study, 1)
    runner = Runner(study, Path("data.yaml"), fails_under(2), type(run(study, None)[1])())
    train_baseline(runner, 5)
    assert {t.seed for t in study.trials() if t.status == "done"} == {0, 1, 3, 4, 5}


def test_baselines_that_keep_failing_are_no_bad_luck(run, study, fails_under):
    for _ in range(2):
        with pytest.raises(
            ArtifactError, match=r"of 3 seeds could not be used.* of seed 3: .*\n.*one-baseline; this one can"
        ):
            run(study, 4, fails_under(1, 2, 3, 4))
        assert sorted(study.excluded_seeds) == [1, 2, 3]
    study.set_seeds(1, Confirm())
    trials, _, _ = run(study, None)
    assert sum(t.status == "done" for t in trials) == 4


def test_seeds_whose_baselines_are_there_are_used_whatever_others_did(run, study):
    run(study, 4)
    for seed in (7, 8, 9):
        study.exclude_seed(seed, "it diverged")
    study.set_seeds(None, Confirm(3, 3))
    trials, _, _ = run(study, None)
    assert {t.seed for t in trials if t.status == "done"} == {0, 1, 2}
    assert {t.status for t in trials} == {"done"}


def test_a_run_stands_before_its_first_epoch_while_its_baseline_is_made(run, study, fake_trainer):
    stood = {}

    class Looks(fake_trainer):
        def run(self, job, on_epoch=None):
            running = [t for t in study._inner.get_trials() if t.state.name == "RUNNING"]
            if job.seed:
                stood.setdefault((job.seed, bool(job.save)), set()).update(
                    t.user_attrs.get("epoch", 0) for t in running
                )
            return super().run(job, on_epoch)

    run(study, 4, Looks())
    assert stood == {(1, True): {-1}, (1, False): {0}, (2, True): {-1}, (2, False): {0}}


def test_the_first_seed_is_not_left_out(run, study, fails_under):
    with pytest.raises(
        BaselineNotTrained, match=r"^the baseline could not be trained: the loss was no longer a number$"
    ):
        run(study, 4, fails_under(0))
    assert study.excluded_seeds == {}


def test_what_may_be_the_machine_s_leaves_no_seed_out(run, study, fails_under):
    with pytest.raises(ArtifactError, match=r"the baseline of seed 1: .* a number\n.*`--seeds 1 --confirm 0` needs"):
        run(study, 4, fails_under(1, kind="died"))
    assert study.excluded_seeds == {}
    study.set_seeds(1, Confirm())
    trials, _, _ = run(study, None)
    assert sum(t.status == "done" for t in trials) == 4


def test_a_seed_that_works_elsewhere_is_not_left_out(run, study, fails_under):
    study.store_baseline_training((EpochScore(1, 2.0, 0.1, Validation(0.5, 0.4, 1.0)),), 1)
    with pytest.raises(ArtifactError, match="the baseline of seed 1 was made elsewhere, and cannot be made here: "):
        run(study, 4, fails_under(1))
    assert study.excluded_seeds == {}


def test_a_seed_s_baseline_is_the_same_for_all_who_work_on_a_study(run, make_study):
    """On a machine that shares no weights it comes out otherwise, and what inherits from it cannot be compared."""
    study = make_study(init="baseline", base_epochs=3, changes={"baselines": PER_SEED})
    study.store_baseline_training((EpochScore(1, 2.0, 0.1, Validation(0.5, 0.123, 1.0)),), 1)
    study.set_seeds(2, Confirm())
    with pytest.raises(ArtifactError, match=r"is not that of the study 's' \(mAP50-95 .*, not 0.1230"):
        run(study, 2)
    assert {t.status for t in study.trials()} == {"done", "interrupted"}


@pytest.fixture
def of_two(study, fake_trainer):
    """Return the second worker's inheritance and trainer, and an event that lets the first worker's baseline end."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(fake_trainer):
        def run(self, job, on_epoch=None):
            if job.save and job.seed == 1:
                begun.set()
                assert go_on.wait(WAIT_S)
            return super().run(job, on_epoch)

    class RecordingObserver:
        def __init__(self):
            self.said = []

        def note(self, text):
            self.said.append(text)

        def __getattr__(self, name):
            return lambda *_: None

    trainers, made = (Slow(), fake_trainer()), []
    for trainer in trainers:
        runner = Runner(study, Path("data.yaml"), trainer, RecordingObserver())
        made.append(Inheritance(study, runner.weights, DeviceLock(), runner.observer))
        made[-1].prepare()

    def begin():
        with contextlib.suppress(SeedExcluded):
            made[0].bank_of(Job({}, 1), study.settings.space.variant({}))

    first = threading.Thread(target=begin)
    first.start()
    assert begun.wait(WAIT_S)
    yield made[1], trainers[1], go_on
    go_on.set()
    first.join(WAIT_S)


def test_who_waits_for_a_baseline_makes_the_next_one(study, of_two, monkeypatch):
    """And no more of them than the confirmation is going to have."""
    second, trainer, go_on = of_two
    monkeypatch.setattr("nas.search.inheritance._PAUSE_S", 0.01)
    second.observer.note = lambda text: (second.observer.said.append(text), go_on.set())
    second.bank_of(Job({}, 1), study.settings.space.variant({}))
    assert [job.seed for job in trainer.jobs if job.save] == [2]
    assert second.observer.said == ["another worker or search is making the baseline of seed 1; waiting for it"]
    assert study.baseline_training_of(1)
    assert study.baseline_training_of(2)


def test_a_baseline_that_is_made_while_waiting_may_fail_until_its_turn_comes(study, of_two, monkeypatch):
    second, trainer, go_on = of_two
    monkeypatch.setattr("nas.search.inheritance._PAUSE_S", 0.01)
    train = trainer.run

    def run(job, on_epoch=None):
        if job.save and job.seed == 2:
            raise ProxyFailure("died", "it was killed")
        return train(job, on_epoch)

    trainer.run = run
    second.observer.note = lambda text: go_on.set()
    variant = study.settings.space.variant({})
    second.bank_of(Job({}, 1), variant)
    assert study.baseline_training_of(1)
    with pytest.raises(ArtifactError, match=r"the baseline of seed 2: .* it was killed"):
        second.bank_of(Job({}, 2), variant)


def test_who_waited_for_a_baseline_hears_that_its_seed_is_left_out(study, of_two, monkeypatch):
    second, trainer, go_on = of_two
    monkeypatch.setattr("nas.search.inheritance._PAUSE_S", 0.01)
    study.exclude_seed(1, "it diverged")
    go_on.set()
    with pytest.raises(SeedExcluded, match="it diverged"):
        second.bank_of(Job({}, 1), study.settings.space.variant({}))
    assert 1 not in [job.seed for job in trainer.jobs if job.save]


def test_who_waits_for_a_baseline_can_be_stopped(study, of_two):
    second, _, _ = of_two
    second.weights.stopped.set()
    with pytest.raises(LockError, match=STOPPED):
        second.bank_of(Job({}, 1), study.settings.space.variant({}))


def test_what_is_written_while_a_server_goes_away_is_written_again(study, run, fails_under, monkeypatch):
    """Both that a baseline is the study's, and that a seed is left out."""
    alone, lost = study.leases.claim_lock, []

    @contextlib.contextmanager
    def goes_away():
        with alone():
            yield
        seen = {"kept": study.baseline_training_of(2), "left out": study.excluded_seeds}
        if new := {name for name, there in seen.items() if there} - set(lost):
            lost.extend(new)
            raise LeaseLost("the connection was lost")

    monkeypatch.setattr(study.leases, "claim_lock", goes_away)
    monkeypatch.setattr("nas.search.inheritance._PAUSE_S", 0.01)
    trials, observer, _ = run(study, 4, fails_under(1))
    assert sum("is left out" in said for said in observer.said) == 1
    assert sorted(lost) == ["kept", "left out"]
    assert {t.seed for t in trials if t.status == "done"} == {0, 2, 3}
