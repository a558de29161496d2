"""Facts about single swaps: what is gathered, stored and taken up again, and budgets that are checked with them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

import nas.search.runner
import nas.search.swap_facts
from nas.bank.jobs import OutputScore, ScoreJob
from nas.cli import cli
from nas.errors import BuildError, OptionError, SpaceError, StudyError
from nas.model.cost import Cost
from nas.model.render import render
from nas.search.swap_facts import check_budgets, counted_swaps, with_scores
from nas.search.table import Table, export_table
from nas.solver.facts import STORED, SwapFacts, facts_of_study
from nas.solver.front import front_of
from nas.solver.prediction import Prediction
from nas.space.space_file import read_space
from nas.study.objective import read_budgets
from nas.study.study import Study

TIED = """
slots:
  neck.up_*: {choices: [keep, CARAFE, DySample], tie: true}
  neck.c2f_p3: [C2f_SPConv]
"""
GFLOPS = {"CARAFE": 0.5, "DySample": -1.0, "C2f_SPConv": -0.5}


def cost_of(variant) -> tuple[float, int]:
    return 8.0 + sum(GFLOPS[label] for _, label in variant.swaps), 3_000_000 - 1000 * len(variant.swaps)


def costed(variant):
    gflops, params = cost_of(variant)
    return render(variant, {variant.scale: "cost"}), Cost(params, gflops, gflops)


def count_in(space):
    def count(assignment):
        gflops, params = cost_of(space.variant(assignment))
        return {"gflops": gflops, "params": float(params)}

    return count


class Silent:
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_scores_of_tied_layers_are_summed_and_failures_kept_out() -> None:
    space, observer = read_space(TIED, "s.yaml", "s"), Silent()
    facts = counted_swaps(space, count_in(space), observer)
    assert facts.base == {"gflops": 8.0, "params": 3e6}
    assert facts.costs["neck.up_*", "DySample"] == {"gflops": -2.0, "params": -2000.0}
    scores = {
        ("neck.up_p4", "CARAFE"): OutputScore((1.0,), (2.0,), (3, 3)),
        ("neck.up_p3", "CARAFE"): OutputScore((0.5,), (0.25,), (1, 1)),
        ("neck.up_p4", "DySample"): OutputScore(failure="raises"),
        ("neck.up_p3", "DySample"): OutputScore((0.5,), (0.25,), (1, 1)),
    }
    facts = with_scores(facts, space, scores, observer)
    assert facts.parts == {("neck.up_*", "CARAFE"): (1.5, 2.25)}
    assert facts.failures == {("neck.up_*", "DySample"): "raises"}
    assert observer.said[-1] == "kept out of the solutions: neck.up_*=DySample: raises"


def test_a_swap_that_cannot_be_built_is_kept_out() -> None:
    space = read_space(TIED, "s.yaml", "s")
    inner = count_in(space)

    def count(assignment):
        if "C2f_SPConv" in assignment.values():
            raise BuildError("cannot be built: odd channels")
        return inner(assignment)

    facts = counted_swaps(space, count, Silent())
    assert facts.failures == {("neck.c2f_p3", "C2f_SPConv"): "cannot be built: odd channels"}


@pytest.fixture
def scored(monkeypatch, make_study, run, fake_trainer):
    """Return what makes a study with budgets, and runs a search in it whose scores are made up."""
    monkeypatch.setattr(nas.search.runner, "gflops_and_params", cost_of)
    monkeypatch.setattr(nas.search.runner, "costed", costed)

    class Scores(fake_trainer):
        scored = 0

        def work(self, job, on_progress=None):
            if not isinstance(job, ScoreJob):
                return super().work(job, on_progress)
            Scores.scored += len(job.variants)
            return tuple(OutputScore((0.1 * i,), (0.2,), (0.1 * i + 0.2,) * 2) for i, _ in enumerate(job.variants, 1))

    def search(trials: int, budgets=("-10%", None, None), study: Study | None = None):
        space = read_space(TIED, "s.yaml", "s")
        study = study or make_study(space, changes={"budgets": read_budgets(*budgets)}, init="bank")
        found, observer, _ = run(study, trials, Scores())
        return Study.load(study.location), found, observer

    search.trainer = Scores
    return search


def test_facts_are_gathered_once_and_stored(scored) -> None:
    study, trials, observer = scored(2)
    assert trials[1].gflops == cost_of(trials[1].variant)[0]
    facts = facts_of_study(study)
    assert facts.parts.keys() == {("neck.up_*", "CARAFE"), ("neck.up_*", "DySample"), ("neck.c2f_p3", "C2f_SPConv")}
    assert facts.base["gflops"] == 8.0
    made = scored.trainer.scored
    assert any("scoring" in line for line in observer.said)
    again, _, observer = scored(1, study=Study.load(study.location, write=True))
    assert scored.trainer.scored == made
    assert facts_of_study(again) == facts
    assert not any("scoring" in line for line in observer.said)


def test_a_proposal_is_within_the_budget(scored) -> None:
    _, trials, _ = scored(3)
    assert all(cost_of(t.variant)[0] <= 7.2 for t in trials[1:])


@pytest.mark.parametrize(
    ("budgets", "error", "said"),
    [
        (("-60%", None, None), SpaceError, r"the least is 5\.50 GFLOPs \(-31\.2%\), the budget 3\.20 GFLOPs"),
        ((None, None, "5"), OptionError, "has not measured"),
    ],
)
def test_budgets_are_checked_before_anything_is_trained(scored, budgets, error, said) -> None:
    with pytest.raises(error, match=said):
        scored(2, budgets)
    assert not scored.trainer.scored


def test_a_budget_that_limits_nothing_is_noted(scored) -> None:
    _, _, observer = scored(2, ("9.5", None, None))
    assert any("limits nothing: the baseline has 8.00 GFLOPs already" in line for line in observer.said)


def test_a_table_keeps_the_facts(scored) -> None:
    study, _, _ = scored(3)
    table = Table.from_json(export_table(study).to_json())
    assert table.facts == facts_of_study(study)
    assert Table.from_json(Table(table.space, list(table.rows.values()), {}).to_json()).facts == SwapFacts()


def test_damaged_facts_are_named(scored) -> None:
    study = Study.load(scored(2)[0].location, write=True)
    study._write({"nas_bank": {**study.bank, STORED: {"swaps": [{"slot": 1}], "base": {}}}})
    with pytest.raises(StudyError, match="the facts about its swaps are damaged"):
        facts_of_study(study)


def test_front_of_a_study(scored) -> None:
    study, trials, _ = scored(3)
    front = front_of(study, read_budgets("-10%,-60%", None, None), count=count_in(study.settings.space), top=2)
    assert front.scored
    assert front.trained == 3
    kinds = [(row.kind, row.budget) for row in front.rows]
    assert kinds[0] == ("baseline", "")
    assert ("best predicted", "-10% GFLOPs") in kinds
    impossible = next(row for row in front.rows if row.budget == "-60% GFLOPs")
    assert "no variant meets the budget" in impossible.note
    solution = next(row for row in front.rows if row.kind == "best predicted")
    assert solution.costs["gflops"] <= 7.2
    assert solution.predicted
    assert solution.predicted.low < solution.predicted.mean < solution.predicted.high
    measured = {t.variant.id for t in trials}
    assert (solution.measured is not None) == (solution.variant in measured)
    plain = front.to_plain()
    assert plain[0]["measured_map50_95"] == pytest.approx(front.base_map)
    assert json.loads(json.dumps(plain)) == plain


def test_a_front_is_predicted_from_trainings_in_their_order(scored, monkeypatch) -> None:
    """Not in that of the ranking: of very many, the latest are used."""
    study, trials, _ = scored(4)
    seen = []

    class Recorded(Prediction):
        def __init__(self, space, facts, trained, *others) -> None:
            seen.append([assignment for assignment, _ in trained])
            super().__init__(space, facts, trained, *others)

    monkeypatch.setattr("nas.solver.front.Prediction", Recorded)
    front_of(study, read_budgets("-10%", None, None), count=count_in(study.settings.space))
    assert seen == [[dict(trial.assignment) for trial in trials]]


def test_the_command_prints_it(scored, monkeypatch) -> None:
    study, _, _ = scored(3)
    monkeypatch.setattr("nas.model.cost.gflops_and_params", cost_of)
    place = ["--storage", f"sqlite:///{study.location.file}"]
    done = CliRunner().invoke(cli, ["solve", "s", *place, "--budget-gflops", "-10%,-60%"])
    assert done.exit_code == 0, done.output
    assert "baseline" in done.output
    assert "no variant meets the budget -60% GFLOPs" in " ".join(done.output.split())
    body = json.loads(CliRunner().invoke(cli, ["solve", "s", *place, "--json"]).stdout)
    assert {row["budget"] for row in body["rows"]} == {"", *(f"-{n}% GFLOPs" for n in (10, 20, 30, 40))}
    lines = CliRunner().invoke(cli, ["solve", "s", *place, "--csv"]).stdout.splitlines()
    assert len(lines) == len(body["rows"]) + 1
    assert lines[0].startswith("budget,kind,variant,swaps,gflops,delta_gflops_percent")
    failed = CliRunner().invoke(cli, ["solve", "s", *place, "--budget-latency", "5"])
    assert failed.exit_code == 1
    assert "has not measured (ms)" in failed.output


def test_it_answers_without_torch_where_all_is_measured(scored) -> None:
    study, _, _ = scored(6)
    assert len({t.variant for t in study.trials()}) == 6  # all of the space
    command = ["solve", "s", "--storage", f"sqlite:///{study.location.file}", "--budget-gflops", "-10%"]
    code = (
        "import sys; sys.modules['torch'] = sys.modules['ultralytics'] = sys.modules['optuna'] = None\n"
        f"from nas.cli import cli; cli({command!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "best predicted" in done.stdout


def test_budgets_do_not_change_the_settings_that_are_compared(make_study) -> None:
    study = make_study()
    other = replace(study.settings, budgets=read_budgets("-10%", None, None))
    assert not study.settings.differences(other)
    assert "budgets" not in study.settings.to_json()
    assert type(other).from_json(other.to_json()) == other
    assert check_budgets(study.settings, SwapFacts({"gflops": 8.0}), None) == []
