"""How long it takes to choose the next variant and to rank, when a study has 1,000 trials.

    OMP_NUM_THREADS=1 python benchmarks/ask_time.py

The trials are made up; the space is the shipped ``seeds``. Median of nine calls each, in milliseconds of the processor,
so that other work beside it does not count. Set OMP_NUM_THREADS=1, or the threads that wait count too.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

from nas.objective import OBJECTIVES, Goal
from nas.propose import propose
from nas.rank import rank
from nas.samplers import SAMPLERS
from nas.scores import EpochScore, Validation
from nas.space import SearchSpace
from nas.space_file import load_space
from nas.trial import Trial


def made_up(space: SearchSpace, count: int) -> list[Trial]:
    """Return finished trials: the baseline, every swap alone, then variants at random."""
    rng = random.Random(0)
    effects = {(s.key, label): rng.gauss(-0.004, 0.006) for s in space.active for label in s.choices[1:]}
    singles = [space.baseline(), *space.single_swaps()]
    trials = []
    for number in range(count):
        drawn = {slot.key: rng.choice(slot.choices) for slot in space.active}
        assignment = singles[number] if number < len(singles) else drawn
        swaps = [swap for swap in assignment.items() if swap in effects]
        score = 0.4 + sum(effects[swap] for swap in swaps) + rng.gauss(0, 0.003)
        curve = (EpochScore(1, 0.0, 0.0, Validation(score, score, 0.0)),)
        gflops, ms = 8.8 + 0.05 * len(swaps), 12.0 + 0.3 * len(swaps)
        variant = space.variant(assignment)
        trials.append(Trial(number, variant, assignment, "done", gflops=gflops, params=1, latency_ms=ms, curve=curve))
    return trials


def median_ms(call: Callable[[], object], times: int = 9) -> float:
    """Return the median time of a call."""
    call()
    taken = []
    for _ in range(times):
        started = time.process_time()
        call()
        taken.append(1e3 * (time.process_time() - started))
    return statistics.median(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--space", default="seeds")
    args = parser.parse_args()
    space = load_space(args.space)
    trials = made_up(space, args.trials)
    print(f"{args.space}: {len(space.active)} slots, {len(space.single_swaps())} swaps, {len(trials)} trials\n")
    print("| what | ms |\n|---|---|")
    for objective in OBJECTIVES:
        for sampler in SAMPLERS if objective == "map_per_gflop" else ("gp", "tpe", "nsga2"):
            goal = Goal(objective)
            took = median_ms(lambda s=sampler, g=goal: propose(space, trials, seed=0, floor=0.02, sampler=s, goal=g))
            print(f"| ask {sampler} for {objective} | {took:.0f} |", flush=True)
        print(f"| rank by {objective} | {median_ms(lambda g=goal: rank(trials, 0.02, g)):.0f} |", flush=True)


if __name__ == "__main__":
    main()
