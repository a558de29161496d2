"""The program that makes the table of a front, on a ranking that is made up, and on data that train in seconds."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def program(monkeypatch):
    """Return the program; it is no part of a package."""
    spec = importlib.util.spec_from_file_location("front", ROOT / "benchmarks" / "front.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def row(name: str, gflops: float, value: float, seeds: int = 3, verdict: str = "cannot tell") -> dict:
    return {
        "id": name, "swaps": f"swaps of {name}", "gflops": gflops, "map50_95": value, "seeds": seeds,
        "delta_map50_95": value - 0.4, "interval_low": value - 0.41, "interval_high": value - 0.39, "verdict": verdict,
    }  # fmt: skip


def yardstick(name: str, gflops: float, value: float) -> dict:
    found = {**row(name, gflops, value, verdict="worse"), "width": 0.2}
    return {**found, "interval": [found.pop("interval_low"), found.pop("interval_high")]}


def against(name: str, delta: float, verdict: str) -> dict:
    return {"id": name, "delta_map50_95": delta, "interval": [delta - 0.01, delta + 0.01], "verdict": verdict}


RANKING = {
    "rows": [
        row("base", 10.0, 0.4, verdict="baseline"),
        row("over", 9.1, 0.45),
        row("good", 8.9, 0.395),
        row("lucky", 8.8, 0.41, seeds=1),
        row("small", 6.9, 0.37, verdict="worse"),
        row("far", 6.0, 0.3),
    ],
    "yardsticks": [yardstick("y9", 8.95, 0.38), yardstick("y7", 6.95, 0.375)],
    "against_yardsticks": {
        "over": against("y9", 0.07, "better"),
        "good": against("y9", 0.015, "better"),
        "lucky": against("y9", 0.03, "1 seed"),
        "small": against("y7", -0.005, "cannot tell"),
    },
}


def test_the_table_has_the_best_within_each_budget_and_its_yardstick(program):
    body = {"data": "d", "budgets": [10, 30, 50], "seconds": 600.0, "ranking": RANKING}
    lines = program.table([body])
    assert lines[2:7] == [
        "| d |  | baseline | 10.00 |  | 0.400 | 3 |  |  |  |  |",
        "| d | -10 % | yardstick, width 0.2 | 8.95 | -10.5 | 0.380 | 3 | -0.0200 ±0.0100 | worse |  |  |",
        "| d | -10 % | good | 8.90 | -11.0 | 0.395 | 3 | -0.0050 ±0.0100 | cannot tell | +0.0150 ±0.0100 | better |",
        "| d | -30 % | yardstick, width 0.2 | 6.95 | -30.5 | 0.375 | 3 | -0.0250 ±0.0100 | worse |  |  |",
        "| d | -30 % | small | 6.90 | -31.0 | 0.370 | 3 | -0.0300 ±0.0100 | worse | -0.0050 ±0.0100 | cannot tell |",
    ]
    assert lines[8:] == [
        "d, -10 %: good is swaps of good", "d, -30 %: small is swaps of small", "d, -50 %: no yardstick",
        "d: 10 minutes",
    ]  # fmt: skip


def test_the_time_of_a_run_that_is_stopped_counts(program, tmp_path, monkeypatch):
    """And what an earlier one has measured stays."""
    out = tmp_path / "front.json"
    out.write_text(json.dumps({"seconds": 600.0, "ranking": RANKING}))

    def stopped(*_arguments: str, quiet: bool = False) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "nas", stopped)
    with pytest.raises(KeyboardInterrupt):
        program.main(["demo", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["seconds"] >= 600
    assert found["ranking"] == RANKING


def test_without_a_rival_only_the_yardstick_is_listed(program):
    ranking = {**RANKING, "against_yardsticks": {}}
    lines = program.table([{"data": "d", "budgets": [10], "seconds": 0.0, "ranking": ranking}])
    assert "d, -10 %: no variant within the budget is near its yardstick" in lines


@pytest.mark.slow
def test_it_measures_and_resumes(program, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space = tmp_path / "two.yaml"
    space.write_text("slots:\n  backbone.c2f_p4: [C2f_Faster]\n")
    given = [
        *(str(tiny_data), "--space", str(space), "--budgets", "3", "--trials", "2", "--seeds", "2", "--top", "1"),
        *("--out", "front.json", "--", "--init", "scratch", "--epochs", "1", "--imgsz", "64", "--target-imgsz", "64"),
        *("--batch", "8", "--workers", "1", "--floor", "1"),
    ]
    program.main(given)
    first = json.loads(Path("front.json").read_text())
    assert [row["swaps"] for row in first["ranking"]["rows"]].count("baseline") == 1
    (found,) = first["ranking"]["yardsticks"]
    base = next(row for row in first["ranking"]["rows"] if row["verdict"] == "baseline")
    assert found["seed_list"] == [0, 1]
    assert 0.96 * base["gflops"] < found["gflops"] <= 0.97 * base["gflops"]
    program.main(given)
    again = json.loads(Path("front.json").read_text())
    assert again["ranking"] == first["ranking"]
    assert again["seconds"] > first["seconds"]
    capsys.readouterr()
    program.main(["--table", "front.json"])
    assert "| tiny0 | -3 % | yardstick, width 0.2" in capsys.readouterr().out
