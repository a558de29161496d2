"""What a list of studies shows is what their records say."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from nas.ranking.race import find_winner
from nas.ranking.rank import rank_trials, ranking_of
from nas.ranking.replicates import pool_replicates
from nas.space.search_space import key_of
from nas.study.budget import Confirm, Rung
from nas.study.catalog import outline_of
from nas.study.optuna_private import Tables
from nas.study.study import Study
from nas.study.trial import Trial, variants_spent
from nas.training.scores import EpochScore, Validation


def fill(study: Study, count: int) -> None:
    """Let trials of several seeds and fidelities end in every way; some variants have the same score."""
    rng = random.Random(4)
    space = study.settings.space
    swaps = [space.baseline(), *space.single_swaps()]
    seen = set()
    while len(seen) < count:
        assignment = swaps[0] if len(seen) < 3 else rng.choice(swaps)
        seed, fidelity = (len(seen) if len(seen) < 3 else rng.choice((0, 1, 2))), rng.choice(study.settings.fidelities)
        if (key_of(assignment), seed, fidelity) in seen:
            continue
        seen.add((key_of(assignment), seed, fidelity))
        trial = Trial(-1, space.variant(assignment), assignment, "running", seed=seed, fidelity=fidelity)
        status = (
            "done"
            if assignment == swaps[0]
            else rng.choice(("done", "done", "done", "failed", "rejected", "interrupted"))
        )
        score = round(rng.gauss(0.4, 0.02), 2)
        curve = (EpochScore(1, 2.0, 0.1, Validation(0.6, score, 1.0)),) if status == "done" else ()
        study.start(trial).end(status=status, curve=curve, gflops=rng.choice((7.3, 8.1, 9.7)))
    study.start(Trial(-1, space.variant(swaps[1]), swaps[1], "running", seed=9))


@pytest.fixture(params=["map_per_gflop", "map", "map,gflops", "map,latency"])
def study(request, make_shared, tmp_path):
    made = make_shared(f"sqlite:///{tmp_path / 'a.db'}", rungs=(Rung(1, 64),))
    made.settings = replace(made.settings, objective=request.param)
    fill(made, 40)
    return made


@pytest.mark.parametrize("top", [0, 3])
def test_an_outline_ranks_as_the_records_do(study, top):
    study.set_seeds(None, Confirm(top, 3 if top else 0))
    outline, s = outline_of(study), study.settings
    every, own = study.runs(), study.trials()
    assert [(t.number, t.status, t.seed, t.fidelity, t.variant.is_baseline) for t in outline.trials] == [
        (t.number, t.status, t.seed, t.fidelity, t.variant.is_baseline) for t in every
    ]
    assert [t.map for t in outline.trials] == pytest.approx([t.map for t in every], abs=1e-11)
    assert outline.swaps == {t.number: t.describe() for t in every}
    assert outline.ids == {t.number: t.variant.id for t in every}
    trials = [t for t in outline.trials if not t.fidelity]
    rows, known = rank_trials(trials, s.floor, s.goal, s.prior), ranking_of(study)
    facts = ("rank", "below_floor", "on_front", "seeds", "verdict")
    assert [[getattr(r, f) for f in facts] for r in rows] == [[getattr(r, f) for f in facts] for r in known]
    assert [outline.swaps[r.trial.number] for r in rows] == [r.trial.describe() for r in known]
    assert find_winner(study, rows, trials).rank == find_winner(study, known).rank
    for fidelity in s.fidelities:
        spent = [variants_spent([t for t in of if t.fidelity == fidelity]) for of in (outline.trials, every)]
        assert spent[0] == spent[1] > 0
    assert len(pool_replicates(trials)) == len(pool_replicates(own))


def test_an_outline_reads_the_records_of_failures_alone(make_shared, tmp_path, monkeypatch):
    study = make_shared(f"sqlite:///{tmp_path / 'a.db'}")
    fill(study, 20)
    failed = [t.number for t in study.runs() if t.status in ("failed", "interrupted")]
    read = []
    inner = Tables.parts
    monkeypatch.setattr(Tables, "parts", lambda self, ids, key: read.extend(ids) or inner(self, ids, key))
    opened = Study.load(study.location)
    assert outline_of(opened).trials
    numbers = {row.id: row.number for row in opened.tables.trials()}
    assert [numbers[trial] for trial in read] == failed
