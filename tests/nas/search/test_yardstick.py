"""Yardsticks in a search: trained as variants are, under the same seeds, and seen by no ranking and no sampler."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.bank.jobs import CONTROL
from nas.ranking.rank import ranking_of
from nas.ranking.yardstick import measured_yardsticks
from nas.search.loop import is_finished, plan
from nas.session.yardstick import request_at_front, request_of_budgets, request_yardsticks
from nas.space.variant import make_yardstick
from nas.study.budget import Confirm
from nas.study.catalog import copy_study, outline_of
from nas.study.location import locate
from nas.study.objective import read_budgets
from nas.study.study import Study
from nas.yardstick.width import cost_of

NARROW, WIDE = make_yardstick("yolov8", "n", 0.16), make_yardstick("yolov8", "n", 0.2)


def runs_of(study: Study) -> list[tuple[float, int, str]]:
    return [(t.variant.width, t.seed, t.status) for t in study.every_run() if t.variant.width is not None]


def test_they_are_trained_last_and_change_nothing_else(run, make_study):
    plain, asked = make_study(init="bank", bank_epochs=1), make_study(name="y", init="bank", bank_epochs=1)
    asked.add_yardsticks([WIDE.width, NARROW.width])
    without, _, _ = run(plain, 4)
    trials, observer, _ = run(asked, 4)
    assert [t.variant for t in trials] == [t.variant for t in without]
    assert [row.trial.variant for row in ranking_of(asked)] == [row.trial.variant for row in ranking_of(plain)]
    assert asked.spent == plain.spent == 4
    assert runs_of(asked) == [(0.16, 0, "done"), (0.2, 0, "done")]
    assert [t.variant for t in asked.every_run()][-2:] == [NARROW, WIDE]
    assert "yardsticks: the baseline pruned uniformly to 2 widths, 2 trainings" in observer.said
    assert observer.said[-1] == "done model=Width(0.2000)"
    assert asked.every_run()[-1].describe() == "yardstick: pruned to width 0.2"


def test_they_start_from_weights_pruned_from_the_baseline_of_their_seed(run, make_study):
    study = make_study(init="bank", bank_epochs=3)
    study.add_yardsticks([WIDE.width])
    study.set_seeds(2, None)
    _, _, trainer = run(study, 2)
    assert [(p.yardstick, p.distils, p.proxy.seed) for p in trainer.prunings] == [(WIDE, True, 0), (WIDE, True, 1)]
    jobs = [job for job in trainer.jobs if job.swaps == WIDE.swaps]
    assert [job.overlay for job in jobs] == [(p.file,) for p in trainer.prunings]
    assert [(job.seed, job.recipe.epochs, job.init) for job in jobs] == [
        (0, 2, trainer.prunings[0].proxy.init), (1, 2, trainer.prunings[1].proxy.init)
    ]  # fmt: skip
    assert all(job.is_pruned for job in jobs)
    assert jobs[0].yaml == study.every_run()[-1].yaml
    assert not any(label == CONTROL for job in jobs for _, label in job.swaps)


def test_nothing_is_pruned_where_nothing_is_inherited(run, make_study):
    study = make_study()
    study.add_yardsticks([WIDE.width])
    _, _, trainer = run(study, 2)
    assert not trainer.prunings
    assert [(job.init, job.overlay, job.is_pruned) for job in trainer.jobs if job.swaps == WIDE.swaps] == [
        (None, (), False)
    ]


def test_they_get_the_seeds_of_the_confirmed(run, make_study):
    study = make_study()
    study.add_yardsticks([NARROW.width, WIDE.width])
    study.set_seeds(None, Confirm(1, 3))
    run(study, 3)
    assert runs_of(study) == [(w, seed, "done") for seed in (0, 1, 2) for w in (0.16, 0.2)]
    again = Study.load(study.location)
    assert is_finished(again, plan(again, None))
    again.add_yardsticks([0.18])
    assert not is_finished(again, plan(again, None))
    run(again, None)
    assert runs_of(again)[-3:] == [(0.18, seed, "done") for seed in (0, 1, 2)]


def test_they_get_no_seed_that_the_baseline_lacks(run, make_study):
    study = make_study(changes={"floor": 0.0}, init="scratch")
    study.add_yardsticks([WIDE.width])
    study.set_seeds(None, Confirm(1, 3))
    run(study, 1)  # nothing to confirm
    assert runs_of(study) == [(0.2, 0, "done")]
    study.set_seeds(2, None)
    run(study, None)
    assert runs_of(study) == [(0.2, 0, "done"), (0.2, 1, "done")]


def test_a_search_that_is_stopped_resumes_with_the_rest(run, make_study, fake_trainer):
    study = make_study()
    study.add_yardsticks([NARROW.width, WIDE.width])
    with pytest.raises(KeyboardInterrupt):
        run(study, 2, fake_trainer(stop_at=4))
    assert runs_of(study) == [(0.16, 0, "done"), (0.2, 0, "interrupted")]
    run(Study.load(study.location), 2)
    assert runs_of(study) == [(0.16, 0, "done"), (0.2, 0, "interrupted"), (0.2, 0, "done")]


def test_one_that_fails_fails_alone(run, make_study, fake_trainer):
    study = make_study()
    study.add_yardsticks([NARROW.width, WIDE.width])
    trials, _, _ = run(study, 2, fake_trainer({"Width(0.1600)": "why"}))
    assert runs_of(study) == [(0.16, 0, "failed"), (0.2, 0, "done")]
    assert [row.trial.variant for row in measured_yardsticks(study)] == [WIDE]
    assert len(trials) == 2


def test_limits_of_the_space_do_not_reject_them(run, make_study, space):
    study = make_study(replace(space, limits=(("max_gflops", 8.5),)))  # one swap has 9 here
    study.add_yardsticks([WIDE.width])
    run(study, 1)
    assert runs_of(study) == [(0.2, 0, "done")]


def test_the_list_of_studies_and_a_copy_keep_them_apart(run, make_study, tmp_path):
    study = make_study()
    study.add_yardsticks([WIDE.width])
    run(study, 2)
    assert [t.status for t in outline_of(study).trials] == ["done", "done"]
    copy = copy_study(study, locate("copy", f"sqlite:///{tmp_path / 'copy.db'}"))
    assert (copy.yardsticks, runs_of(copy)) == ((0.2,), [(0.2, 0, "done")])


def test_budgets_become_the_widths_that_are_within_them(make_study):
    study = make_study()
    baseline = cost_of(study.settings.space.variant(study.settings.space.baseline())).gflops
    lines = request_yardsticks(study, read_budgets("-25%,6", None, None))
    assert [line.split(":")[0] for line in lines] == [
        f"yardstick for {0.75 * baseline:.2f} GFLOPs", "yardstick for 6.00 GFLOPs"
    ]  # fmt: skip
    within = [cost_of(make_yardstick("yolov8", "n", width)).gflops for width in study.yardsticks]
    assert 5.9 < within[0] <= 6
    assert 0.74 * baseline < within[1] <= 0.75 * baseline
    assert request_yardsticks(study, read_budgets("-25%", None, None)) == []  # it is requested already
    assert len(study.yardsticks) == 2


def test_a_search_with_budgets_has_their_yardsticks(make_study):
    budgets = (*read_budgets("-25%,-99%", None, None), *read_budgets(None, "2M", None))
    study = make_study(changes={"budgets": budgets})
    first, second = request_of_budgets(study)
    assert first.startswith("yardstick for ")
    assert second.startswith("no yardstick for the budget -99% GFLOPs: no width of yolov8n has at most ")
    assert len(study.yardsticks) == 1  # a budget of parameters has none
    other = make_study(replace(study.settings.space, base="yolo11"), "other", {"budgets": budgets[:1]})
    (line,) = request_of_budgets(other)
    assert line.startswith("no yardstick for the budget -25% GFLOPs: yolo11 has no yardstick: C2PSA, C3k2 ")


def test_the_front_asks_for_what_is_cheaper_than_the_baseline(make_study, run, monkeypatch):
    study = make_study()
    run(study, 3)
    rows = ranking_of(study)
    assert request_at_front(study, rows) == []  # swaps cost more here
    cheap = [replace(r, trial=replace(r.trial, gflops=7.0 if not r.trial.variant.is_baseline else 8.9)) for r in rows]
    lines = request_at_front(study, [replace(r, on_front=True) for r in cheap])
    assert len(lines) == len(study.yardsticks) == 1
    assert lines[0].startswith("yardstick for 7.00 GFLOPs: the baseline pruned to width 0.2")
