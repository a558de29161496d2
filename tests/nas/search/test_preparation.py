"""What runs inherit is made on all training processes at once: baselines in parallel, the first bank in parts."""

from __future__ import annotations

from pathlib import Path

import pytest

import nas.search.preparation
from nas.errors import ArtifactError, ProxyFailure
from nas.search.loop import plan, run_search
from nas.search.preparation import prepare
from nas.search.runner import Runner
from nas.study.budget import Confirm
from nas.study.settings import PER_SEED, SHARED


class Observer:
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)

    def steps(self, done, total):
        self.said.append((done, total))

    def __getattr__(self, _name):
        return lambda *_: None


@pytest.fixture
def make_runners(make_study, fake_trainer, monkeypatch):
    """Return a function that makes runners of a study whose confirmation takes three seeds, on eight cores."""
    monkeypatch.setattr(nas.search.preparation, "available_cores", lambda: 8)

    class Trainer(fake_trainer):
        def __init__(self, **given):
            super().__init__(**given)
            self.threads = 1
            self.used = []

        def run(self, job, on_epoch=None):
            self.used.append(("train", job.seed, self.threads))
            return super().run(job, on_epoch)

        def work(self, job, on_progress=None):
            self.used.append(("distil", job.proxy.recipe.device, self.threads))
            return super().work(job, on_progress)

        def kill(self):
            pass

    def make(count, *, devices=None, kind=Trainer, baselines=PER_SEED, name="s"):
        study = make_study(name=name, init="bank", base_epochs=3, changes={"baselines": baselines})
        study.set_seeds(1, Confirm(2, 3))
        observer = Observer()
        devices = devices or ["cpu"] * count
        return [Runner(study, Path("data.yaml"), kind(), observer, device=device) for device in devices]

    make.trainer = Trainer
    return make


def used(runners):
    return [runner.worker.used for runner in runners]


def test_baselines_in_parallel_then_the_bank_in_parts(make_runners):
    runners = make_runners(2)
    prepare(runners)
    assert used(runners) == [[("train", 0, 4), ("distil", "cpu", 4)], [("train", 1, 4), ("distil", "cpu", 4)]]
    assert [runner.worker.threads for runner in runners] == [1, 1]
    parts = [{c.slot for c in runner.worker.distillations[0].candidates} for runner in runners]
    assert parts == [{"neck.up_p4"}, {"neck.up_p3"}]
    study = runners[0].study
    assert study.baseline_training_of(1)
    assert not study.baseline_training_of(2)


def test_no_more_baselines_than_seeds(make_runners):
    runners = make_runners(5)
    prepare(runners)
    trained = [[job for job in jobs if job[0] == "train"] for jobs in used(runners)]
    assert trained == [[("train", 0, 2)], [("train", 1, 2)], [("train", 2, 2)], [], []]


def test_one_baseline_for_all_seeds(make_runners):
    runners = make_runners(2, baselines=SHARED)
    prepare(runners)
    assert used(runners) == [[("train", 0, 8), ("distil", "cpu", 4)], [("distil", "cpu", 4)]]


def test_the_bank_is_the_same_in_parts(make_runners):
    in_parts, whole = make_runners(2), make_runners(1, name="other")
    prepare(in_parts)
    whole[0].weights.folder = whole[0].weights.folder.with_name("other")
    prepare(whole)
    banks = [runners[0].inheritance.banks[0] for runners in (in_parts, whole)]
    assert list(banks[0].candidates.items()) == list(banks[1].candidates.items())
    assert list(banks[0].drops.items()) == list(banks[1].drops.items())
    assert banks[0].cpu_seconds == 2 * banks[1].cpu_seconds == 10.0


@pytest.mark.parametrize(
    ("devices", "parts"), [(["0", "1"], ["0", "1"]), (["0", "0"], ["0"]), (["0", "1", "0", "1"], ["0", "1"])]
)
def test_a_part_for_each_gpu(make_runners, devices, parts):
    runners = make_runners(len(devices), devices=devices)
    prepare(runners)
    assert [what[1] for jobs in used(runners) for what in jobs if what[0] == "distil"] == parts


def test_the_baseline_of_the_first_seed_fails(make_runners):
    class Fails(make_runners.trainer):
        def run(self, job, on_epoch=None):
            raise ProxyFailure("died", "no memory at all")

    with pytest.raises(ArtifactError, match="the baseline could not be trained: no memory at all"):
        prepare(make_runners(2, kind=Fails))


def test_a_further_baseline_that_fails_is_reported_when_a_run_needs_it(make_runners):
    class Fails(make_runners.trainer):
        def run(self, job, on_epoch=None):
            if job.seed == 1 and job.save:
                raise ProxyFailure("nan", "the loss was no longer a number")
            return super().run(job, on_epoch)

    runners = make_runners(2, kind=Fails)
    plan(runners[0].study, 4)
    trials = run_search(runners[0].study, runners)
    assert list(runners[0].study.excluded_seeds) == [1]
    assert {t.seed for t in trials if t.status == "done"} == {0, 2, 3}


def test_out_of_memory_in_several_processes(make_runners):
    """One process has to suffice, as it did for one worker."""

    class Short(make_runners.trainer):
        def work(self, job, on_progress=None):
            if len(job.candidates) < 4:
                raise ProxyFailure("memory", "out of memory")
            return super().work(job, on_progress)

    runners = make_runners(2, kind=Short)
    prepare(runners)
    assert runners[0].observer.said[0].startswith("the bank: out of memory in several processes")
    assert len(runners[0].inheritance.banks[0].candidates) == 4


def test_every_candidate_raises(make_runners):
    """The machine may be the cause: nothing is stored, and the search ends with the reason."""
    from nas.bank.jobs import Bank, Distilled

    class Raises(make_runners.trainer):
        def work(self, job, on_progress=None):
            made = tuple(Distilled(c, "", 1.0, 1.0, "RuntimeError: view size", raised=True) for c in job.candidates)
            return Bank(0.4, (), made, 1.0)

    runners = make_runners(2, kind=Raises)
    with pytest.raises(ArtifactError, match=r"every candidate failed; the last, neck.up_p3=DySample: RuntimeError"):
        prepare(runners)
    assert not list(runners[0].weights.folder.glob("bank-*/bank.json"))
