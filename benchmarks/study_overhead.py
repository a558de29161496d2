"""What a study itself costs, beside the training: milliseconds of each step, at 100 and at 1000 trials.

    python benchmarks/study_overhead.py

A study of made-up scores in SQLite, in a temporary folder. `start` stores a trial as running, `tell` its result, `read`
all trials, `rank` makes the ranking with its verdicts, `owed` says which further seeds are missing, `ask` proposes the
next variant. Medians of several calls in one process; the disk's part is in `start` and `tell`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nas.propose import propose
from nas.race import Confirm
from nas.rank import ranking_of
from nas.recipe import Recipe
from nas.schedule import confirming, owed
from nas.scores import EpochScore, Validation
from nas.search import rules_of
from nas.seeds import together
from nas.settings import Settings, current_versions
from nas.space_file import load_space
from nas.place import place
from nas.study import Study
from nas.trial import Trial


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of a call."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - started))
    return statistics.median(taken)


def main() -> None:
    """Fill a study and measure on the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="seeds")
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000])
    options = parser.parse_args()
    space = load_space(options.space)
    with tempfile.TemporaryDirectory() as folder:
        where = place("s", f"sqlite:///{Path(folder) / 's.db'}")
        settings = Settings(space, Recipe(), "", "f" * 16, ("a",), (4, 2), 0, 0.02, current_versions())
        study = Study.create(where, settings, max(options.trials), confirm=Confirm(3, 3))
        rng = random.Random(0)
        effect = {(slot.key, label): rng.gauss(0, 0.01) for slot in space.active for label in slot.choices[1:]}
        plan = [space.baseline(), *space.single_swaps()]
        seen = {space.variant(a) for a in plan}
        while len(plan) < max(options.trials):
            drawn = {slot.key: rng.choice(slot.choices) for slot in space.active}
            if not space.forbids(drawn) and space.variant(drawn) not in seen:
                seen.add(space.variant(drawn))
                plan.append(drawn)
        starts: list[float] = []
        tells: list[float] = []
        print(f"{'trials':>8}" + "".join(f"{name:>10}" for name in ("start", "tell", "read", "rank", "owed", "ask")))
        for number, assignment in enumerate(plan, 1):
            variant = space.variant(assignment)
            score = 0.4 + sum(effect.get(swap, 0) for swap in assignment.items()) + rng.gauss(0, 0.003)
            seen_there = Validation(score + 0.2, score, 1.0)
            curve = tuple(EpochScore(epoch, 2.0, 0.1, seen_there) for epoch in range(1, 5))
            trial = Trial(-1, variant, assignment, "running", yaml="#" * 3000, gflops=8 + 0.1 * len(variant.swaps))
            started = time.perf_counter()
            handle = study.start(trial)
            between = time.perf_counter()
            handle.end(status="done", curve=curve, average=seen_there)
            starts.append(1e3 * (between - started))
            tells.append(1e3 * (time.perf_counter() - between))
            if number in options.trials:
                trials, rules = study.trials(), rules_of(study)
                figures = [
                    statistics.median(starts[-25:]),
                    statistics.median(tells[-25:]),
                    milliseconds(study.trials, 9),
                    milliseconds(lambda: ranking_of(study), 9),
                    milliseconds(lambda t=trials, r=rules: [*owed(t, r), *confirming(t, r)], 9),
                    _asking(study, trials),
                ]
                print(f"{number:>8}" + "".join(f"{figure:>10.1f}" for figure in figures), flush=True)


def _asking(study: Study, trials: list[Trial]) -> float:
    """Return the median time of a proposal, over what the study looked like at its last nine trials."""
    s, taken = study.settings, []
    for last in range(9):
        known = trials[: len(trials) - last]
        taken.append(milliseconds(lambda k=known: propose(s.space, together(k), seed=0, floor=s.floor), 1))
    return statistics.median(taken)


if __name__ == "__main__":
    main()
