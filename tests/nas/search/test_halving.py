"""Successive halving in a search: who goes on, what each rung trains, never twice, and whatever interrupts it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from nas.emit.selection import chosen_trials
from nas.errors import ProxyError, ProxyFailure, StudyError
from nas.ranking.rank import rank_trials, ranking_of
from nas.report.console import make_console
from nas.report.progress import Progress
from nas.report.ranking_notes import conclusion, ranking_notes
from nas.search.loop import is_finished, plan, run_search
from nas.search.runner import Runner
from nas.study.budget import Confirm, Rung
from nas.study.settings import Settings
from nas.study.study import Study

EVERY = 9
LOW, MIDDLE = Rung(1, 96, 0.5), Rung(2, 160)


@pytest.fixture
def graded(fake_trainer):
    """Return a trainer whose scores differ from variant to variant, and more the longer it trains."""

    class Graded(fake_trainer):
        order = ("DySample", "CARAFE")

        def run(self, job, on_epoch=None):
            result = super().run(job, on_epoch)
            score = 0.3 + 0.02 * job.recipe.epochs + 0.001 * job.seed
            for location, (slot, label) in enumerate(job.swaps):
                score += 0.001 * (1 + self.order.index(label)) * (3 if slot.endswith("p3") else 1) * (1 + location)
            last = result.curve[-1]
            seen = replace(last.validation, map=score)
            return replace(result, curve=(*result.curve[:-1], replace(last, validation=seen)), average=seen)

    return Graded


@pytest.fixture
def halved(make_study):
    """Return what makes a study of two rungs below its own recipe."""

    def make(eta: int = 3, changes: dict | None = None, **recipe) -> Study:
        given = {"rungs": (LOW, MIDDLE), "eta": eta, "floor": 0.5, **(changes or {})}
        return make_study(changes=given, **{"epochs": 8, **recipe})

    return make


def on_rungs(trials, status: str = "done") -> dict[str, list]:
    """Return what each rung has, the cheapest first."""
    return {
        fidelity: [t for t in trials if t.fidelity == fidelity and t.status == status]
        for fidelity in (LOW.fidelity, MIDDLE.fidelity, "")
    }


def shares(folder: Path) -> dict[float, Path]:
    return {0.5: folder / "half.yaml"}


@pytest.fixture
def run(tmp_path):
    """Return what searches with shares of the data at hand."""

    def search_in(study, trials, trainer, observer):
        with study.locked():
            todo = plan(study, trials)
            runner = Runner(study, Path("data.yaml"), trainer, observer, shares=shares(tmp_path))
            return todo, run_search(study, [runner])

    return search_in


class WeightsObserver:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.started: list[tuple[str, int, int]] = []

    def baseline_training(self, recipe, seed) -> None: ...
    def distilling(self, count) -> None: ...
    def scoring(self, count) -> None: ...
    def steps(self, done, total) -> None: ...
    def epoch(self, score, epochs) -> None: ...
    def trial_ended(self, trial) -> None: ...

    def trial_started(self, trial, position, target) -> None:
        self.started.append((trial.fidelity, position, target))

    def note(self, text) -> None:
        self.notes.append(text)

    def for_worker(self, number) -> WeightsObserver:
        return self


def test_the_best_of_each_rung_and_the_baseline_go_on(run, halved, graded):
    study, observer, trainer = halved(), WeightsObserver(), graded()
    _, trials = run(study, EVERY, trainer, observer)
    low, middle, top = on_rungs(trials).values()
    assert [len(rung) for rung in (low, middle, top)] == [9, 1 + 3, 1 + 1]
    for below, above in itertools.pairwise((low, middle, top)):
        first = [r.trial.variant for r in rank_trials(below, 0.5) if not r.trial.variant.is_baseline]
        got = {t.variant for t in above if not t.variant.is_baseline}
        assert got == set(first[: len(above) - 1])
        assert sum(t.variant.is_baseline for t in above) == 1
    assert max(t.number for t in low) < min(t.number for t in middle)
    assert max(t.number for t in middle) < min(t.number for t in top)
    assert [(fidelity, k, n) for fidelity, k, n in observer.started if fidelity != LOW.fidelity] == [
        *((MIDDLE.fidelity, k, 4) for k in range(1, 5)), ("", 1, 2), ("", 2, 2)]  # fmt: skip
    assert observer.notes == [
        "rung 2 of 3 (2 epochs at 160 px): the first 3 of the rung below, and the baseline",
        "rung 3 of 3 (the study's own recipe): the first 1 of the rung below, and the baseline",
    ]


def test_each_rung_trains_as_it_says_with_its_own_whole_schedule(run, halved, graded, tmp_path):
    study, trainer = halved(), graded()
    run(study, EVERY, trainer, WeightsObserver())
    seen = {(j.recipe.epochs, j.recipe.imgsz, j.data, j.data_key) for j in trainer.jobs}
    key = study.settings.fingerprint
    assert seen == {
        (1, 96, str(tmp_path / "half.yaml"), f"{key}/0.5"), (2, 160, "data.yaml", key), (8, 160, "data.yaml", key)
    }  # fmt: skip
    assert len({j.checkpoint for j in trainer.jobs}) == len(trainer.jobs) == 9 + 4 + 2
    own = study.settings.recipe
    for job in trainer.jobs:
        assert replace(job.recipe, epochs=own.epochs, imgsz=own.imgsz) == own


def test_all_rungs_inherit_from_one_baseline_and_one_bank(run, halved, graded):
    study, trainer = halved(init="bank"), graded()
    _, trials = run(study, EVERY, trainer, WeightsObserver())
    assert [len(rung) for rung in on_rungs(trials).values()] == [9, 4, 2]
    assert len(trainer.distillations) == 1
    trainings = [job for job in trainer.jobs if job.save]
    assert [(job.recipe.epochs, job.recipe.imgsz) for job in trainings] == [(40, 160)]
    assert {job.init for job in trainer.jobs if not job.save} == {trainings[0].save}


def test_only_the_studys_own_recipe_is_ranked_and_a_lower_rung_where_it_is_asked_for(run, halved, graded):
    study = halved()
    run(study, EVERY, graded(), WeightsObserver())
    assert len(ranking_of(study)) == 2
    assert all(r.trial.fidelity == "" for r in ranking_of(study))
    assert [len(ranking_of(study, study.fidelity_of(k))) for k in (1, 2, 3)] == [9, 4, 2]
    with pytest.raises(StudyError, match="has 3 rungs"):
        study.fidelity_of(4)
    assert [t.fidelity for t in chosen_trials(study, which="best")] == [""]
    assert chosen_trials(study, number=3)[0].fidelity == LOW.fidelity  # by its number any can be had
    said = "\n".join(ranking_notes(study))
    assert "Successive halving, keep 1 of 3; every rung retrains from the start" in said
    assert "1: 8 variants with 1 epoch at 96 px with 50% of the training images; 2: 3 variants with 2 epochs" in said
    assert "3: 1 variant with the full recipe. Only the last rung is ranked here" in said
    assert "Compared 2 variants" in conclusion(study)[0]
    lower = "\n".join(ranking_notes(study, LOW.fidelity))
    assert lower.startswith("Proxy: 1 epoch at 96 px, batch 16") or "Proxy: 1 epoch at 96 px with 50%" in lower
    assert "The resolution of this rung is not known" in lower


def test_a_study_without_rungs_says_so(make_study):
    with pytest.raises(StudyError, match="no lower rungs: it was created without --rungs"):
        make_study().fidelity_of(2)
    assert make_study(name="t").fidelity_of(1) == make_study(name="u").fidelity_of(None) == ""


@pytest.mark.parametrize("stop_at", range(1, 16))
def test_a_search_that_was_stopped_ends_as_if_it_had_not_been(run, halved, graded, make_study, stop_at):
    study = halved()
    with pytest.raises(KeyboardInterrupt):
        run(study, EVERY, graded(stop_at=stop_at), WeightsObserver())
    assert not is_finished(study, plan(study, None))
    trainer = graded()
    _, trials = run(study, None, trainer, WeightsObserver())
    assert [len(rung) for rung in on_rungs(trials).values()] == [9, 4, 2]
    assert len(trainer.jobs) == 15 - (stop_at - 1)
    assert is_finished(study, plan(study, None))
    assert len({t.key for t in trials if t.status == "done"}) == 15
    whole = make_study(name="whole", changes={"rungs": (LOW, MIDDLE), "floor": 0.5}, epochs=8)
    _, expected = run(whole, EVERY, graded(), WeightsObserver())
    assert {(t.key, t.map) for t in trials if t.status == "done"} == {(t.key, t.map) for t in expected}


def test_who_stops_on_a_lower_rung_is_told_where_to_look(run, halved, graded):
    study = halved()
    with pytest.raises(KeyboardInterrupt):
        run(study, EVERY, graded(stop_at=4), WeightsObserver())
    (said,) = conclusion(study)
    assert said.startswith("No variant has reached the full recipe yet; ")
    assert said.endswith(f"`nas rank s --storage {study.location.url} --rung 1` shows the lowest rung.")
    assert len(ranking_of(study, study.fidelity_of(1))) == 3


def test_further_variants_climb_as_the_others_did(run, halved, graded):
    study = halved()
    run(study, 5, graded(), WeightsObserver())
    assert [len(rung) for rung in on_rungs(study.runs()).values()] == [5, 1 + 2, 1 + 1]
    trainer = graded()
    todo, trials = run(study, 4, trainer, WeightsObserver())
    assert (todo.spent, todo.target) == (5, 9)
    low, middle, _top = on_rungs(trials).values()
    assert len(low) == 9
    first = [r.trial.variant for r in rank_trials(low, 0.5) if not r.trial.variant.is_baseline][:3]
    assert {t.variant for t in middle} >= set(first)
    assert len({t.key for t in trials}) == len(trials)


def test_what_fails_on_a_rung_goes_no_further_and_is_not_tried_again(run, halved, graded):
    class Brittle(graded):
        def run(self, job, on_epoch=None):
            if job.recipe.epochs == 2 and [slot for slot, _ in job.swaps] == ["neck.up_p3"]:
                self.jobs.append(job)
                raise ProxyFailure("nan", "no longer a number")
            return super().run(job, on_epoch)

    study, trainer = halved(), Brittle()
    _, trials = run(study, EVERY, trainer, WeightsObserver())
    failed = on_rungs(trials, "failed")[MIDDLE.fidelity]
    done = on_rungs(trials)
    assert failed
    assert len(failed) + len(done[MIDDLE.fidelity]) == 4
    assert not {t.variant for t in failed} & {t.variant for t in done[""]}
    before = len(trainer.jobs)
    assert is_finished(study, plan(study, None))
    run(study, None, trainer, WeightsObserver())
    assert len(trainer.jobs) == before
    assert any("2 epochs at 160 px" in line for line in ranking_notes(study) if line.startswith("failed"))


def test_a_baseline_that_fails_on_a_rung_ends_the_search(run, halved, graded):
    class NoBaseline(graded):
        def run(self, job, on_epoch=None):
            if job.recipe.epochs == 2:
                raise ProxyFailure("nan", "no longer a number")
            return super().run(job, on_epoch)

    with pytest.raises(ProxyError, match="the baseline itself failed"):
        run(halved(), EVERY, NoBaseline(), WeightsObserver())


def test_every_rung_gets_the_seeds_that_were_asked_for_and_the_top_one_is_confirmed(run, halved, graded):
    study = halved()
    study.set_seeds(2, Confirm(1, 4))
    _, trials = run(study, EVERY, graded(), WeightsObserver())
    low, middle, top = on_rungs(trials).values()
    assert [len(rung) for rung in (low, middle)] == [18, 8]
    assert {t.seed for t in low} == {t.seed for t in middle} == {0, 1}
    assert {t.seed for t in top} >= {0, 1, 2}
    assert len({t.key for t in trials}) == len(trials)


def test_the_least_map_is_asked_of_the_studys_own_recipe_alone(run, halved, graded, space):
    demanding = space.with_limits(max_gflops=None, max_params=None, max_latency_ms=None, min_map=0.45)
    study = halved(changes={"space": demanding})
    run(study, EVERY, graded(), WeightsObserver())
    assert [len(rung) for rung in on_rungs(study.runs()).values()] == [9, 4, 2]
    assert not any(r.below_floor for r in ranking_of(study, LOW.fidelity))
    assert all(r.trial.map < 0.45 for r in ranking_of(study, LOW.fidelity))
    assert not any(r.below_floor for r in ranking_of(study))  # it reaches it


def test_a_cost_is_counted_once(run, halved, graded, monkeypatch):
    import nas.search.runner

    counted = []
    known = nas.search.runner.costed
    monkeypatch.setattr(nas.search.runner, "costed", lambda variant: counted.append(variant) or known(variant))
    run(halved(), EVERY, graded(), WeightsObserver())
    assert len(counted) == len(set(counted)) == EVERY


def test_settings_keep_their_rungs_and_take_no_others(halved):
    study = halved()
    again = Study.load(study.location)
    assert (again.settings, again.settings.fidelities) == (study.settings, (LOW.fidelity, MIDDLE.fidelity, ""))
    other = replace(study.settings, eta=4)
    assert study.settings.differences(other) == ["rungs: 1@96/0.5, 2@160/1, keep 1/3, not 1@96/0.5, 2@160/1, keep 1/4"]
    none = replace(study.settings, rungs=(), eta=4)
    assert none.differences(study.settings)[0].startswith("rungs: none, not 1@96/0.5")
    assert none.differences(replace(none, eta=3)) == []  # it means nothing without rungs
    older = none.to_json().replace('"rungs": [], ', "").replace('"eta": 4, ', "")
    assert "rungs" not in older
    assert Settings.from_json(older) == replace(none, eta=3)


def test_progress_names_the_rung_and_compares_within_it(run, halved, graded, capsys):
    study = halved()
    with Progress(make_console(stderr=True), study) as progress:
        run(study, EVERY, graded(), progress)
        said = " ".join(capsys.readouterr().err.split())
        assert "trial 0: baseline, 1 epoch at 96 px with 50% of the training images: mAP50-95 " in said
        assert "2 epochs at 160 px: mAP50-95 " in said
        best = progress._best()
    assert best.endswith(f"{ranking_of(study)[0].trial.map_per_gflop:.4f} mAP50-95 per GFLOP")
