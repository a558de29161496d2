"""The search loop on a trainer that answers at once: order, budget, duplicates, failures, limits, resuming."""

from __future__ import annotations

from dataclasses import replace

import pytest

import nas.search.next_step
import nas.search.runner
from nas.errors import BuildError, LockError, ProxyError, ProxyFailure, SpaceError, StorageError
from nas.model.render import render
from nas.search.loop import Plan, plan
from nas.study.study import Study


def test_baseline_first_then_single_swaps_then_the_rest_without_duplicates(run, make_study):
    trials, observer, trainer = run(make_study(), 50)
    assert trials[0].variant.is_baseline
    assert [len(t.variant.swaps) for t in trials] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert len({t.variant.id for t in trials}) == 9
    assert len(trainer.jobs) == 9
    assert observer.said[-1] == "every variant of the space has been tried: the search ends after 9 trials"


def test_a_trial_keeps_what_it_was(run, make_study):
    study = make_study()
    run(study, 2)
    base, swapped = Study.load(study.location).trials()
    assert base.status == swapped.status == "done"
    assert swapped.yaml == render(swapped.variant, {"n": "cost"}).yaml
    assert swapped.assignment == {"neck.up_p4": "CARAFE", "neck.up_p3": "keep"}
    assert [s.epoch for s in swapped.curve] == [1, 2]
    assert swapped.average is None  # no score of this study needs it
    assert swapped.distillation is None
    assert swapped.inherited == (355, 355)
    assert swapped.gflops == 9.0
    assert swapped.uncounted == (("silu", 5),)
    assert dict(swapped.versions)["swapnas"]
    assert round(swapped.map_per_gflop, 6) == round(0.375 / 9, 6)


def test_shared_settings_of_every_job(run, make_study):
    _, _, trainer = run(make_study(), 4)
    assert {(j.seed, j.data, j.recipe.epochs, j.init) for j in trainer.jobs} == {(0, "data.yaml", 2, None)}


def test_a_failing_variant_fails_alone(run, make_study, fake_trainer):
    study = make_study()
    trials, _, _ = run(study, 5, fake_trainer(fails={"CARAFE": "the loss was no longer a number in epoch 1"}))
    failed = [t for t in trials if t.status == "failed"]
    assert len(trials) == 5
    assert [t.variant.describe() for t in failed] == ["neck.up_p4=CARAFE", "neck.up_p3=CARAFE"]
    assert failed[0].failure == "nan: the loss was no longer a number in epoch 1"
    assert Study.load(study.location).trials() == trials


def test_a_variant_that_cannot_be_built_fails_alone(run, make_study, monkeypatch):
    costed = nas.search.runner.costed

    def breaks(variant):
        if ("neck.up_p3", "DySample") in variant.swaps:
            raise BuildError("cannot be built: ValueError: too wide")
        return costed(variant)

    monkeypatch.setattr(nas.search.runner, "costed", breaks)
    trials, _, trainer = run(make_study(), 9)
    assert sum(t.status == "failed" for t in trials) == 3
    assert len(trainer.jobs) == 6
    assert trials[-1].seconds >= 0


def test_the_baseline_must_not_fail(run, make_study, fake_trainer):
    class Broken(fake_trainer):
        def run(self, job, on_epoch=None):
            raise ProxyFailure("memory", "out of memory")

    with pytest.raises(ProxyError, match=r"the baseline itself failed.*out of memory"):
        run(make_study(), 3, Broken())


def test_a_baseline_that_failed_is_tried_again(run, make_study, fake_trainer):
    study = make_study()

    class Broken(fake_trainer):
        def run(self, job, on_epoch=None):
            raise ProxyFailure("memory", "out of memory")

    with pytest.raises(ProxyError):
        run(study, 3, Broken())
    trials, _, _ = run(study, None)
    assert [t.status for t in trials] == ["failed", "done", "done", "done"]
    assert trials[1].variant.is_baseline


def test_a_machine_that_fails_is_not_held_against_variants(run, make_study, fake_trainer):
    study = make_study()

    class DiskFull(fake_trainer):
        def run(self, job, on_epoch=None):
            if self.jobs:
                raise ProxyFailure("error", "OSError: No space left on device")
            return super().run(job, on_epoch)

    with pytest.raises(ProxyError, match=r"3 trainings have failed in a row here, and so does the baseline.*No space"):
        run(study, 9, DiskFull())
    assert [t.status for t in study.trials()] == ["done", "interrupted", "interrupted", "interrupted"]
    trials, _, _ = run(study, None)
    assert sum(t.status == "done" for t in trials) == 9


def test_a_variant_whose_process_dies_fails_alone(run, make_study, fake_trainer):
    study = make_study()

    class Dies(fake_trainer):
        def run(self, job, on_epoch=None):
            if ("neck.up_p4", "CARAFE") in job.swaps:
                raise ProxyFailure("died", "the training process died")
            return super().run(job, on_epoch)

    trials, _, _ = run(study, 4, Dies())
    assert [t.status for t in trials] == ["done", "failed", "done", "done"]
    assert trials[1].failure == "died: the training process died"
    last, _, _ = run(make_study(name="last"), 2, Dies())
    assert [t.status for t in last] == ["done", "failed"]


def another_process_s(study: Study) -> Study:
    """Return the study as another process opens it after the one that had it is gone."""
    study.leases._held.close()
    return Study.load(study.location)


@pytest.mark.parametrize("moment", ["ask", "store", "told"])
def test_killed_between_two_writes(run, make_study, monkeypatch, moment):
    """Nothing cleans up at these moments, as after SIGKILL; what was finished counts, and nothing runs twice."""
    study = make_study()
    run(study, 1)
    with monkeypatch.context() as patch:

        def dies(*_args, **_options):
            raise SystemExit

        if moment == "ask":
            patch.setattr(study._inner._storage, "create_new_trial", dies)
        elif moment == "store":
            patch.setattr("nas.study.running_trial.RunningTrial._store", dies)
        else:
            patch.setattr("optuna.Study.tell", dies)
        with pytest.raises(SystemExit):
            run(study, 2)
    study = another_process_s(study)
    trials, _, trainer = run(study, 2)
    assert sum(t.status == "done" for t in trials) == 3
    assert len({t.variant.id for t in trials}) == 3
    assert len(trainer.jobs) == (1 if moment == "told" else 2)
    assert not any(t.status == "running" for t in study.trials())


def test_more_means_more_than_what_was_finished_before_a_kill(run, make_study, monkeypatch):
    study = make_study()
    with monkeypatch.context() as patch:

        def dies(*_args, **_options):
            raise SystemExit

        patch.setattr("optuna.Study.tell", dies)
        with pytest.raises(SystemExit):
            run(study, 1)
    trials, _, _ = run(another_process_s(study), 3)
    assert sum(t.status == "done" for t in trials) == 1 + 3


@pytest.fixture
def cheaper(monkeypatch):
    """Let every swap save a GFLOP."""
    costed = nas.search.runner.costed

    def saving(variant):
        files, cost = costed(variant)
        return files, replace(cost, gflops=8.0 - len(variant.swaps))

    monkeypatch.setattr(nas.search.runner, "costed", saving)
    return saving


def test_the_baseline_is_exempt_from_limits(run, make_study, space, cheaper):
    trials, _, trainer = run(make_study(space.with_limits(max_gflops=7.0)), 3)
    assert [t.status for t in trials] == ["done"] * 3
    assert trials[0].variant.is_baseline
    assert len(trainer.jobs) == 3


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            {"max_gflops": 7.0, "max_params": 4_000_000},
            "the least of them has 8.00 GFLOPs, the limit is 7 (--max-gflops)",
        ),
        ({"max_params": 2e6}, "the least of them has 3000000 parameters, the limit is 2e+06 (--max-params)"),
    ],
)
def test_limits_that_nothing_can_be_within_are_refused_before_anything_is_trained(
    limits, words, run, make_study, space, fake_trainer, monkeypatch
):
    study, trainer = make_study(space.with_limits(**limits), init="bank"), fake_trainer()
    with pytest.raises(SpaceError) as caught:
        run(study, 2, trainer)
    looked_at = 1 + len(space.single_swaps())
    assert str(caught.value) == f"no variant is within the limits of the space ({looked_at} looked at): {words}"
    assert not trainer.jobs
    assert not trainer.distillations
    assert not study.runs()


def test_what_cannot_be_built_does_not_hide_what_is_within_the_limits(run, make_study, space, cheaper, monkeypatch):
    def breaks(variant):
        if "neck.up_p4" in dict(variant.swaps):
            raise BuildError("cannot be built: ValueError: too wide")
        return cheaper(variant)

    monkeypatch.setattr(nas.search.runner, "costed", breaks)
    trials, _, _ = run(make_study(space.with_limits(max_gflops=7.0)), 9)
    assert sum(t.status == "done" for t in trials) == 3


def test_limits_are_not_looked_at_again_once_something_has_come_of_a_study(run, make_study, space, monkeypatch):
    study = make_study(space.with_limits(max_gflops=8.5))
    run(study, 1)
    monkeypatch.setattr(nas.search.runner, "check_limits", lambda *_: pytest.fail("looked at"))
    trials, _, _ = run(study, 1)
    assert trials[0].status == "done"


def test_limits_are_checked_before_training_and_do_not_count(run, make_study, space):
    limited = space.with_limits(max_gflops=9.5, max_params=None)
    trials, _, trainer = run(make_study(limited), 9)
    assert len(trainer.jobs) == 5
    rejected = [t for t in trials if t.status == "rejected"]
    assert len(rejected) == 4
    assert rejected[0].failure == "10.00 GFLOPs, over the limit of 9.5"
    assert not any(t.spent for t in rejected)


def test_limits_that_nothing_satisfies_end_the_search(run, make_study, space, monkeypatch):
    monkeypatch.setattr(nas.search.next_step, "_MOST_REJECTED", 3)
    limited = space.with_limits(max_gflops=8.5, max_params=None)
    trials, observer, trainer = run(make_study(limited), 5)
    assert len(trainer.jobs) == 1
    assert observer.said[-1] == "the remaining variants seem to be over the limits of the space: the search ends here"
    assert len(trials) == 4


def test_what_seems_to_be_over_a_limit_is_asked_last(run, make_study, space):
    """Two swaps are over the limit, and that is known from the single ones."""
    trials, _, _ = run(make_study(space.with_limits(max_gflops=9.5)), 5)
    assert [t.status for t in trials] == ["done"] * 5


def test_more_trials_and_finished_requests(run, make_study):
    study = make_study()
    assert plan(study, 3) == Plan(0, 3, finishing=False)
    run(study, 3)
    assert plan(study, None) == Plan(3, 3, finishing=True)
    assert plan(study, 3) == Plan(3, 6, finishing=False)
    run(study, 2)
    assert sum(t.spent for t in study.trials()) == 5


def test_stopped_search_is_finished_by_the_same_request(run, make_study, fake_trainer):
    study = make_study()
    with pytest.raises(KeyboardInterrupt):
        run(study, 5, fake_trainer(stop_at=3))
    assert [t.status for t in study.trials()] == ["done", "done", "interrupted"]
    assert plan(study, 5) == plan(study, None) == Plan(2, 5, finishing=True)
    trials, _, _ = run(study, 5)
    done = [t for t in trials if t.status == "done"]
    assert len(done) == 5
    stopped = trials[2]
    assert sum(t.variant == stopped.variant for t in trials) == 2


def test_what_is_proposed_does_not_depend_on_interruptions(run, make_study, fake_trainer):
    whole, _, _ = run(make_study(name="whole"), 9)
    broken = make_study(name="broken")
    for stop in (2, 1, 4):
        with pytest.raises(KeyboardInterrupt):
            run(broken, 9, fake_trainer(stop_at=stop))
    trials, _, _ = run(broken, 9)
    assert [t.variant for t in trials if t.status == "done"] == [t.variant for t in whole]


def test_one_search_at_a_time(make_study):
    study = make_study()
    taken = pytest.raises(
        LockError, match=r"another search works on the study 's' \(process \d+\); .* nas worker --study s"
    )
    with study.locked(), taken, Study.load(study.location).locked():
        pass
    with study.locked():
        pass


def test_variants_that_fail_for_certain_do_not_block_a_study(run, make_study, fake_trainer):
    """Whose failure it is shows by the baseline, which trains."""

    class Raises(fake_trainer):
        def run(self, job, on_epoch=None):
            if len(job.swaps) == 1 and job.swaps != (("neck.up_p3", "CARAFE"),):
                raise ProxyFailure("error", "RuntimeError: view size is not compatible")
            return super().run(job, on_epoch)

    trials, observer, trainer = run(make_study(), 9, Raises())
    assert [t.status for t in trials] == ["done", *["failed"] * 3, *["done"] * 5]
    assert trials[1].failure == "error: RuntimeError: view size is not compatible"
    whole, short = (job for job in trainer.jobs if not job.swaps)
    assert (whole.recipe.epochs, short.recipe.epochs) == (2, 1)
    assert (short.checkpoint, short.save) == (None, None)
    (note,) = (
        said for said in observer.said if "a short one of the baseline checks whether this machine is the cause" in said
    )
    assert note.startswith("3 trainings have failed in a row (error: RuntimeError: view size is not compatible);")


def test_a_machine_that_fails_again_and_again_condemns_nothing(run, make_study, fake_trainer):
    """A job that is started anew whenever it ends must not use up the variants."""
    study = make_study()
    run(study, 1)

    class Broken(fake_trainer):
        def run(self, job, on_epoch=None):
            raise ProxyFailure("died", "the training process died")

    for _ in range(4):
        with pytest.raises(ProxyError, match="and so does the baseline"):
            run(study, 8, Broken())
    assert {t.status for t in study.trials()} == {"done", "interrupted"}
    trials, _, _ = run(study, None)
    assert sum(t.status == "done" for t in trials) == 9


def test_a_storage_that_fails_while_suspects_are_settled_says_so(run, make_study, fake_trainer, monkeypatch):
    study = make_study()

    class Raises(fake_trainer):
        def run(self, job, on_epoch=None):
            if job.swaps:
                raise ProxyFailure("error", "RuntimeError: view size is not compatible")
            return super().run(job, on_epoch)

    end = nas.search.runner.RunningTrial.end

    def full(handle, **changes):
        if changes["status"] == "failed":
            raise StorageError("database or disk is full")
        return end(handle, **changes)

    monkeypatch.setattr(nas.search.runner.RunningTrial, "end", full)
    with pytest.raises(StorageError, match="disk is full"):
        run(study, 9, Raises())
    assert [t.status for t in study.trials()] == ["done", *["interrupted"] * 3]


@pytest.mark.parametrize(
    "fails", ["ProxyFailure", "MemoryError"]
)  # it stays open as a suspect, or its run ends with it
def test_a_storage_that_goes_on_failing_does_not_hide_what_came_first(
    run, make_study, fake_trainer, monkeypatch, fails
):
    study, attempts = make_study(), []

    class Raises(fake_trainer):
        def run(self, job, on_epoch=None):
            if job.swaps:
                raise {"ProxyFailure": ProxyFailure("error", "first"), "MemoryError": MemoryError("first")}[fails]
            return super().run(job, on_epoch)

    end = nas.search.runner.RunningTrial.end

    def full(handle, **changes):
        if changes["status"] == "done":
            return end(handle, **changes)
        attempts.append(changes["status"])
        raise StorageError(f"database or disk is full ({len(attempts)})")

    monkeypatch.setattr(nas.search.runner.RunningTrial, "end", full)
    kind, words = (StorageError, r"disk is full \(1\)") if fails == "ProxyFailure" else (MemoryError, "first")
    with pytest.raises(kind, match=words):
        run(study, 9, Raises())
    assert len(attempts) == {"ProxyFailure": 2, "MemoryError": 1}[fails]
