"""CONTRIBUTING.md, "Adding": an entry in a table is all that the rest of the tool needs to know of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from nas.cli import cli
from nas.emit.forms import FORMS, Emission, Form
from nas.ranking.rank import rank_trials
from nas.samplers import SAMPLERS, Sampler
from nas.samplers.history import History
from nas.samplers.propose import propose_next
from nas.space.search_space import key_of
from nas.space.space_file import load_space
from nas.study.trial import Trial
from nas.training.scores import SCORES, EpochScore, Score, Validation

OFFERED = """
import nas.emit.forms, nas.samplers
nas.samplers.SAMPLERS["last"] = nas.samplers.Sampler("extension:last", "the last one in the space's order")
nas.emit.forms.FORMS["swaps"] = nas.emit.forms.Form("swaps", "the swaps as JSON", "extension:swaps")
from nas.cli import cli
cli()
"""


def last(history: History) -> dict[str, str] | None:
    return next((a for a in reversed(list(history.space.assignments())) if key_of(a) not in history.known), None)


def swaps(emission: Emission) -> dict[Path, str | bytes]:
    return {Path(f"{emission.files.name}.json"): json.dumps(emission.variant.swaps)}


@pytest.fixture(autouse=True)
def extension(monkeypatch):
    """Let these functions be found by ``module:function``, as an entry names them."""
    module = ModuleType("extension")
    vars(module).update(last=last, swaps=swaps)
    monkeypatch.setitem(sys.modules, "extension", module)


@pytest.mark.parametrize(
    ("command", "said"),
    [("search", "last, the last one in the space's order"), ("emit-yaml", "swaps (the swaps as JSON)")],
)
def test_the_command_line_offers_what_is_listed(command, said):
    done = subprocess.run([sys.executable, "-c", OFFERED, command, "--help"], capture_output=True, text=True)
    assert said in " ".join(done.stdout.split())


def test_a_listed_sampler_is_asked(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "last", Sampler("extension:last", "the last one", singles_first=False))
    space = load_space("quick")
    baseline = Trial(0, space.variant(space.baseline()), space.baseline(), "done", curve=_curve(0.4))
    assert propose_next(space, [baseline], seed=0, floor=0.02, sampler="last") == list(space.assignments())[-1]


def test_a_listed_form_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(FORMS, "swaps", Form("swaps", "the swaps", "extension:swaps"))
    command = ["emit-yaml", "--swap", "neck.up_p4=CARAFE", "--form", "swaps", "-o", str(tmp_path)]
    done = CliRunner().invoke(cli, command)
    assert not done.exit_code, done.output
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text()) == [["neck.up_p4", "CARAFE"]]


def test_a_listed_score_ranks(monkeypatch):
    monkeypatch.setitem(
        SCORES, "worst", Score("lowest mAP50-95", lambda curve, _: min(s.validation.map for s in curve))
    )
    space = load_space("quick")
    maps = {0: (0.40, 0.41), 1: (0.10, 0.50), 2: (0.42, 0.43)}
    trials = [
        Trial(number, space.variant(a), a, "done", gflops=8.0, curve=_curve(*maps[number]), score="worst")
        for number, a in enumerate([space.baseline(), *space.single_swaps()][:3])
    ]
    assert trials[0].scores["worst"] == min(maps[trials[0].number])
    assert [row.trial.number for row in rank_trials(trials, floor=1.0)] == [2, 0, 1]


def _curve(*maps: float) -> tuple[EpochScore, ...]:
    return tuple(EpochScore(n, 2.0, 0.1, Validation(m + 0.2, m, 1.0)) for n, m in enumerate(maps, 1))
