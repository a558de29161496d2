"""The ranking of full trainings, its tables, and how the proxies' order agreed with it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from full_trainings import run_of, store

from nas.calibration.rank_agreement import at_equal_cost
from nas.cli import cli
from nas.errors import StudyError
from nas.full.handover import winner_of
from nas.full.ranking import groups_of, proxy_agreement, rank_full
from nas.full.table import ablation_table, full_notes, ranking_cells
from nas.ranking.verdict import compare


@pytest.fixture
def of_study(ranked_study):
    """A study of five variants by proxies, worst first, and the full trainings of each under three seeds."""
    modules = (("up", "CARAFE"), ("up", "DySample"), ("down", "SPConv"), ("c2f", "C2f_SPConv"))
    swaps = ({}, *({f"neck.{slot}_*": module} for slot, module in modules))
    study = ranked_study([(s, "done", 0.40 + 0.01 * k, 8.0 - 0.5 * (k % 3)) for k, s in enumerate(swaps)])
    runs = []
    for seed in range(3):
        for k, trial in enumerate(study.trials()):
            noise = 0.0005 * ((7 * k + 3 * seed) % 5)
            runs.append(run_of(trial, 0.5 + 0.02 * seed + 0.01 * k + noise * (k > 0), seed))
    return study, runs


def test_differences_are_paired_by_seed_and_tested_as_among_proxies(of_study):
    _, runs = of_study
    rows = {row.run.model: row for row in rank_full(runs, 0.02)}
    base = next(row for row in rows.values() if row.verdict == "baseline")
    by_seed = {run.seed: run.map for run in base.runs}
    others = [row for row in rows.values() if row is not base]
    expected = compare([[run.map - by_seed[run.seed] for run in row.runs] for row in others])
    assert [row.comparison for row in others] == expected
    assert {row.verdict for row in others} == {"better"}
    assert sorted(row.rank for row in rows.values()) == [1, 2, 3, 4, 5]
    assert base.values["map50_95"].mean == pytest.approx(0.52)
    assert base.values["map50_95"].deviation == pytest.approx(0.02)
    assert base.values["large"] is None
    # A model with fewer seeds is compared under those, and its mean is adjusted.
    one = [run for run in runs if run.kind == "baseline" or run.seed == 2]
    found = next(row for row in rank_full(one, 0.02) if row.run.model == others[0].run.model)
    assert found.map == pytest.approx(0.52 + found.comparison.delta)
    assert found.verdict == "cannot tell"


def test_the_front_and_the_floor(of_study):
    _, runs = of_study
    for run in (rows := rank_full(runs, 0.02)):
        better = [r for r in rows if r.run.gflops <= run.run.gflops and r.map > run.map]
        assert run.on_front == (not better)
    poor = [r if r.kind == "baseline" else run_of_poorer(r) for r in runs]
    rows = rank_full(poor, 0.02)
    assert rows[0].verdict == "baseline"
    assert all(row.below_floor for row in rows[1:])


def run_of_poorer(run):
    return replace(run, scores=replace(run.scores, map=run.scores.map - 0.3))


def test_groups_are_not_mixed(of_study):
    study, runs = of_study
    longer = [run_of(t, 0.9, group="ffffffff", epochs=200) for t in study.trials()[:2]]
    assert list(groups_of([*runs, *longer])) == ["ffffffff", "1a2b3c4d"]
    assert [len(group) for group in groups_of([*runs, *longer]).values()] == [2, 15]


def test_tables_of_a_paper(of_study):
    study, runs = of_study
    distilled = [
        run_of(t, 0.6, seed, model=f"{t.variant.id}+distil", title="CARAFE, distilled", distilled=True)
        for seed in range(3)
        for t in study.trials()[1:2]
    ]
    scaled = run_of(study.trials()[0], 0.3, model="scaled-6.00", kind="scaled", title="stock, 80% of width and depth")
    rows = rank_full([*runs, *distilled, scaled], 0.02)
    md = ablation_table(rows, "md").splitlines()
    assert md[0].startswith("| model | n | P | R | mAP50 | mAP50-95 | S | M | L | params (M) | GFLOPs | ms |")
    assert md[2].startswith("| baseline | 3 | 0.700 ± 0.000 | 0.600 ± 0.000 | 0.720 ± 0.020 | 0.520 ± 0.020 |")
    assert md[-2].startswith("| CARAFE, distilled | 3 ")
    assert md[-1].startswith("| stock, 80% of width and depth | 1 | 0.700 |")
    assert {line.count(" | ") for line in md} == {13}
    latex = ablation_table(rows, "latex")
    assert r"neck.up\_$\ast$=CARAFE" in latex
    assert r"0.520 $\pm$ 0.020" in latex
    assert r"stock, 80\% of width" in latex
    assert latex.count(r" \\") == len(rows) + 1
    table = list(csv.DictReader(io.StringIO(ablation_table(rows, "csv"))))
    assert [row["kind"] for row in table] == ["baseline", *["variant"] * 5, "scaled"]
    assert float(table[0]["map50_95_sd"]) == pytest.approx(0.02)
    assert table[0]["large"] == ""


def test_tables_of_another_task_name_its_metric_and_have_no_sizes(of_study):
    _, runs = of_study
    rows = rank_full([replace(run, base="yolov8-pose") for run in runs], 0.02)
    head, _, baseline, *_ = ablation_table(rows, "md").splitlines()
    assert head.startswith("| model | n | P | R | pose mAP50 | pose mAP50-95 | params (M) | GFLOPs |")
    assert head.endswith("| Δ pose mAP50-95 | verdict |")
    assert baseline.count(" | ") == head.count(" | ")
    columns, cells = ranking_cells(rows)
    assert "pose mAP50-95" in columns
    assert "S/M/L" not in columns
    assert {len(line) for line in cells} == {len(columns)}
    assert "S/M/L" not in " ".join(full_notes(rows, runs, None, "data.yaml"))


def test_commands_show_full_trainings(of_study, monkeypatch, tmp_path):
    study, runs = of_study
    place = ["--storage", study.location.url]
    before = CliRunner().invoke(cli, ["rank", "s", *place]).output
    none = CliRunner().invoke(cli, ["rank", "s", "--full", *place])
    assert none.exit_code == 1
    assert "no finished full training yet" in none.output
    store(study, *runs)
    output = CliRunner().invoke(cli, ["rank", "s", "--full", *place]).output
    assert "Full training: 2 epochs at 64 px from scratch, batch=8, by Ultralytics 8.4.190" in output
    assert "Proxies against full training, 5 variants: Spearman 1.00 [" in output
    proxies = CliRunner().invoke(cli, ["rank", "s", *place]).output
    assert " full " in proxies
    assert " full " not in before
    assert "Proxies against full training, 5 variants: Spearman 1.00 [" in proxies
    body = json.loads(CliRunner().invoke(cli, ["rank", "s", "--full", "--json", *place]).output)
    assert len(body["rows"]) == 5
    assert len(body["runs"]) == 15
    assert CliRunner().invoke(cli, ["rank", "s", "--full", "--csv", *place]).output.startswith("rank,model,kind")
    wrong = CliRunner().invoke(cli, ["rank", "s", "--full", "--settings", "none", *place])
    assert "no full trainings with the settings 'none'; there are 1a2b3c4d" in wrong.output
    for options in (["--format", "md"], ["--full", "--aa", "12"], ["--settings", "x"]):
        assert CliRunner().invoke(cli, ["rank", "s", *options, *place]).exit_code == 2
    listed = CliRunner().invoke(cli, ["studies", *place]).output
    assert "~full" not in listed
    copied = CliRunner().invoke(cli, ["studies", "copy", "s", *place, "--as", "t", "--to", study.location.url])
    assert copied.exit_code == 0, copied.output
    again = CliRunner().invoke(cli, ["rank", "t", "--full", *place]).output
    assert again.splitlines()[1] == output.splitlines()[1]


def test_below_four_variants_nothing_is_said_of_the_proxies(of_study):
    study, runs = of_study
    few = [run for run in runs if run.model in {t.variant.id for t in study.trials()[:3]}]
    assert proxy_agreement(study, few) is None
    assert proxy_agreement(study, runs).overall.n == 5


def test_proxies_that_only_follow_the_cost_agree_no_more_at_equal_gflops(of_study):
    study, runs = of_study
    gflops = {t.variant.id: t.gflops for t in study.trials()}
    agreed = proxy_agreement(study, runs)
    # Three of the GFLOPs are different: the formula on the ranks of five variants.
    proxy, full = np.arange(5.0), np.arange(5.0)
    cost = np.array([gflops[t.variant.id] for t in study.trials()])
    expected = at_equal_cost(proxy[:, None], full[:, None], cost)
    assert agreed.partial == pytest.approx(expected.spearman)
    by_cost = [replace(r, scores=replace(r.scores, map=gflops[r.model] / 100)) for r in runs]
    assert proxy_agreement(study, by_cost).partial is None


def test_a_text_of_a_model_is_no_command_of_latex(of_study):
    study, _ = of_study
    odd = run_of(study.trials()[1], 0.5, title=r"a\input{x}$b")
    assert r"a\textbackslash{}input\{x\}\$b & 1" in ablation_table(rank_full([odd], 0.02), "latex")


def test_the_winner_is_a_variant_or_the_baseline(of_study):
    study, runs = of_study
    scaled = run_of(study.trials()[0], 0.9, model="scaled-6.00", kind="scaled", title="stock, 80% of width and depth")
    assert winner_of(rank_full([*runs, scaled], 0.02)).run.kind == "variant"
    poor = [r if r.kind == "baseline" else run_of_poorer(r) for r in runs]
    assert winner_of(rank_full([*poor, scaled], 0.02)).run.kind == "baseline"
    with pytest.raises(StudyError, match=r"only models for comparison .*stock, 80% of width"):
        winner_of(rank_full([scaled], 0.02))


def test_notes_name_other_settings_and_how_many_are_not_listed(of_study):
    study, runs = of_study
    others = [run_of(study.trials()[0], 0.5, group=f"{k:08x}", epochs=10 + k) for k in range(7)]
    notes = full_notes(rank_full(runs, 0.02), [*runs, *others], None, "blood")
    named = [note for note in notes if note.startswith("Other full trainings")]
    assert [note.split("--settings ")[1] for note in named] == [f"{k:08x} ranks them." for k in (6, 5, 4, 3, 2)]
    assert "2 more settings are not listed: --json holds all trainings." in notes
