"""The proxy of a search: what its variants start from, a baseline or a bank, and what counts as their score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import nas.search.next_step
from nas.bank.jobs import CONTROL
from nas.errors import ArtifactError, BaselineNotTrained, OutOfMemory, ProxyFailure
from nas.report.ranking_notes import ranking_notes
from nas.space.space_file import read_space
from nas.study.budget import Confirm
from nas.study.objective import Goal
from nas.study.study import Study
from nas.training.scores import EpochScore, Validation

MIXED = """
slots:
  neck.up_p4: [CARAFE]
  neck.c2f_*: {choices: [keep, C2f_SPConv, C2f_DCNv4], tie: true}
"""
TIED = ("neck.c2f_p4", "neck.c2f_p3", "neck.c2f_n4", "neck.c2f_n5")


def asked(trainer) -> list[tuple[str, str]]:
    return [(c.slot, c.label) for job in trainer.distillations for c in job.candidates]


def test_baseline_is_trained_once_and_kept(run, make_study):
    study = make_study(init="baseline", base_epochs=7)
    _, observer, trainer = run(study, 2)
    assert observer.said[0] == "baseline training of 7"
    assert trainer.jobs[0].recipe.init == "scratch"
    assert trainer.jobs[0].recipe.lr0 == study.settings.recipe.base_lr0
    weights = trainer.jobs[0].save
    assert [j.init for j in trainer.jobs] == [None, weights, weights]
    assert len(study.baseline_training) == 7
    _, observer, trainer = run(study, 1)
    assert all(j.init == weights and not j.save for j in trainer.jobs)
    Path(weights).unlink()
    _, observer, trainer = run(study, 1)
    assert observer.said[0] == "baseline training of 7"


def test_the_score_that_ranks_is_the_settings_own(run, make_study):
    study = make_study(changes={"score": "map_average"})
    trials, _, trainer = run(study, 2)
    assert [t.map for t in trials] == [t.map for t in Study.load(study.location).trials()] == [0.40625, 0.40625]
    assert trials[1].map_per_gflop == 0.40625 / 9
    assert all(job.average for job in trainer.jobs)
    _, _, trainer = run(make_study(name="last", changes={"score": "map_last"}), 2)
    assert not any(job.average for job in trainer.jobs)


def test_the_error_that_a_calibration_says_reaches_the_proposals(run, make_study, monkeypatch):
    heard = []

    def proposes(space, trials, **how):
        heard.append(how)

    monkeypatch.setattr(nas.search.next_step, "propose_next", proposes)
    for name, calibration in (("a", ""), ("b", '{"error": 0.004}')):
        run(make_study(name=name, changes={"calibration": calibration, "seed": 7}), 2)
    assert [(how["seed"], how["floor"], how["error"]) for how in heard] == [(7, 0.02, None), (7, 0.02, 0.004)]


def test_the_sampler_and_the_goal_of_a_study_reach_the_proposals(run, make_study, monkeypatch):
    heard = []
    monkeypatch.setattr(nas.search.next_step, "propose_next", lambda space, trials, **how: heard.append(how))
    study = make_study(changes={"sampler": "tpe", "objective": "map"})
    run(study, 2)
    assert [(how["sampler"], how["goal"]) for how in heard] == [("tpe", Goal("map"))]
    study.settings = replace(study.settings, sampler="random")
    study.store_settings()
    assert Study.load(study.location).settings == study.settings
    assert study.settings.sampler == "random"


def test_nothing_is_trained_without_epochs(run, make_study):
    study = make_study(epochs=0, init="bank", base_epochs=3)
    trials, _, trainer = run(study, 3)
    maps = {"baseline": 0.375, "neck.up_p4=CARAFE": 0.375, "neck.up_p3=DySample": 0.390625}
    assert {t.variant.describe(): t.map for t in trials} == maps
    assert {(t.status, len(t.curve), t.curve[0].epoch) for t in trials} == {("done", 1, 0)}
    assert [j.recipe.epochs for j in trainer.jobs] == [3, 0, 0, 0]


def test_a_variant_inherits_the_baseline_and_its_swaps_from_the_bank(run, make_study):
    study = make_study(init="bank", base_epochs=7, bank_epochs=3)
    trials, observer, trainer = run(study, 6)
    assert observer.said[:3] == ["baseline training of 7", "distilling 4", "step 1 of 1"]
    (job,) = trainer.distillations
    assert (job.proxy.init, job.proxy.swaps, job.proxy.recipe.bank_epochs) == (trainer.jobs[0].save, (), 3)
    assert {j.init for j in trainer.jobs[1:]} == {trainer.jobs[0].save}
    for trained in trainer.jobs[1:]:
        assert [Path(f).read_text() for f in trained.overlay] == [f"{slot}={label}" for slot, label in trained.swaps]
    assert len(trainer.jobs[6].overlay) == 2
    by_swaps = {t.variant.describe(): t.distillation for t in trials}
    assert (by_swaps["baseline"], by_swaps["neck.up_p4=CARAFE"], by_swaps["neck.up_p3=CARAFE"]) == (None, 0.3, 0.5)
    assert trials[5].distillation == 0.5
    assert Study.load(study.location).bank == {
        "folder": job.folder,
        "teacher_map": 0.4,
        "drops": {"neck.up_p4": 0.2, "neck.up_p3": 0.2},
        "failures": {},
    }
    assert len(study.baseline_training) == 7


def test_the_levels_of_the_trained_baseline_are_said_once_and_kept(run, make_study, fake_trainer, monkeypatch):
    work = fake_trainer.work
    levels = (("P3", 0.75), ("P4", 0.25))
    monkeypatch.setattr(fake_trainer, "work", lambda self, job, *a: replace(work(self, job, *a), levels=levels))
    study = make_study(init="bank", base_epochs=7, bank_epochs=3)
    said = "the baseline is trained: its assigner takes P3 75%, P4 25% of the positives on training images"
    _, observer, _ = run(study, 2)
    assert observer.said.count(said) == 1
    assert Study.load(study.location).bank["levels"] == dict(levels)
    _, observer, _ = run(study, 3)
    assert said not in observer.said


def test_a_second_study_trains_no_baseline_and_distils_nothing(run, make_study):
    _, _, first = run(make_study(init="bank", base_epochs=7), 2)
    second = make_study(name="second", init="bank", base_epochs=7)
    trials, observer, trainer = run(second, 2)
    assert observer.said[0] == "1/2 baseline"
    assert trainer.distillations == []
    assert [(j.init, j.overlay, j.save) for j in trainer.jobs] == [(j.init, j.overlay, j.save) for j in first.jobs[1:]]
    assert trials[1].distillation == 0.3
    assert len(second.baseline_training) == 7
    assert second.bank["teacher_map"] == 0.4


@pytest.mark.parametrize(
    ("changes", "recipe", "anew"),
    [
        ({"fingerprint": "e" * 16}, {}, (1, 4)),
        ({"seed": 1}, {}, (1, 4)),
        ({"versions": (("torch", "0"),)}, {}, (1, 4)),
        ({}, {"base_epochs": 8}, (1, 4)),
        ({}, {"imgsz": 192}, (1, 4)),
        ({}, {"bank_epochs": 9}, (0, 4)),
        ({}, {"start": "fresh"}, (0, 4)),
        ({}, {"epochs": 5, "lr0": 0.1}, (0, 0)),  # how a proxy trains does not decide what it starts from
        ({"floor": 0.5, "score": "map_last"}, {}, (0, 0)),
    ],
)
def test_what_decides_weights_is_in_their_names(run, make_study, changes, recipe, anew):
    shared = {"init": "bank", "base_epochs": 7}
    _, _, first = run(make_study(**shared), 1)
    _, _, trainer = run(make_study(name="other", changes=changes, **{**shared, **recipe}), 1)
    assert (sum(bool(j.save) for j in trainer.jobs), len(asked(trainer))) == anew
    if anew[1]:
        assert trainer.distillations[0].folder != first.distillations[0].folder


def test_a_bank_grows_with_its_space(run, make_study):
    small = read_space("slots: {neck.up_p4: [CARAFE], neck.c2f_p4: [C2f_SPConv]}", "s.yaml", "s")
    _, _, first = run(make_study(small, init="bank", base_epochs=7), 2)
    assert asked(first) == [("neck.up_p4", "CARAFE"), ("neck.c2f_p4", "C2f_SPConv"), ("neck.c2f_p4", CONTROL)]
    large = read_space(
        "slots: {neck.up_p4: [CARAFE, DySample], neck.c2f_p4: [C2f_SPConv], neck.down_n4: [SPConv]}", "l.yaml", "l"
    )
    _, observer, trainer = run(make_study(large, name="large", init="bank", base_epochs=7), 5)
    assert observer.said[0] == "distilling 3"
    assert asked(trainer) == [("neck.up_p4", "DySample"), ("neck.down_n4", "SPConv"), ("neck.down_n4", CONTROL)]
    assert trainer.distillations[0].folder == first.distillations[0].folder
    assert {Path(f).read_text() for j in trainer.jobs for f in j.overlay} == {
        "neck.up_p4=CARAFE", "neck.up_p4=DySample", "neck.c2f_p4=C2f_SPConv", "neck.down_n4=SPConv",
    }  # fmt: skip
    study = make_study(small, name="again", init="bank", base_epochs=7)
    assert asked(run(study, 2)[2]) == []
    assert set(study.bank["drops"]) == {"neck.up_p4", "neck.c2f_p4"}  # what is no slot of this space is not its affair


def test_what_another_space_could_not_make_does_not_concern_this_one(run, make_study, fake_trainer):
    other = read_space("slots: {neck.up_p4: [CARAFE, DySample], neck.c2f_p4: [C2f_SPConv]}", "o.yaml", "o")
    diverge = ("neck.c2f_p4=C2f_SPConv", "neck.up_p4=DySample")
    run(make_study(other, name="other", init="bank", base_epochs=7), 2, fake_trainer(diverge=diverge))
    study = make_study(read_space("slots: {neck.up_p4: [CARAFE]}", "s.yaml", "s"), init="bank", base_epochs=7)
    trials, observer, trainer = run(study, 2)
    assert asked(trainer) == []
    assert not any("kept out" in text for text in [*observer.said, *ranking_notes(study)])
    assert len(trials) == 2


def test_a_file_of_the_bank_that_is_gone_is_distilled_anew(run, make_study):
    _, _, first = run(make_study(init="bank", base_epochs=7), 2)
    Path(first.jobs[-1].overlay[0]).unlink()
    _, _, trainer = run(make_study(name="second", init="bank", base_epochs=7), 2)
    assert asked(trainer) == [("neck.up_p4", "CARAFE")]


def test_a_candidate_that_failed_is_kept_out_of_the_search(run, make_study, fake_trainer):
    """One layer of a tied slot is enough: all of them would be swapped together."""
    space = read_space(MIXED, "m.yaml", "m")
    study = make_study(space, init="bank", base_epochs=7)
    broken = f"{TIED[2]}=C2f_DCNv4"
    trials, observer, trainer = run(study, 50, fake_trainer(diverge=(broken,)))
    note = f"kept out of the search: {broken}: its distillation diverged"
    assert note in observer.said
    assert note in ranking_notes(Study.load(study.location))
    assert {t.assignment["neck.c2f_*"] for t in trials} == {"keep", "C2f_SPConv"}
    assert len(trials) == 4
    assert observer.said[-1] == "every variant of the space has been tried: the search ends after 4 trials"
    assert study.settings.space == space  # a resumed study has to be the same
    _, observer, trainer = run(study, 5)
    assert note in observer.said
    assert (trainer.jobs, trainer.distillations) == ([], [])


def test_a_control_that_failed_keeps_nothing_out(run, make_study, fake_trainer):
    space = read_space(MIXED, "m.yaml", "m")
    study = make_study(space, init="bank", base_epochs=7)
    trials, observer, _ = run(study, 50, fake_trainer(diverge=(f"{TIED[0]}={CONTROL}",)))
    assert len(trials) == space.size
    assert not any("kept out" in text for text in [*observer.said, *ranking_notes(study)])


def test_a_baseline_that_has_not_learnt_teaches_nothing(run, make_study, fake_trainer):
    class Dull(fake_trainer):
        def run(self, job, on_epoch=None):
            result = super().run(job, on_epoch)
            return replace(result, curve=(EpochScore(1, 2.0, 0.1, Validation(0.05, 0.0199, 2.0)),))

    study, trainer = make_study(init="bank", base_epochs=1), Dull()
    with pytest.raises(
        BaselineNotTrained, match=r"has not learnt \(mAP50-95 0.020 after 1 epochs\).*--base-epochs.*--weights"
    ):
        run(study, 3, trainer)
    assert (len(trainer.jobs), trainer.distillations, study.trials()) == (1, [], [])
    assert study.has_no_results
    run(make_study(name="plain", init="baseline", base_epochs=1), 1, Dull())  # which may inherit it


@pytest.mark.parametrize("step", ["trained", "distilled"])
def test_what_is_shared_cannot_be_made(run, make_study, fake_trainer, step):
    class Breaks(fake_trainer):
        def run(self, job, on_epoch=None):
            if job.save and step == "trained":
                raise ProxyFailure("memory", "out of memory")
            return super().run(job, on_epoch)

        def work(self, job, on_progress=None):
            raise ProxyFailure("memory", "out of memory")

    study = make_study(init="bank", base_epochs=7)
    with pytest.raises(OutOfMemory, match=rf"could not be {step}: out of memory"):
        run(study, 3, Breaks())
    assert study.trials() == []
    trials, _, trainer = run(study, None)
    assert [t.status for t in trials] == ["done"] * 3
    assert len(asked(trainer)) == 4


def test_killed_while_distilling(run, make_study, fake_trainer):
    class Dies(fake_trainer):
        def work(self, job, on_progress=None):
            raise SystemExit

    study = make_study(init="bank", base_epochs=7)
    with pytest.raises(SystemExit):
        run(study, 3, Dies())
    trials, observer, _ = run(study, 3)
    assert observer.said[0] == "distilling 4"  # the baseline is there
    assert [t.status for t in trials] == ["done"] * 3


def test_a_study_goes_on_with_its_own_baseline_only(run, make_study, fake_trainer):
    """As on a second machine that shares no folder, where the baseline is trained again, and comes out otherwise."""
    study = make_study(init="bank", base_epochs=7)
    run(study, 2)
    (file,) = study.location.weights.glob("baseline-*.json")
    file.unlink()
    run(study, 1)  # the same to the last digit is the same

    class Other(fake_trainer):
        def run(self, job, on_epoch=None):
            result = super().run(job, on_epoch)
            return replace(result, curve=tuple(replace(s, train_loss=1.75) for s in result.curve))

    file.unlink()
    with pytest.raises(
        ArtifactError, match=r"is not that of the study 's' .* copy .*weights from where the study was created"
    ):
        run(study, 1, Other())


def test_a_candidate_that_raised_alone_is_in_doubt(run, make_study, fake_trainer):
    """Nothing beside it in its distillation shows that the machine works, so the next training does."""

    class Raises(fake_trainer):
        def work(self, job, on_progress=None):
            made = super().work(job, on_progress)
            alone = len(job.candidates) == 1
            changed = [replace(c, file="", failure="it raised", raised=True) if alone else c for c in made.candidates]
            return replace(made, candidates=tuple(changed))

    study = make_study(init="bank", base_epochs=3)
    study.set_seeds(1, Confirm(1, 2))
    trials, observer, _ = run(study, 4, Raises())
    failed = [t for t in trials if t.status == "failed"]
    assert [(t.seed, t.failure.startswith("error: bank of seed 1: ")) for t in failed] == [(1, True)]
    assert any("checks whether this machine is the cause" in said for said in observer.said)
