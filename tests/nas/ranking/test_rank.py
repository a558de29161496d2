"""The order, the floor, the front, and what is exported."""

import csv
import io
from dataclasses import replace

import pytest

from nas.ranking.rank import COLUMNS, confirmed_winner, export_rows, pareto_front, rank_trials, to_csv
from nas.space.variant import Variant
from nas.study.objective import Goal
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

LABELS = ("CARAFE", "DySample", "DySample(style=pl)")


def trial(number: int, score: float, gflops: float, status: str = "done") -> Trial:
    swaps = () if number == 0 else (("neck.up_p4", LABELS[number % 3]), ("neck.up_p3", "CARAFE"))[: 1 + number // 3]
    curve = (EpochScore(1, 2.0, 0.1, Validation(score + 0.2, score, 1.0)),)
    return Trial(
        number, Variant("yolov8", "n", swaps), dict(swaps), status, params=3_000_000, gflops=gflops, curve=curve
    )


def test_order_is_map_per_gflop_above_the_floor():
    trials = [
        trial(0, 0.40, 8.0),
        trial(1, 0.41, 9.0),
        trial(2, 0.39, 7.0),
        trial(3, 0.30, 4.0),
        trial(4, 0.9, 1.0, "failed"),
    ]
    rows = rank_trials(trials, floor=0.02)
    assert [r.trial.number for r in rows] == [2, 0, 1, 3]
    assert [r.below_floor for r in rows] == [False, False, False, True]
    assert [r.rank for r in rows] == [1, 2, 3, 4]
    assert round(rows[0].delta_map, 6) == -0.01
    assert round(rows[0].delta_gflops, 6) == -0.125
    assert rows[1].verdict == "baseline"
    assert {r.verdict for r in rows if r.trial.number} == {"cannot tell"}
    assert all(r.interval is None and r.seeds == 1 for r in rows)


def test_the_answer_is_the_first_that_was_trained_again():
    screened = [trial(0, 0.40, 8.0), trial(1, 0.44, 8.0), trial(2, 0.43, 8.0), trial(3, 0.42, 8.0)]
    assert confirmed_winner(rank_trials(screened, floor=0.02)).trial.number == 1
    only_baseline = [*screened, replace(trial(0, 0.41, 8.0), number=8, seed=1)]
    assert confirmed_winner(rank_trials(only_baseline, floor=0.02)).trial.number == 1
    again = [replace(trial(n, score, 8.0), number=9 + n, seed=1) for n, score in ((0, 0.40), (1, 0.38), (2, 0.40))]
    rows = rank_trials([*screened, *again], floor=0.02)
    assert [r.trial.number for r in rows] == [3, 2, 1, 0]  # by the mean of their scores: .42 of one seed, .415, .41
    assert confirmed_winner(rows).trial.number == 2
    worse = [replace(trial(n, 0.34, 8.0), number=9 + n, seed=1) for n in (1, 2)]
    assert confirmed_winner(rank_trials([*screened, again[0], *worse], floor=0.02)).trial.variant.is_baseline


def test_the_floor_itself_is_allowed():
    rows = rank_trials([trial(0, 0.5, 8.0), trial(1, 0.25, 4.0)], floor=0.25)
    assert not any(r.below_floor for r in rows)


def test_without_a_baseline_there_is_no_floor():
    rows = rank_trials([trial(1, 0.1, 4.0), trial(2, 0.5, 8.0)], floor=0.02)
    assert all(r.delta_map is None and not r.below_floor for r in rows)


def test_front():
    trials = [trial(0, 0.40, 8.0), trial(1, 0.41, 9.0), trial(2, 0.39, 9.0), trial(3, 0.30, 4.0), trial(4, 0.40, 8.5)]
    assert [t.number for t in pareto_front(trials)] == [3, 0, 1]


def test_other_goals_have_other_orders():
    trials = [trial(0, 0.40, 8.0), trial(1, 0.41, 9.0), trial(2, 0.39, 7.0), trial(3, 0.30, 4.0), trial(4, 0.395, 8.5)]
    assert [r.trial.number for r in rank_trials(trials, 0.02, Goal("map"))] == [1, 0, 4, 2, 3]
    assert [r.trial.number for r in rank_trials(trials, 1.0, Goal("map,gflops"))] == [1, 0, 2, 3, 4]
    assert [r.trial.number for r in rank_trials(trials, 0.02, Goal("map,gflops"))] == [1, 0, 2, 4, 3]
    timed = [replace(t, latency_ms=ms) for t, ms in zip(trials, (5.0, 4.0, 6.0, 3.0, 5.0), strict=True)]
    rows = rank_trials(timed, 1.0, Goal("map,latency"))
    assert [r.trial.number for r in rows] == [1, 3, 0, 4, 2]
    assert [r.trial.number for r in rows if r.on_front] == [1, 3]


def test_the_least_map_stands_beside_the_floor():
    trials = [trial(0, 0.40, 8.0), trial(1, 0.41, 9.0), trial(2, 0.39, 7.0)]
    rows = rank_trials(trials, 0.02, Goal(min_map=0.405))
    assert [(r.trial.number, r.below_floor) for r in rows] == [(1, False), (2, True), (0, True)]


def test_export():
    rows = rank_trials([trial(0, 0.40, 8.0), trial(1, 0.41, 9.0)], floor=0.02)
    exported = export_rows(rows)
    assert all(tuple(row) == COLUMNS for row in exported)
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert read[0]["swaps"] == "baseline"
    assert read[1]["delta_map50_95"] == "0.01"
    assert read[1]["interval_low"] == ""
    assert read[1]["distillation_error"] == ""
    assert (read[1]["score"], read[1]["epochs"]) == ("map", "1")


def test_what_is_exported_of_a_score_of_the_average():
    average = replace(
        trial(1, 0.41, 9.0), score="map_average", average=Validation(0.7, 0.45, 1.0), distillation=0.123456
    )
    (row,) = export_rows(rank_trials([average], floor=0.02))
    assert (row["score"], row["map50_95"], row["map50_95_per_gflop"]) == ("map_average", 0.45, 0.05)
    assert row["distillation_error"] == 0.1235


def test_weights_that_were_not_trained_on_have_no_epochs():
    curve = (EpochScore(0, 2.0, 0.1, Validation(0.6, 0.4, 1.0)),)
    (row,) = export_rows(rank_trials([replace(trial(0, 0.4, 8.0), curve=curve)], floor=0.02))
    assert (row["epochs"], row["map50_95"]) == (0, 0.4)


@pytest.mark.parametrize(("score", "first"), [("map", 1), ("map_last", 2), ("map_average", 3)])
def test_the_order_follows_the_score(score, first):
    def of(number, maps, average):
        curve = tuple(EpochScore(e, 2.0, 0.1, m and Validation(m, m, 1.0)) for e, m in enumerate(maps, 1))
        return replace(trial(number, 0, 8.0), curve=curve, average=Validation(average, average, 1.0), score=score)

    trials = [of(1, (None, 0.1, 0.5), 0.2), of(2, (None, 0.4, 0.4), 0.1), of(3, (None, 0.1, 0.2), 0.6)]
    assert rank_trials(trials, floor=0.02)[0].trial.number == first


def test_nothing_finished():
    assert rank_trials([], 0.02) == []
    assert to_csv([]).splitlines() == [",".join(COLUMNS)]
