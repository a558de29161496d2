"""The search loop on a trainer that answers at once: order, budget, duplicates, failures, limits, resuming."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import nas.search
from nas.cost import Cost
from nas.distil import AGAIN, Bank, DistilJob, Distilled
from nas.errors import BuildError, StudyError
from nas.notes import ranking_notes
from nas.proxy import ProxyFailure, ProxyJob, ProxyResult
from nas.recipe import Recipe
from nas.render import render
from nas.scores import EpochScore, Validation
from nas.search import Plan, plan, search
from nas.space import SearchSpace
from nas.space_file import read_space
from nas.storage import place
from nas.study import Settings, Study, current_versions

SPACE = """
slots:
  neck.up_p4: [CARAFE, DySample]
  neck.up_p3: [CARAFE, DySample]
"""


class FakeTrainer:
    """Answers with a score that depends on the variant alone; fails or stops where told."""

    def __init__(
        self, fails: dict[str, str] | None = None, stop_at: int | None = None, diverge: tuple[str, ...] = ()
    ) -> None:
        self.jobs: list[ProxyJob] = []
        self.distillations: list[DistilJob] = []
        self.fails = fails or {}
        self.stop_at = stop_at
        self.diverge = diverge

    def run(self, job: ProxyJob, on_epoch: Callable[[EpochScore], None] | None = None) -> ProxyResult:
        self.jobs.append(job)
        if self.stop_at == len(self.jobs):
            raise KeyboardInterrupt
        for _, label in job.swaps:
            if label in self.fails:
                raise ProxyFailure("nan", self.fails[label])
        if job.save:
            Path(job.save).parent.mkdir(parents=True, exist_ok=True)
            Path(job.save).write_bytes(b"weights")
        score = 0.375 + 0.015625 * sum(label == "DySample" for _, label in job.swaps)
        last, seen = job.recipe.epochs, Validation(score + 0.25, score, 2.0)
        first = last - job.recipe.validations + 1
        curve = tuple(EpochScore(e, 2.0, 0.1, seen if e >= first else None) for e in range(1, last + 1))
        curve = curve or (EpochScore(0, 2.0, 0.1, seen),)
        for epoch in curve:
            if on_epoch:
                on_epoch(epoch)
        return ProxyResult(
            curve, Validation(score + 0.25, score + 0.03125, 1.9), (355, 355), cpu_seconds=3.0, seconds=1.0
        )

    def work(self, job: DistilJob, on_progress: Callable[[tuple[int, int]], None] | None = None) -> Bank:
        self.distillations.append(job)
        made = []
        for c in job.candidates:
            if f"{c.slot}={c.label}" in self.diverge:
                made.append(Distilled(c, "", 1.0, float("nan"), "its distillation diverged"))
                continue
            made.append(Distilled(c, f"{c.slot}={c.label}.pt", 1.0, 0.3 if c.slot == "neck.up_p4" else 0.5))
            file = Path(job.folder) / made[-1].file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{c.slot}={c.label}")
        if on_progress:
            on_progress((1, 1))
        drops = tuple((slot, 0.2) for slot in dict.fromkeys(c.slot for c in job.candidates))
        return Bank(0.4, drops, tuple(made), cpu_seconds=5.0)


class Listener:
    def __init__(self) -> None:
        self.said: list[str] = []

    def baseline_training(self, recipe) -> None:
        self.said.append(f"baseline training of {recipe.epochs}")

    def distilling(self, count) -> None:
        self.said.append(f"distilling {count}")

    def steps(self, done, total) -> None:
        self.said.append(f"step {done} of {total}")

    def trial_started(self, trial, position, target) -> None:
        self.said.append(f"{position}/{target} {trial.variant.describe()}")

    def epoch(self, score, epochs) -> None:
        pass

    def trial_ended(self, trial) -> None:
        self.said.append(f"{trial.status} {trial.variant.describe()}")

    def note(self, text) -> None:
        self.said.append(text)


def fake_costed(variant):
    gflops = 8.0 + len(variant.swaps)
    return render(variant, {variant.scale: "cost"}), Cost(
        3_000_000 + len(variant.swaps), gflops, gflops, (("silu", 5),)
    )


@pytest.fixture(autouse=True)
def _quick_costs(monkeypatch):
    monkeypatch.setattr(nas.search, "costed", fake_costed)


def make_study(
    folder: Path, space: SearchSpace | None = None, name: str = "s", changes: dict | None = None, **recipe
) -> Study:
    settings = Settings(
        space=space or read_space(SPACE, "s.yaml", "s"),
        recipe=Recipe(**{"epochs": 2, "init": "scratch", **recipe}),
        data="",
        fingerprint="f" * 16,
        classes=("a", "b"),
        images=(4, 2),
        seed=0,
        floor=0.02,
        versions=current_versions(),
    )
    where = place(name, f"sqlite:///{folder / f'{name}.db'}")
    return Study.create(where, replace(settings, **(changes or {})), 0)


def run(study: Study, trials: int | None, trainer: FakeTrainer | None = None) -> tuple[list, Listener, FakeTrainer]:
    listener, trainer = Listener(), trainer or FakeTrainer()
    with study.locked():
        result = search(study, plan(study, trials), Path("data.yaml"), trainer, listener)
    return result, listener, trainer


def test_baseline_first_then_single_swaps_then_the_rest_without_duplicates(tmp_path):
    trials, listener, trainer = run(make_study(tmp_path), 50)
    assert trials[0].variant.is_baseline
    assert [len(t.variant.swaps) for t in trials] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert len({t.variant.id for t in trials}) == 9
    assert len(trainer.jobs) == 9
    assert listener.said[-1] == "every variant of the space has been tried: the search ends after 9 trials"


def test_a_trial_keeps_what_it_was(tmp_path):
    study = make_study(tmp_path)
    run(study, 2)
    base, swapped = Study.load(study.place).trials()
    assert base.status == swapped.status == "done"
    assert swapped.yaml == render(swapped.variant, {"n": "cost"}).yaml
    assert swapped.assignment == {"neck.up_p4": "CARAFE", "neck.up_p3": "keep"}
    assert [s.epoch for s in swapped.curve] == [1, 2]
    assert swapped.average == Validation(0.625, 0.40625, 1.9)
    assert swapped.distillation is None
    assert swapped.inherited == (355, 355)
    assert swapped.gflops == 9.0
    assert swapped.uncounted == (("silu", 5),)
    assert dict(swapped.versions)["swapnas"]
    assert round(swapped.map_per_gflop, 6) == round(0.375 / 9, 6)


def test_shared_settings_of_every_job(tmp_path):
    _, _, trainer = run(make_study(tmp_path), 4)
    assert {(j.seed, j.data, j.recipe.epochs, j.init) for j in trainer.jobs} == {(0, "data.yaml", 2, None)}


def test_a_failing_variant_fails_alone(tmp_path):
    study = make_study(tmp_path)
    trials, _, _ = run(study, 5, FakeTrainer(fails={"CARAFE": "the loss was no longer a number in epoch 1"}))
    failed = [t for t in trials if t.status == "failed"]
    assert len(trials) == 5
    assert [t.variant.describe() for t in failed] == ["neck.up_p4=CARAFE", "neck.up_p3=CARAFE"]
    assert failed[0].failure == "nan: the loss was no longer a number in epoch 1"
    assert Study.load(study.place).trials() == trials


def test_a_variant_that_cannot_be_built_fails_alone(tmp_path, monkeypatch):
    def breaks(variant):
        if ("neck.up_p3", "DySample") in variant.swaps:
            raise BuildError("cannot be built: ValueError: too wide")
        return fake_costed(variant)

    monkeypatch.setattr(nas.search, "costed", breaks)
    trials, _, trainer = run(make_study(tmp_path), 9)
    assert sum(t.status == "failed" for t in trials) == 3
    assert len(trainer.jobs) == 6
    assert trials[-1].seconds >= 0


def test_the_baseline_must_not_fail(tmp_path):
    class Broken(FakeTrainer):
        def run(self, job, on_epoch=None):
            raise ProxyFailure("memory", "out of memory")

    with pytest.raises(StudyError, match=r"the baseline itself failed.*out of memory"):
        run(make_study(tmp_path), 3, Broken())


def test_a_baseline_that_failed_is_tried_again(tmp_path):
    study = make_study(tmp_path)

    class Broken(FakeTrainer):
        def run(self, job, on_epoch=None):
            raise ProxyFailure("memory", "out of memory")

    with pytest.raises(StudyError):
        run(study, 3, Broken())
    trials, _, _ = run(study, None)
    assert [t.status for t in trials] == ["failed", "done", "done", "done"]
    assert trials[1].variant.is_baseline


def test_a_machine_that_fails_is_not_held_against_variants(tmp_path):
    study = make_study(tmp_path)

    class DiskFull(FakeTrainer):
        def run(self, job, on_epoch=None):
            if job.swaps:
                raise ProxyFailure("error", "OSError: No space left on device")
            return super().run(job, on_epoch)

    with pytest.raises(StudyError, match=r"3 trainings in a row failed.*No space left"):
        run(study, 9, DiskFull())
    assert [t.status for t in study.trials()] == ["done", "interrupted", "interrupted", "interrupted"]
    trials, _, _ = run(study, None)
    assert sum(t.status == "done" for t in trials) == 9


def test_a_variant_whose_process_dies_fails_alone(tmp_path):
    study = make_study(tmp_path)

    class Dies(FakeTrainer):
        def run(self, job, on_epoch=None):
            if ("neck.up_p4", "CARAFE") in job.swaps:
                raise ProxyFailure("died", "the training process died")
            return super().run(job, on_epoch)

    trials, _, _ = run(study, 4, Dies())
    assert [t.status for t in trials] == ["done", "failed", "done", "done"]
    assert trials[1].failure == "died: the training process died"
    last, _, _ = run(make_study(tmp_path, name="last"), 2, Dies())
    assert [t.status for t in last] == ["done", "failed"]


@pytest.mark.parametrize("moment", ["ask", "store", "told"])
def test_killed_between_two_writes(tmp_path, monkeypatch, moment):
    """Nothing cleans up at these moments, as after SIGKILL; what was finished counts, and nothing runs twice."""
    study = make_study(tmp_path)
    run(study, 1)
    with monkeypatch.context() as patch:

        def dies(*_args, **_options):
            raise SystemExit

        if moment == "ask":
            patch.setattr(study._inner, "ask", dies)
        elif moment == "store":
            patch.setattr("nas.study.OpenTrial.store", dies)
        else:
            patch.setattr("nas.study.Study._tell", dies)
        with pytest.raises(SystemExit):
            run(study, 2)
    trials, _, trainer = run(study, 2)
    assert sum(t.status == "done" for t in trials) == 3
    assert len({t.variant.id for t in trials}) == 3
    assert len(trainer.jobs) == (1 if moment == "told" else 2)
    assert not any(t.status == "running" for t in study.trials())


def test_more_means_more_than_what_was_finished_before_a_kill(tmp_path, monkeypatch):
    study = make_study(tmp_path)
    with monkeypatch.context() as patch:

        def dies(*_args, **_options):
            raise SystemExit

        patch.setattr("nas.study.Study._tell", dies)
        with pytest.raises(SystemExit):
            run(study, 1)
    trials, _, _ = run(study, 3)
    assert sum(t.status == "done" for t in trials) == 1 + 3


def test_the_baseline_is_exempt_from_limits(tmp_path):
    space = read_space(SPACE, "s.yaml", "s").with_limits(max_gflops=7.0, max_params=None)
    trials, _, trainer = run(make_study(tmp_path, space), 2)
    assert trials[0].status == "done"
    assert len(trainer.jobs) == 1


def test_limits_are_checked_before_training_and_do_not_count(tmp_path):
    space = read_space(SPACE, "s.yaml", "s").with_limits(max_gflops=9.5, max_params=None)
    trials, _, trainer = run(make_study(tmp_path, space), 9)
    assert len(trainer.jobs) == 5
    rejected = [t for t in trials if t.status == "rejected"]
    assert len(rejected) == 4
    assert rejected[0].failure == "10.00 GFLOPs, over the limit of 9.5"
    assert not any(t.spent for t in rejected)


def test_limits_that_nothing_satisfies_end_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr(nas.search, "_MOST_REJECTED", 3)
    space = read_space(SPACE, "s.yaml", "s").with_limits(max_gflops=8.5, max_params=None)
    trials, listener, trainer = run(make_study(tmp_path, space), 5)
    assert len(trainer.jobs) == 1
    assert listener.said[-1] == "3 variants in a row were over the limits of the space: the search ends here"
    assert len(trials) == 4


def test_more_trials_and_finished_requests(tmp_path):
    study = make_study(tmp_path)
    assert plan(study, 3) == Plan(0, 3, finishing=False)
    run(study, 3)
    assert plan(study, None) == Plan(3, 3, finishing=True)
    assert plan(study, 3) == Plan(3, 6, finishing=False)
    run(study, 2)
    assert sum(t.spent for t in study.trials()) == 5


def test_stopped_search_is_finished_by_the_same_request(tmp_path):
    study = make_study(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(study, 5, FakeTrainer(stop_at=3))
    assert [t.status for t in study.trials()] == ["done", "done", "interrupted"]
    assert plan(study, 5) == plan(study, None) == Plan(2, 5, finishing=True)
    assert plan(study, 4) == Plan(2, 6, finishing=False)
    trials, _, _ = run(study, 5)
    done = [t for t in trials if t.status == "done"]
    assert len(done) == 5
    stopped = trials[2]
    assert sum(t.variant == stopped.variant for t in trials) == 2


def test_what_is_proposed_does_not_depend_on_interruptions(tmp_path):
    whole, _, _ = run(make_study(tmp_path, name="whole"), 9)
    broken = make_study(tmp_path, name="broken")
    for stop in (2, 1, 4):
        with pytest.raises(KeyboardInterrupt):
            run(broken, 9, FakeTrainer(stop_at=stop))
    trials, _, _ = run(broken, 9)
    assert [t.variant for t in trials if t.status == "done"] == [t.variant for t in whole]


def test_stale_trials_are_given_up(tmp_path):
    study = make_study(tmp_path)

    class Dies(FakeTrainer):
        def run(self, job, on_epoch=None):
            raise SystemExit  # nothing cleans up, as after SIGKILL

    with pytest.raises(SystemExit):
        run(study, 3, Dies())
    assert [t.status for t in study.trials()] == ["running"]
    trials, _, _ = run(study, 3)
    assert [t.status for t in trials] == ["interrupted", "done", "done", "done"]


def test_baseline_is_trained_once_and_kept(tmp_path):
    study = make_study(tmp_path, init="baseline", base_epochs=7)
    _, listener, trainer = run(study, 2)
    assert listener.said[0] == "baseline training of 7"
    assert trainer.jobs[0].recipe.init == "scratch"
    assert trainer.jobs[0].recipe.lr0 == study.settings.recipe.base_lr0
    weights = trainer.jobs[0].save
    assert [j.init for j in trainer.jobs] == [None, weights, weights]
    assert len(study.baseline_training) == 7
    _, listener, trainer = run(study, 1)
    assert all(j.init == weights and not j.save for j in trainer.jobs)
    Path(weights).unlink()
    _, listener, trainer = run(study, 1)
    assert listener.said[0] == "baseline training of 7"


def test_one_search_at_a_time(tmp_path):
    study = make_study(tmp_path)
    taken = pytest.raises(StudyError, match=r"another search works on the study 's' \(process \d+\)")
    with study.locked(), taken, Study.load(study.place).locked():
        pass
    with study.locked():
        pass


def test_the_score_that_ranks_is_the_settings_own(tmp_path):
    study = make_study(tmp_path, changes={"score": "map_average"})
    trials, _, _ = run(study, 2)
    assert [t.map for t in trials] == [t.map for t in Study.load(study.place).trials()] == [0.40625, 0.40625]
    assert trials[1].map_per_gflop == 0.40625 / 9


def test_the_error_that_a_calibration_says_reaches_the_proposals(tmp_path, monkeypatch):
    heard = []

    def proposes(space, trials, **how):
        heard.append(how)

    monkeypatch.setattr(nas.search, "propose", proposes)
    for name, calibration in (("a", ""), ("b", '{"error": 0.004}')):
        run(make_study(tmp_path, name=name, changes={"calibration": calibration, "seed": 7}), 2)
    assert heard == [{"seed": 7, "floor": 0.02, "error": None}, {"seed": 7, "floor": 0.02, "error": 0.004}]


def test_nothing_is_trained_without_epochs(tmp_path):
    study = make_study(tmp_path, epochs=0, init="bank", base_epochs=3)
    trials, _, trainer = run(study, 3)
    maps = {"baseline": 0.375, "neck.up_p4=CARAFE": 0.375, "neck.up_p3=DySample": 0.390625}
    assert {t.variant.describe(): t.map for t in trials} == maps
    assert {(t.status, len(t.curve), t.curve[0].epoch) for t in trials} == {("done", 1, 0)}
    assert [j.recipe.epochs for j in trainer.jobs] == [3, 0, 0, 0]


# --- the bank -------------------------------------------------------------------------------------------------------

MIXED = """
slots:
  neck.up_p4: [CARAFE]
  neck.c2f_*: {choices: [keep, C2f_SPConv, C2f_DCNv4], tie: true}
"""
TIED = ("neck.c2f_p4", "neck.c2f_p3", "neck.c2f_n4", "neck.c2f_n5")


def asked(trainer: FakeTrainer) -> list[tuple[str, str]]:
    return [(c.slot, c.label) for job in trainer.distillations for c in job.candidates]


def test_a_variant_inherits_the_baseline_and_its_swaps_from_the_bank(tmp_path):
    study = make_study(tmp_path, init="bank", base_epochs=7, bank_epochs=3)
    trials, listener, trainer = run(study, 6)
    assert listener.said[:3] == ["baseline training of 7", "distilling 4", "step 1 of 1"]
    (job,) = trainer.distillations
    assert (job.proxy.init, job.proxy.swaps, job.proxy.recipe.bank_epochs) == (trainer.jobs[0].save, (), 3)
    assert {j.init for j in trainer.jobs[1:]} == {trainer.jobs[0].save}
    for trained in trainer.jobs[1:]:
        assert [Path(f).read_text() for f in trained.overlay] == [f"{slot}={label}" for slot, label in trained.swaps]
    assert len(trainer.jobs[6].overlay) == 2
    by_swaps = {t.variant.describe(): t.distillation for t in trials}
    assert (by_swaps["baseline"], by_swaps["neck.up_p4=CARAFE"], by_swaps["neck.up_p3=CARAFE"]) == (None, 0.3, 0.5)
    assert trials[5].distillation == 0.5
    assert Study.load(study.place).bank == {
        "folder": job.folder,
        "teacher_map": 0.4,
        "drops": {"neck.up_p4": 0.2, "neck.up_p3": 0.2},
        "failures": {},
    }
    assert len(study.baseline_training) == 7


def test_a_second_study_trains_no_baseline_and_distils_nothing(tmp_path):
    _, _, first = run(make_study(tmp_path, init="bank", base_epochs=7), 2)
    second = make_study(tmp_path, name="second", init="bank", base_epochs=7)
    trials, listener, trainer = run(second, 2)
    assert listener.said[0] == "1/2 baseline"
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
def test_what_decides_weights_is_in_their_names(tmp_path, changes, recipe, anew):
    shared = {"init": "bank", "base_epochs": 7}
    _, _, first = run(make_study(tmp_path, **shared), 1)
    _, _, trainer = run(make_study(tmp_path, name="other", changes=changes, **{**shared, **recipe}), 1)
    assert (sum(bool(j.save) for j in trainer.jobs), len(asked(trainer))) == anew
    if anew[1]:
        assert trainer.distillations[0].folder != first.distillations[0].folder


def test_a_bank_grows_with_its_space(tmp_path):
    small = read_space("slots: {neck.up_p4: [CARAFE], neck.c2f_p4: [C2f_SPConv]}", "s.yaml", "s")
    _, _, first = run(make_study(tmp_path, small, init="bank", base_epochs=7), 2)
    assert asked(first) == [("neck.up_p4", "CARAFE"), ("neck.c2f_p4", "C2f_SPConv"), ("neck.c2f_p4", AGAIN)]
    large = read_space(
        "slots: {neck.up_p4: [CARAFE, DySample], neck.c2f_p4: [C2f_SPConv], neck.down_n4: [SPConv]}", "l.yaml", "l"
    )
    _, listener, trainer = run(make_study(tmp_path, large, name="large", init="bank", base_epochs=7), 5)
    assert listener.said[0] == "distilling 3"
    assert asked(trainer) == [("neck.up_p4", "DySample"), ("neck.down_n4", "SPConv"), ("neck.down_n4", AGAIN)]
    assert trainer.distillations[0].folder == first.distillations[0].folder
    assert {Path(f).read_text() for j in trainer.jobs for f in j.overlay} == {
        "neck.up_p4=CARAFE", "neck.up_p4=DySample", "neck.c2f_p4=C2f_SPConv", "neck.down_n4=SPConv",
    }  # fmt: skip
    study = make_study(tmp_path, small, name="again", init="bank", base_epochs=7)
    assert asked(run(study, 2)[2]) == []
    assert set(study.bank["drops"]) == {"neck.up_p4", "neck.c2f_p4"}  # what is no slot of this space is not its affair


def test_what_another_space_could_not_make_does_not_concern_this_one(tmp_path):
    other = read_space("slots: {neck.up_p4: [CARAFE, DySample], neck.c2f_p4: [C2f_SPConv]}", "o.yaml", "o")
    diverge = ("neck.c2f_p4=C2f_SPConv", "neck.up_p4=DySample")
    run(make_study(tmp_path, other, name="other", init="bank", base_epochs=7), 2, FakeTrainer(diverge=diverge))
    study = make_study(tmp_path, read_space("slots: {neck.up_p4: [CARAFE]}", "s.yaml", "s"), init="bank", base_epochs=7)
    trials, listener, trainer = run(study, 2)
    assert asked(trainer) == []
    assert not any("kept out" in text for text in [*listener.said, *ranking_notes(study)])
    assert len(trials) == 2


def test_a_file_of_the_bank_that_is_gone_is_distilled_anew(tmp_path):
    _, _, first = run(make_study(tmp_path, init="bank", base_epochs=7), 2)
    Path(first.jobs[-1].overlay[0]).unlink()
    _, _, trainer = run(make_study(tmp_path, name="second", init="bank", base_epochs=7), 2)
    assert asked(trainer) == [("neck.up_p4", "CARAFE")]


def test_a_candidate_that_failed_is_kept_out_of_the_search(tmp_path):
    """One layer of a tied slot is enough: all of them would be swapped together."""
    space = read_space(MIXED, "m.yaml", "m")
    study = make_study(tmp_path, space, init="bank", base_epochs=7)
    broken = f"{TIED[2]}=C2f_DCNv4"
    trials, listener, trainer = run(study, 50, FakeTrainer(diverge=(broken,)))
    told = f"kept out of the search: {broken}: its distillation diverged"
    assert told in listener.said
    assert told in ranking_notes(Study.load(study.place))
    assert {t.assignment["neck.c2f_*"] for t in trials} == {"keep", "C2f_SPConv"}
    assert len(trials) == 4
    assert listener.said[-1] == "every variant of the space has been tried: the search ends after 4 trials"
    assert study.settings.space == space  # a resumed study has to be the same
    _, listener, trainer = run(study, 5)
    assert told in listener.said
    assert (trainer.jobs, trainer.distillations) == ([], [])


def test_a_control_that_failed_keeps_nothing_out(tmp_path):
    space = read_space(MIXED, "m.yaml", "m")
    study = make_study(tmp_path, space, init="bank", base_epochs=7)
    trials, listener, _ = run(study, 50, FakeTrainer(diverge=(f"{TIED[0]}={AGAIN}",)))
    assert len(trials) == space.size
    assert not any("kept out" in text for text in [*listener.said, *ranking_notes(study)])


def test_a_baseline_that_has_not_learnt_teaches_nothing(tmp_path):
    class Dull(FakeTrainer):
        def run(self, job, on_epoch=None):
            result = super().run(job, on_epoch)
            return replace(result, curve=(EpochScore(1, 2.0, 0.1, Validation(0.05, 0.0199, 2.0)),))

    study, trainer = make_study(tmp_path, init="bank", base_epochs=1), Dull()
    with pytest.raises(StudyError, match=r"has not learnt \(mAP50-95 0.020 after 1 epochs\).*--base-epochs.*--weights"):
        run(study, 3, trainer)
    assert (len(trainer.jobs), trainer.distillations, study.trials()) == (1, [], [])
    assert study.is_barren
    run(make_study(tmp_path, name="plain", init="baseline", base_epochs=1), 1, Dull())  # which may inherit it


@pytest.mark.parametrize("step", ["trained", "distilled"])
def test_what_is_shared_cannot_be_made(tmp_path, step):
    class Breaks(FakeTrainer):
        def run(self, job, on_epoch=None):
            if job.save and step == "trained":
                raise ProxyFailure("memory", "out of memory")
            return super().run(job, on_epoch)

        def work(self, job, on_progress=None):
            raise ProxyFailure("memory", "out of memory")

    study = make_study(tmp_path, init="bank", base_epochs=7)
    with pytest.raises(StudyError, match=rf"could not be {step}: out of memory"):
        run(study, 3, Breaks())
    assert study.trials() == []
    trials, _, trainer = run(study, None)
    assert [t.status for t in trials] == ["done"] * 3
    assert len(asked(trainer)) == 4


def test_killed_while_distilling(tmp_path):
    class Dies(FakeTrainer):
        def work(self, job, on_progress=None):
            raise SystemExit

    study = make_study(tmp_path, init="bank", base_epochs=7)
    with pytest.raises(SystemExit):
        run(study, 3, Dies())
    trials, listener, _ = run(study, 3)
    assert listener.said[0] == "distilling 4"  # the baseline is there
    assert [t.status for t in trials] == ["done"] * 3
