"""Workers that are killed at random: nothing is lost, nothing is there twice, nothing is left open.

Ten seconds by default; ``NAS_KILL_SECONDS=300 pytest -s tests/nas/search/test_kill.py`` for five minutes.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sqlite3
import time
from collections import Counter

import pytest
from instant_worker import work

from nas.ranking.race import rules_of
from nas.ranking.rank import ranking_of
from nas.search.next_step import is_complete
from nas.study.budget import Rung, survivor_count
from nas.study.study import Study
from nas.study.trial import DIED, DIED_OFTEN, variants_spent

SECONDS = float(os.environ.get("NAS_KILL_SECONDS", "10"))
WORKERS = 8
FORK = multiprocessing.get_context("fork") if os.name == "posix" else None  # with everything imported: at work at once


@pytest.mark.slow
@pytest.mark.skipif(FORK is None, reason="the workers are forked")
def test_workers_that_are_killed_at_random(storage_url, make_shared, capsys):
    """For as long as is asked for one of the workers after the other dies, and is replaced; then they finish."""
    trials = int(20 + 3 * SECONDS)
    study = make_shared(storage_url, trials=trials, rungs=(Rung(1, 64),))
    rng, kills, workers = random.Random(0), 0, []
    until = time.monotonic() + SECONDS
    while time.monotonic() < until or not any(t.status == "interrupted" for t in study.runs()):
        while len(workers) < WORKERS:
            workers.append(FORK.Process(target=work, args=(storage_url, "k")))
            workers[-1].start()
        time.sleep(rng.uniform(0.0, 0.3))
        victim = workers.pop(rng.randrange(WORKERS))
        if victim.is_alive():
            victim.kill()
            kills += 1
        victim.join()
    for worker in workers:
        worker.join(600)
        assert worker.exitcode == 0

    left = Study.load(study.location)
    every = left.runs()
    status = Counter(t.status for t in every)
    with capsys.disabled():
        print(f"\n{storage_url.split(':')[0]}: {kills} kills, {dict(status)}, {left.spent} variants")  # noqa: T201  # to be read
    assert kills
    assert not status["running"]
    assert all(t.state.is_finished() for t in left._inner.trials)
    assert max(Counter(t.key for t in every if t.status == "done").values()) == 1
    assert left.spent == trials
    assert is_complete(every, left.settings, rules_of(left))
    below = len(ranking_of(left, left.fidelity_of(1))) - 1
    died = sum(t.status == "failed" and not t.fidelity for t in every)
    assert variants_spent(left.trials()) == 1 + survivor_count(below, left.settings.eta)
    assert len(ranking_of(left)) == variants_spent(left.trials()) - died
    assert {t.failure for t in every if t.status in ("failed", "interrupted")} <= {DIED, DIED_OFTEN}
    assert [t.number for t in every] == list(range(len(left._inner.trials)))
    if not left.location.server:
        with sqlite3.connect(left.location.file) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
