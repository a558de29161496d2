"""The ranking's table at several widths, with and without what is optional."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from nas.ranking.rank import rank_trials
from nas.report import console
from nas.training.scores import signed

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


@pytest.mark.parametrize("width", [20, 45, 70, 100, 140, 300])
def test_a_long_table_looks_as_richs(width):
    names, right = ("#", "variant", "swaps", "Δ"), ("#", "Δ")
    cells = [
        (
            "1*",
            "0a1b2c3d",
            "neck.{up_p3,up_p4}=CARAFE  backbone.c2f_p2+neck.{c2f_n4,c2f_p3}=C2f_DCNv4(groups=4)",
            "+0.001",
        ),
        ("2 ", "baseline", "baseline", ""),
        ("10", "ffffffff", "模块=CARAFE " * 9, "-0.1000 ±0.02"),
    ]
    ours, theirs = (
        console.LongTable(names, "swaps", right),
        console.make_table(*names, right=right, no_wrap=("#", "variant", "Δ")),
    )
    printed = []
    for row in cells:
        ours.add_row(*row, bold=row[2] == "baseline")
        theirs.add_row(*row, style="bold" if row[2] == "baseline" else None)
    for table in (ours, theirs):
        text = io.StringIO()
        Console(file=text, width=width).print(table)
        printed.append(text.getvalue())
    assert printed[0] == printed[1]


def test_brackets_are_text_in_a_long_table():
    table = console.LongTable(("swaps", "n"), "swaps", ())
    table.add_row("x=[red]", "1")
    text = io.StringIO()
    Console(file=text, width=40).print(table)
    assert "x=[red]" in text.getvalue()
