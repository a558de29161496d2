"""The search loop on a trainer that answers at once: order, budget, duplicates, failures, limits, resuming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import nas.search
from nas.cost import Cost
from nas.errors import BuildError, StudyError
from nas.proxy import EpochScore, ProxyFailure, ProxyJob, ProxyResult, Recipe
from nas.render import render
from nas.search import Plan, plan, propose, search
from nas.space import SearchSpace
from nas.space_file import load_space, read_space
from nas.storage import place
from nas.study import Settings, Study, current_versions

SPACE = """
slots:
  neck.up_p4: [CARAFE, DySample]
  neck.up_p3: [CARAFE, DySample]
"""


class FakeTrainer:
    """Answers with a score that depends on the variant alone; fails or stops where told."""

    def __init__(self, fails: dict[str, str] | None = None, stop_at: int | None = None) -> None:
        self.jobs: list[ProxyJob] = []
        self.fails = fails or {}
        self.stop_at = stop_at

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
        score = 0.4 + 0.01 * sum(label == "DySample" for _, label in job.swaps)
        curve = tuple(EpochScore(e + 1, score + 0.2, score, 2.0, 2.0, 0.1) for e in range(job.recipe.epochs))
        for epoch in curve:
            if on_epoch:
                on_epoch(epoch)
        return ProxyResult(curve, (355, 355), 1.0)


class Listener:
    def __init__(self) -> None:
        self.said: list[str] = []

    def baseline_training(self, recipe) -> None:
        self.said.append(f"baseline training of {recipe.epochs}")

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


def make_study(folder: Path, space: SearchSpace | None = None, name: str = "s", **recipe) -> Study:
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
    return Study.create(place(name, f"sqlite:///{folder / f'{name}.db'}"), settings, 0)


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
    assert swapped.inherited == (355, 355)
    assert swapped.gflops == 9.0
    assert swapped.uncounted == (("silu", 5),)
    assert dict(swapped.versions)["swapnas"]
    assert round(swapped.map_per_gflop, 6) == round(0.4 / 9, 6)


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


def test_the_sampler_learns_and_never_repeats():
    space = load_space("seeds")
    from nas.trial import Trial

    trials = [
        Trial(i, space.variant(a), a, "done", gflops=8.0, curve=(EpochScore(1, 0.5, 0.4 + 0.02 * i, 1, 1, 1),))
        for i, a in enumerate([space.baseline(), *space.single_swaps()])
    ]
    known = {t.variant.id for t in trials}
    drawn = []
    for _ in range(20):
        assignment = propose(space, trials, seed=3, floor=1.0)
        again = propose(space, trials, seed=3, floor=1.0)
        assert assignment == again
        variant = space.variant(assignment)
        assert variant.id not in known
        known.add(variant.id)
        drawn.append(assignment)
        trials.append(
            Trial(len(trials), variant, assignment, "done", gflops=8.0, curve=(EpochScore(1, 0.5, 0.4, 1, 1, 1),))
        )
    assert propose(space, trials[:60], seed=4, floor=1.0) != propose(space, trials[:60], seed=3, floor=1.0)
