"""Variants against the pruned baseline: the nearest in cost, paired by seed, and never in the ranking."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.ranking.rank import rank_trials, ranking_of
from nas.ranking.replicates import paired_differences
from nas.ranking.verdict import compare
from nas.ranking.yardstick import (
    against_json,
    compare_with_yardsticks,
    measured_yardsticks,
    nearest_yardstick,
    yardsticks_json,
)
from nas.space.variant import Variant, make_yardstick
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

NOISE = (0.0, 0.02, -0.01)
"""What a seed does to all variants alike."""


def finish(study, variant: Variant, gflops: float, maps: list[float], assignment: dict[str, str] | None = None) -> None:
    """Store the runs of a variant under seeds 0, 1, ..."""
    for seed, value in enumerate(maps):
        trial = Trial(-1, variant, assignment or {}, "running", seed=seed, gflops=gflops, stock_gflops=gflops)
        curve = (EpochScore(1, 2.0, 0.1, Validation(value + NOISE[seed] + 0.2, value + NOISE[seed], 1.0)),)
        study.start(trial).end(status="done", curve=curve)


@pytest.fixture
def study(ranked_study):
    made = ranked_study([])
    space = made.settings.space
    slot = next(slot for slot in space.active if len(slot.choices) > 2)
    baseline = space.baseline()
    finish(made, space.variant(baseline), 8.0, [0.40, 0.40, 0.40], baseline)
    for label, gflops, value in ((slot.choices[1], 6.1, 0.40), (slot.choices[2], 4.9, 0.31)):
        assignment = {**baseline, slot.key: label}
        finish(made, space.variant(assignment), gflops, [value, value + 0.001, value - 0.001], assignment)
    finish(made, make_yardstick("yolov8", "n", 0.2), 6.0, [0.36, 0.361, 0.358])
    finish(made, make_yardstick("yolov8", "n", 0.17), 5.0, [0.33, 0.334, 0.331])
    finish(made, make_yardstick("yolov8", "n", 0.12), 3.0, [0.9, 0.9, 0.9])
    return made


def test_yardsticks_are_in_no_ranking_however_good(study):
    assert [row.trial.gflops for row in ranking_of(study)] == [6.1, 8.0, 4.9]
    assert all(t.variant.width is None for t in study.trials())
    assert study.spent == 3


def test_each_is_compared_with_the_baseline(study):
    found = measured_yardsticks(study)
    assert [(y.trial.variant.width, y.seeds) for y in found] == [(0.12, 3), (0.17, 3), (0.2, 3)]
    assert [y.verdict for y in found] == ["better", "worse", "worse"]
    assert found[2].delta_map == pytest.approx(-0.04033, abs=1e-4)
    assert found[2].delta_gflops == pytest.approx(-0.25)


def test_a_variant_is_compared_with_the_nearest_under_the_same_seeds(study):
    rows, yardsticks = ranking_of(study), measured_yardsticks(study)
    found = compare_with_yardsticks(rows, yardsticks)
    better, worse = (found[row.trial.variant] for row in rows if not row.trial.variant.is_baseline)
    assert (better.yardstick.trial.variant.width, better.verdict) == (0.2, "better")
    assert (worse.yardstick.trial.variant.width, worse.verdict) == (0.17, "worse")
    own = {0: 0.40, 1: 0.401, 2: 0.399}
    other = {0: 0.31, 1: 0.311, 2: 0.309}
    pairs = [
        paired_differences(own, {0: 0.36, 1: 0.361, 2: 0.358}), paired_differences(other, {0: 0.33, 1: 0.334, 2: 0.331})
    ]  # fmt: skip
    expected = compare(pairs)
    assert better.comparison.delta == pytest.approx(expected[0].delta)
    assert better.comparison.p == pytest.approx(expected[0].p)
    assert worse.comparison.interval == pytest.approx(expected[1].interval)
    assert len(found) == 2  # not the baseline


def test_what_is_not_smaller_than_the_baseline_is_not_compared(study):
    space = study.settings.space
    slot = next(slot for slot in space.active if len(slot.choices) > 2)
    other = next(s for s in space.active if s != slot)
    assignment = {**space.baseline(), other.key: other.choices[1]}
    variant = space.variant(assignment)
    finish(study, variant, 8.1, [0.41, 0.41, 0.41], assignment)
    finish(study, make_yardstick("yolov8", "n", 0.24), 7.9, [0.39, 0.39, 0.39])
    found = compare_with_yardsticks(ranking_of(study), measured_yardsticks(study))
    assert len(found) == 2
    assert variant not in found


def test_far_away_there_is_none(study):
    yardsticks = measured_yardsticks(study)
    row = next(row for row in ranking_of(study) if row.trial.gflops == 6.1)
    for gflops, width in ((6.3, 0.2), (6.32, None), (5.72, 0.2), (5.55, None), (5.2, 0.17), (4.0, None), (8.0, None)):
        found = nearest_yardstick(replace(row.trial, gflops=gflops), yardsticks)
        assert (found and found.trial.variant.width) == width, gflops
    assert nearest_yardstick(row.trial, []) is None


def test_one_seed_gives_no_verdict(study):
    rows = rank_trials([t for t in study.trials() if t.seed == 0], 0.02)
    found = compare_with_yardsticks(rows, measured_yardsticks(study))
    assert {one.verdict for one in found.values()} == {"1 seed"}
    assert {one.comparison.p for one in found.values()} == {None}


def test_plain_values(study):
    rows, yardsticks = ranking_of(study), measured_yardsticks(study)
    bodies = yardsticks_json(yardsticks)
    assert [(b["width"], b["gflops"], b["verdict"], b["seed_list"]) for b in bodies][2] == (
        0.2,
        6.0,
        "worse",
        [0, 1, 2],
    )
    found = against_json(compare_with_yardsticks(rows, yardsticks))
    first = found[rows[0].trial.variant.id]
    assert (first["width"], first["seeds"], first["verdict"]) == (0.2, 3, "better")
    assert first["interval"][0] > 0


def test_a_study_without_any_has_none(ranked_study):
    assert measured_yardsticks(ranked_study([({}, "done", 0.4, 8.0)])) == []
