"""Further seeds in a search: what is trained, with what, never twice, and whatever interrupts it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from nas.errors import ProxyError, ProxyFailure, StudyError
from nas.ranking.rank import ranking_of
from nas.ranking.replicates import pool_replicates
from nas.report.ranking_notes import conclusion, ranking_notes
from nas.search.loop import is_finished, plan, train_baseline
from nas.search.runner import Runner
from nas.study.budget import Confirm
from nas.study.study import Study
from nas.training.scores import Validation

EVERY = 9


@pytest.fixture
def noisy(fake_trainer):
    """Return a trainer whose scores differ from seed to seed, by the same for all variants and a little more."""

    class Noisy(fake_trainer):
        noise = 0.02

        def run(self, job, on_epoch=None):
            result = super().run(job, on_epoch)
            last = result.curve[-1]
            rng = random.Random(f"{job.seed} {job.swaps}")
            score = last.validation.map + 0.05 * job.seed + rng.gauss(0, self.noise)
            seen = Validation(score + 0.2, score, 2.0)
            return type(result)((type(last)(last.epoch, 2.0, 0.1, seen),), seen, (355, 355), 3.0, 1.0)

    return Noisy


@pytest.fixture
def confirmed(make_study):
    """Return what makes a study that has been asked to confirm."""

    def make(top: int = 3, seeds: int = 3, screened: int = 1, name: str = "s", **recipe) -> Study:
        study = make_study(name=name, changes={"floor": 0.5}, **recipe)
        study.set_seeds(screened, Confirm(top, seeds))
        return study

    return make


def keys(trials) -> list[tuple[str, int]]:
    return [(t.variant.describe(), t.seed) for t in trials if t.status == "done"]


def test_the_first_and_the_baseline_get_seeds_until_each_has_as_many(run, confirmed, noisy):
    study = confirmed()
    trials, observer, trainer = run(study, EVERY, noisy())
    assert len(keys(trials)) == len(set(keys(trials))) == EVERY + 8
    seeds = {r.trial.variant.describe(): r.seeds for r in ranking_of(study)}
    assert sorted(seeds.values()) == [1] * 5 + [3] * 4
    assert seeds["baseline"] == 3
    assert {(j.seed, j.recipe.epochs, j.init) for j in trainer.jobs} == {(s, 2, None) for s in (0, 1, 2)}
    assert "confirming: the first 3 of the ranking and the baseline get further seeds, 3 in all (8 trainings" in (
        "\n".join(observer.said)
    )
    assert any(said == "1/8 baseline" for said in observer.said)
    assert is_finished(study, plan(study, None))


def test_what_a_seed_does_to_all_alike_moves_no_rank(run, confirmed, noisy):
    """Later seeds score higher by 0.05 here: means of other seeds would put the confirmed ones on top."""

    class Quiet(noisy):
        noise = 0.0005

    study = confirmed()
    run(study, EVERY, Quiet())
    rows = {r.trial.variant.describe(): r for r in ranking_of(study)}
    base = rows["baseline"].trial.map
    assert base == pytest.approx(0.375 + 0.05, abs=0.002)
    assert max(r.seeds for r in rows.values()) >= 3
    assert "better" in {r.verdict for r in rows.values()}
    for row in rows.values():
        swaps = sum(label == "DySample" for _, label in row.trial.variant.swaps)
        assert row.trial.map - base == pytest.approx(0.015625 * swaps, abs=0.004)
    notes = "\n".join(ranking_notes(study))
    assert "3 of 8 have several" in notes
    assert "Holm's correction over the 8 variants compared" in notes
    assert "Over 3 seeds its mAP50-95" in conclusion(study)[0] or "No swap beats" in conclusion(study)[0]


def test_seeds_of_the_screening(run, confirmed, noisy):
    study = confirmed(screened=2, top=1)
    trials, observer, _ = run(study, 4, noisy())
    assert [k[1] for k in keys(trials)] == [0, 1] * 4 + [2, 2]
    assert study.target == 4
    assert "4/4" in "".join(observer.said)
    more = Study.load(study.location)
    more.set_seeds(4, Confirm())
    trials, _, trainer = run(more, None, noisy())
    assert len(trainer.jobs) == 4 * 4 - 10
    assert len(keys(trials)) == len(set(keys(trials))) == 16


def test_a_failing_seed_ends_a_variant_of_the_screening(run, confirmed, noisy):
    class Fails(noisy):
        def run(self, job, on_epoch=None):
            if job.seed == 1 and ("neck.up_p4", "CARAFE") in job.swaps:
                raise ProxyFailure("nan", "no number")
            return super().run(job, on_epoch)

    study = confirmed(screened=3, top=0, seeds=0)
    trials, _, trainer = run(study, 3, Fails())
    assert len(trainer.jobs) == 3 + 3 + 1
    assert any("neck.up_p4=CARAFE, seed 1) nan: no number" in line for line in ranking_notes(study))
    assert sum(t.status == "failed" for t in trials) == 1


@pytest.mark.parametrize("at", [EVERY + 1, EVERY + 4, EVERY + 7])
@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])
def test_interrupted_in_the_middle_of_the_confirmation(run, confirmed, noisy, at, how):
    """SystemExit cleans up nothing, as after SIGKILL. The same command again finishes what was asked, and no more."""

    class Stops(noisy):
        def run(self, job, on_epoch=None):
            if len(self.jobs) + 1 == at:
                raise how
            return super().run(job, on_epoch)

    whole, _, _ = run(confirmed(name="whole"), EVERY, noisy())
    study = confirmed(name="broken")
    with pytest.raises(how):
        run(study, EVERY, Stops())
    resumed = Study.load(study.location)
    assert plan(resumed, EVERY).finishing
    trials, _, trainer = run(resumed, EVERY, noisy())
    assert len(trainer.jobs) == EVERY + 8 - (at - 1)
    assert keys(trials) == keys(whole)
    assert not any(t.status == "running" for t in trials)
    assert is_finished(resumed, plan(resumed, None))


def test_a_machine_that_fails_once_does_not_end_the_race(run, confirmed, noisy):
    class Dies(noisy):
        def run(self, job, on_epoch=None):
            if len(self.jobs) == EVERY + 3:  # the last of the round: nothing after it says that the machine is well
                self.jobs.append(job)
                raise ProxyFailure("died", "the training process died")
            return super().run(job, on_epoch)

    study = confirmed()
    trials, _, _ = run(study, EVERY, Dies())
    assert max(t.seed for t in trials) == 2
    assert is_finished(study, plan(study, None))


def test_the_baseline_must_not_fail_under_any_seed(run, confirmed, noisy):
    class Fails(noisy):
        def run(self, job, on_epoch=None):
            if job.seed == 1 and not job.swaps:
                raise ProxyFailure("memory", "out of memory")
            return super().run(job, on_epoch)

    study = confirmed()
    with pytest.raises(ProxyError, match=r"the baseline itself failed.*out of memory"):
        run(study, EVERY, Fails())
    trials, _, _ = run(study, None, noisy())
    assert len(keys(trials)) == EVERY + 8


def test_a_seed_of_a_bank_is_the_banks_too(run, confirmed, noisy):
    """The bank is distilled anew for each seed, only with what the contenders are made of, and all of it at once."""
    study = confirmed(init="bank", base_epochs=7)
    trials, _, trainer = run(study, EVERY, noisy())
    first, *further = trainer.distillations
    assert first.proxy.seed == 0
    assert [d.proxy.seed for d in further] == [1, 2]
    chosen = {swap for t in trials if t.seed for swap in t.variant.swaps}
    assert {(c.slot, c.label) for c in further[0].candidates} == chosen
    folders = {d.proxy.seed: d.folder for d in trainer.distillations}
    assert len(set(folders.values())) == 3
    for job in trainer.jobs[1:]:
        assert job.init == trainer.jobs[0].save  # the trained baseline is one for all
        assert all(Path(file).parent == Path(folders[job.seed]) for file in job.overlay)
        assert len(job.overlay) == len(job.swaps)


def test_a_swap_that_another_seed_cannot_distil_fails_alone(run, confirmed, noisy):
    class Diverges(noisy):
        def work(self, job, on_progress=None):
            self.diverge = ("neck.up_p4=DySample",) if job.proxy.seed == 1 else ()
            return super().work(job, on_progress)

    study = confirmed(init="bank", base_epochs=7, top=8)
    trials, _, _ = run(study, EVERY, Diverges())
    failed = {t.failure for t in trials if t.status == "failed"}
    assert failed == {"bank of seed 1: neck.up_p4=DySample: its distillation diverged"}
    assert {r.seeds for r in ranking_of(study)} == {2, 3}


def test_more_seeds_of_the_baseline_are_its_seeds_everywhere(run, confirmed, noisy, make_study):
    study = confirmed(init="bank", base_epochs=7)
    run(study, EVERY, noisy())
    trainer = noisy()
    with study.locked():
        train_baseline(Runner(study, Path("data.yaml"), trainer, _Silent()), 7)
    assert [j.seed for j in trainer.jobs] == [3, 4, 5, 6]
    assert trainer.distillations == []
    (base,) = [r for r in ranking_of(study) if r.trial.variant.is_baseline]
    assert base.seeds == 7
    study.set_seeds(None, Confirm(3, 5))
    _, _, trainer = run(study, None, noisy())
    assert {j.seed for j in trainer.jobs} == {3, 4}
    assert all(j.swaps for j in trainer.jobs)
    with pytest.raises(StudyError, match="the baseline of the study 'empty' has not finished"):
        train_baseline(Runner(make_study(name="empty"), Path("data.yaml"), trainer, _Silent()), 7)


class _Silent:
    def __getattr__(self, name):
        return lambda *_: None


def test_a_study_that_was_asked_for_one_seed_each_stays_so(run, make_study, noisy):
    study = make_study()
    trials, _, _ = run(study, EVERY, noisy())
    assert len(keys(trials)) == EVERY
    assert is_finished(study, plan(study, None))
    assert [t.pooled for t in pool_replicates(trials)] == [None] * EVERY
    assert any("--confirm 3:3` trains the top variants with further seeds" in line for line in ranking_notes(study))
