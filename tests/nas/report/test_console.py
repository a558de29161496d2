"""The ranking's table at several widths, with and without what is optional."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from nas.cli.rank import print_ranking
from nas.ranking.rank import rank_trials
from nas.ranking.yardstick import compare_with_yardsticks, measured_yardsticks
from nas.report import console
from nas.report.study_list import print_studies
from nas.space.variant import make_yardstick
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation, signed

SWAP = {"neck.up_*": "CARAFE"}
OTHER = {"neck.c2f_*": "C2f_SPConv"}


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits(ranked_study, width):
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.41, 8.0), (OTHER, "done", 0.3, 7.0)])
    text = io.StringIO()
    Console(file=text, width=width).print(console.ranking_table(rank_trials(study.trials(), 0.02), width))
    lines = text.getvalue().splitlines()
    assert len(lines) == 4 if width == 140 else len(lines) <= 6
    assert "neck.up_*=CARAFE" in text.getvalue()
    assert "(below the floor)" in text.getvalue()
    assert ("params" in lines[0]) == (width == 140)
    assert all(t.variant.id in text.getvalue() for t in study.trials())


def test_a_table_of_swaps_from_a_bank(ranked_study):
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.41, 8.0)])
    base, swapped = rank_trials(study.trials(), 0.02)[::-1]
    rows = [replace(swapped, trial=replace(swapped.trial, distillation=0.125)), base]

    def lines(rows, width):
        text = io.StringIO()
        Console(file=text, width=width).print(console.ranking_table(rows, width))
        return text.getvalue().splitlines()

    head, first, second = lines(rows, 140)
    assert "distil" in head
    assert "0.12" in first.split()
    assert len(second.split()) < len(first.split())
    assert "distil" not in lines(rows, 80)[0]  # the first to go where it is narrow
    assert "distil" not in lines(rank_trials(study.trials(), 0.02), 140)[0]  # nothing was distilled


def test_columns_name_the_metric_of_the_task(ranked_study):
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.41, 8.0)])
    rows = [
        replace(row, trial=replace(row.trial, variant=replace(row.trial.variant, base="yolov8-seg")))
        for row in rank_trials(study.trials(), 0.02)
    ]

    def columns(rows):
        return [column.header for column in console.ranking_table(rows, 140).columns]

    of_boxes = columns(rank_trials(study.trials(), 0.02))
    assert {"mAP50-95", "mAP/GFLOP"} < set(of_boxes)
    renamed = {"mAP50-95": "mask mAP50-95", "mAP/GFLOP": "mask mAP/GFLOP"}
    assert columns(rows) == [renamed.get(name, name) for name in of_boxes]


def test_a_difference_that_rounds_to_nothing_has_no_sign(ranked_study):
    assert [signed(x, 4) for x in (0.00004, -0.00004, 0.0, -0.0, 0.00006, -0.00006, 1.0)] == [
        "0.0000", "0.0000", "0.0000", "0.0000", "+0.0001", "-0.0001", "+1.0000",
    ]  # fmt: skip
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.3999, 8.0)])
    text = io.StringIO()
    Console(file=text, width=200).print(console.ranking_table(rank_trials(study.trials(), 0.02), 200))
    swapped = next(line for line in text.getvalue().splitlines() if "CARAFE" in line)
    assert "-0.000" not in swapped
    assert "+0.0" not in swapped


def test_a_long_ranking_is_cut_and_says_so(ranked_study, capsys):
    swaps = [SWAP, OTHER, SWAP | OTHER, {"neck.up_*": "DySample"}, {"neck.down_*": "SPConv"}]
    study = ranked_study([(s, "done", 0.4 - 0.01 * k, 8.0 + k) for k, s in enumerate([*swaps, {}])])

    def printed(**options):
        print_ranking(study, as_json=False, as_csv=False, conclude=False, **options)
        return capsys.readouterr().out

    ids = [r.trial.variant.id for r in rank_trials(study.trials(), 0.02)]
    cut = printed(top=2)
    assert [i in cut.split("\n\n")[0] for i in ids] == [True, True, False, False, False, True]  # the baseline is last
    assert "3 of 6 rows are not shown: --top N, --csv or --json" in cut
    assert all(i in printed() for i in ids)
    assert "not shown" not in printed()


def test_swaps_that_are_long_are_below_the_table(ranked_study, capsys):
    many = {"neck.c2f_*": "C2f_SPConv", "neck.down_*": "DynamicConv", "neck.up_*": "DySample"}
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.39, 8.1), (many, "done", 0.45, 8.2)])
    print_ranking(study, as_json=False, as_csv=False, conclude=False)
    table, below = capsys.readouterr().out.split("\n\n")[:2]
    named = study.trials()[2].variant.id
    assert next(line for line in table.splitlines() if named in line).split()[2:4] == ["see", "below"]
    assert "neck.up_*=CARAFE" in table
    assert below == f"{named}  neck.c2f_*=C2f_SPConv  neck.down_*=DynamicConv  neck.up_*=DySample"
    assert console.swap_lines([(named, "neck.up_*=CARAFE")]) == []
    print_studies(study.location.url, as_json=False)
    line = capsys.readouterr().out.splitlines()[1]
    assert named in line
    assert "C2f_SPConv" not in line


def test_brackets_are_text_in_a_table():
    table = console.make_table("swaps", "n")
    table.add_row("x=[red]", "1")
    text = io.StringIO()
    Console(file=text, width=40).print(table)
    assert "x=[red]" in text.getvalue()


def test_yardsticks_are_followed_by_the_variants_that_are_compared_with_them(ranked_study):
    study = ranked_study([({}, "done", 0.4, 8.0), (SWAP, "done", 0.41, 6.1), (OTHER, "done", 0.3, 7.0)])
    yardstick = make_yardstick("yolov8", "n", 0.2)
    curve = (EpochScore(1, 2.0, 0.1, Validation(0.5, 0.38, 1.0)),)
    trial = Trial(-1, yardstick, {}, "running", gflops=6.0, stock_gflops=6.0)
    study.start(trial).end(status="done", curve=curve)
    rows, yardsticks = rank_trials(study.trials(), 0.02), measured_yardsticks(study)
    against = compare_with_yardsticks(rows, yardsticks)
    text = io.StringIO()
    Console(file=text, width=140).print(console.yardstick_table(rows, yardsticks, against))
    _, first, second = text.getvalue().splitlines()
    assert first.split() == [
        "pruned", "to", "width", "0.2", "6.00", "-25.0", "0.380", "1", "-0.0200", "1", "seed"
    ]  # fmt: skip
    assert second.split() == [
        "neck.up_*=CARAFE", "6.10", "-23.8", "0.410", "1", "+0.0100", "1", "seed", "+0.0300", "1", "seed"
    ]  # fmt: skip
