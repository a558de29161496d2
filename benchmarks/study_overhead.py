"""What a study itself costs, beside the training: storing a trial, reading, ranking, choosing what is next.

    OMP_NUM_THREADS=1 python benchmarks/study_overhead.py

A study of made-up scores in SQLite, in a temporary folder: the baseline, every swap alone, then variants at random.
`start` stores a trial as running, `tell` its result, `read` all trials, `rank` makes the ranking with its verdicts,
`owed` lists the missing runs (`schedule.further_seeds`), `ask` proposes the next variant. Then, at the last number of
trials, a proposal by every sampler and a ranking by every objective.

Medians, in milliseconds of the processor, so that other work beside it does not count; `start` and `tell` by the clock
too, as they wait for the disk. Set OMP_NUM_THREADS=1, or the threads that wait count.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nas.ranking.race import rules_of
from nas.ranking.rank import rank_trials, ranking_of
from nas.ranking.replicates import pool_replicates
from nas.samplers import SAMPLERS
from nas.samplers.propose import propose_next
from nas.search.schedule import confirmations, further_seeds
from nas.space.search_space import SearchSpace
from nas.space.space_file import load_space
from nas.study import OBJECTIVES
from nas.study.budget import Confirm
from nas.study.location import locate
from nas.study.objective import Goal
from nas.study.settings import Settings, current_versions
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation

COLUMNS = ("start", "start, clock", "tell", "tell, clock", "read", "rank", "owed", "ask")
LATEST = 25
"""Trials whose storing is measured."""


def made_up(space: SearchSpace, count: int) -> list[tuple[Trial, Validation]]:
    """Return trials that have not run, each once, and their scores: effects of the swaps that add up, and noise."""
    rng = random.Random(0)
    effects = {(s.key, label): rng.gauss(-0.004, 0.006) for s in space.active for label in s.choices[1:]}
    plan = {space.variant(a): a for a in (space.baseline(), *space.single_swaps())}
    while len(plan) < count:
        drawn = {slot.key: rng.choice(slot.choices) for slot in space.active}
        if not space.forbids(drawn):
            plan.setdefault(space.variant(drawn), drawn)
    found = []
    for variant, assignment in list(plan.items())[:count]:
        swaps = [swap for swap in assignment.items() if swap in effects]
        score = 0.4 + sum(effects[swap] for swap in swaps) + rng.gauss(0, 0.003)
        gflops, ms = 8.8 + 0.05 * len(swaps), 12.0 + 0.3 * len(swaps)
        trial = Trial(
            -1, variant, assignment, "running", yaml="#" * 3000, gflops=gflops, params=3_000_000, latency_ms=ms
        )
        found.append((trial, Validation(score + 0.2, score, 1.0)))
    return found


def median_ms(call: Callable[[], object], times: int = 9) -> float:
    """Return the median processor time of a call."""
    call()
    taken = []
    for _ in range(times):
        started = time.process_time()
        call()
        taken.append(1e3 * (time.process_time() - started))
    return statistics.median(taken)


def timed(call: Callable[[], object]) -> tuple[object, float, float]:
    """Return what a call returns, and its milliseconds of the processor and by the clock."""
    processor, clock = time.process_time(), time.perf_counter()
    made = call()
    return made, 1e3 * (time.process_time() - processor), 1e3 * (time.perf_counter() - clock)


def fill(study: Study, trials: list[tuple[Trial, Validation]]) -> list[float]:
    """Store trials with their results; return the medians of the latest, as the first of `COLUMNS`."""
    taken: list[tuple[float, ...]] = []
    for trial, score in trials:
        curve = tuple(EpochScore(epoch, 2.0, 0.1, score) for epoch in range(1, 5))
        handle, *start = timed(lambda t=trial: study.start(t))
        _, *tell = timed(lambda h=handle, c=curve, s=score: h.end(status="done", curve=c, average=s))
        taken.append((*start, *tell))
    return [statistics.median(values) for values in zip(*taken[-LATEST:], strict=True)]


def in_use(study: Study) -> list[float]:
    """Return the times of what a running search asks a study, as the last of `COLUMNS`."""
    trials, rules, s = study.trials(), rules_of(study), study.settings
    return [
        median_ms(study.trials),
        median_ms(lambda: ranking_of(study)),
        median_ms(lambda: [*further_seeds(trials, rules), *confirmations(trials, rules)]),
        median_ms(lambda: propose_next(s.space, pool_replicates(trials), seed=0, floor=s.floor)),
    ]


def compare_samplers(space: SearchSpace, trials: list[Trial]) -> None:
    """Print how long every sampler and ranking takes."""
    print(f"\nWith {len(trials)} trials:\n\n| what | ms |\n|---|---|")
    for objective in OBJECTIVES:
        goal = Goal(objective)
        for sampler in SAMPLERS if objective == "map_per_gflop" else ("gp", "tpe"):
            took = median_ms(
                lambda s=sampler, g=goal: propose_next(space, trials, seed=0, floor=0.02, sampler=s, goal=g)
            )
            print(f"| ask {sampler} for {objective} | {took:.0f} |", flush=True)
        print(f"| rank by {objective} | {median_ms(lambda g=goal: rank_trials(trials, 0.02, g)):.0f} |", flush=True)


def main() -> None:
    """Fill a study and measure on the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="seeds")
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000], help="when to measure")
    options = parser.parse_args()
    space, marks = load_space(options.space), sorted(set(options.trials))
    if marks[-1] > space.size // 2:
        parser.error(f"--trials {marks[-1]}: {options.space} has {space.size} variants; give at most half as many")
    trials = made_up(space, marks[-1])
    print(f"{options.space}: {len(space.active)} slots, {len(space.single_swaps())} swaps; ms\n")
    print(f"| trials | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}")
    with tempfile.TemporaryDirectory() as folder:
        where = locate("s", f"sqlite:///{Path(folder) / 's.db'}")
        settings = Settings(space, Recipe(), "", "f" * 16, ("a",), (4, 2), 0, 0.02, current_versions())
        study = Study.create(where, settings, marks[-1], confirm=Confirm(3, 3))
        for before, mark in zip([0, *marks], marks, strict=False):
            figures = [*fill(study, trials[before:mark]), *in_use(study)]
            print(f"| {mark} | {' | '.join(f'{figure:.1f}' for figure in figures)} |", flush=True)
        compare_samplers(space, pool_replicates(study.trials()))


if __name__ == "__main__":
    main()
