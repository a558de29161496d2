"""Which sampler finds the front of mAP and GFLOPs soonest, by replay of a table of measured variants.

    python benchmarks/budget_replay.py bccd-table.json --repeats 20 > benchmarks/results/budget_replay.md

The table is one of `benchmarks/budget_table.py`: every variant in it is measured, and every swap has an output score. A
search may only propose variants of the table; each repeat leaves out a fifth of its combinations at random, and has a
seed of its own. Hypervolume is the area of mAP50-95 and GFLOPs that the trained variants dominate, above the baseline's
mAP50-95 less 0.05 and below its GFLOPs, over that of all variants of the repeat; single swaps count as trainings where
a sampler trains them first. NSGA-II is Optuna's with a population of 20, whose proposals are moved to the nearest
variant that is left; greedy takes the variant of the least summed score for each GFLOP saved, and learns nothing.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.samplers.propose import propose_next
from nas.search.table import Table, TableRow, read_table
from nas.space.search_space import Assignment, key_of
from nas.study.objective import Goal, read_budgets
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

COUNTS = (10, 20, 40, 80, 160)
BELOW = 0.05
BUDGETS = read_budgets("-10%,-20%,-30%,-40%", None, None)
STRATEGIES = ("exact", "exact with budgets", "gp", "tpe", "random", "nsga2", "greedy")


def hypervolume(points: Sequence[tuple[float, float]], floor: float, most: float) -> float:
    """Return the area that (GFLOPs, mAP) points dominate above a floor of mAP, up to the most GFLOPs."""
    area, best, at = 0.0, floor, 0.0
    for gflops, value in sorted((p for p in points if p[0] <= most), key=lambda p: (p[0], -p[1])):
        area += (best - floor) * (gflops - at)
        at, best = gflops, max(best, value)
    return area + (best - floor) * (most - at)


class Variants:
    """The variants of one repeat."""

    def __init__(self, table: Table, repeat: int) -> None:
        self.table, self.seed = table, table.seeds[0]
        rng = random.Random(repeat)
        rows = [row for row in table.rows.values() if row.seed == self.seed and not row.failure]
        kept = table.space.baseline()
        self.rows = {
            key_of(row.slots): row
            for row in rows
            if sum(kept[key] != label for key, label in row.slots.items()) < 2 or rng.random() < 0.8
        }
        self.among = [dict(row.slots) for row in self.rows.values()]

    def count(self, assignment: Assignment) -> Mapping[str, float]:
        """Return the costs of a variant."""
        row = self.rows[key_of(assignment)]
        return {"gflops": row.gflops, "params": float(row.params)}

    def trial(self, assignment: Assignment, number: int) -> Trial:
        """Return the stored result of a variant as a trial."""
        row: TableRow = self.rows[key_of(assignment)]
        curve = (EpochScore(row.epochs, 0.0, 0.0, Validation(row.map50, row.map, 0.0)),)
        return Trial(
            number, self.table.space.variant(assignment), dict(assignment), "done", gflops=row.gflops,
            params=row.params, curve=curve, score="map_last",
        )  # fmt: skip


def search(variants: Variants, strategy: str, repeat: int) -> Iterator[Trial]:
    """Yield the trials of a search."""
    space, facts = variants.table.space, variants.table.facts
    trials = [variants.trial(space.baseline(), 0)]
    yield trials[0]
    others = _greedy(variants) if strategy == "greedy" else _nsga2(variants, repeat) if strategy == "nsga2" else None
    while len(trials) < len(variants.among):
        if others is not None:
            assignment = next(others, None)
        else:
            assignment = propose_next(
                space, trials, seed=repeat, floor=BELOW, sampler=strategy.split()[0], goal=Goal("map,gflops"),
                among=variants.among, facts=facts, count=variants.count,
                budgets=BUDGETS if strategy.endswith("budgets") else (),
            )  # fmt: skip
        if assignment is None:
            return
        trials.append(variants.trial(assignment, len(trials)))
        yield trials[-1]


def _greedy(variants: Variants) -> Iterator[dict[str, str]]:
    """Yield the variants by summed score for each GFLOP saved, the least first."""
    facts, base = variants.table.facts, variants.count(variants.table.space.baseline())["gflops"]

    def rate(assignment: Assignment) -> float:
        saved = base - variants.count(assignment)["gflops"]
        return (facts.distance(assignment) or 0.0) / saved if saved > 0 else float("inf")

    baseline = variants.table.space.baseline()
    yield from sorted((a for a in variants.among if a != baseline), key=rate)


def _nsga2(variants: Variants, repeat: int) -> Iterator[dict[str, str]]:
    """Yield what Optuna's NSGA-II proposes, each moved to the nearest variant that is left."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, baseline = variants.table.space, variants.table.space.baseline()
    left = [a for a in variants.among if a != baseline]
    kinds: dict[str, Any] = {s.key: optuna.distributions.CategoricalDistribution(s.choices) for s in space.active}
    sampler = optuna.samplers.NSGAIISampler(seed=repeat, population_size=20)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    while left:
        asked = study.ask(fixed_distributions=kinds)
        nearest = min(left, key=lambda a: sum(a[key] != asked.params[key] for key in kinds))
        left.remove(nearest)
        row = variants.rows[key_of(nearest)]
        study.tell(asked, (row.map, row.gflops))
        yield nearest


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    args = parser.parse_args()
    table = read_table(args.table)
    print(f"    {' '.join(['python', 'benchmarks/budget_replay.py', *sys.argv[1:]])}\n")
    counts = [count for count in COUNTS if count < 0.8 * len(table.rows)]
    print(f"{len(table.rows)} variants of {table.space.name}, {args.repeats} repeats.")
    print("Share of the whole hypervolume after so many trainings, mean and half of its 95 % interval.\n")
    print(f"| sampler | {' | '.join(map(str, counts))} | s to ask |\n|---|{'---|' * (len(counts) + 1)}", flush=True)
    for strategy in args.strategies:
        shares: dict[int, list[float]] = {count: [] for count in counts}
        asked = []
        for repeat in range(args.repeats):
            variants = Variants(table, repeat)
            base = variants.rows[key_of(table.space.baseline())]
            floor, most = base.map - BELOW, base.gflops
            whole = hypervolume([(row.gflops, row.map) for row in variants.rows.values()], floor, most)
            points, started = [], time.process_time()
            for number, trial in enumerate(search(variants, strategy, repeat), 1):
                points.append((trial.gflops, trial.map))
                if number in shares:
                    shares[number].append(hypervolume(points, floor, most) / whole)
                if number == counts[-1]:
                    break
            asked.append((time.process_time() - started) / len(points))
        cells = [
            f"{statistics.fmean(v):.3f} ± {1.96 * statistics.stdev(v) / len(v) ** 0.5 if len(v) > 1 else 0:.3f}"
            for v in shares.values()
        ]
        print(f"| {strategy} | {' | '.join(cells)} | {statistics.fmean(asked):.2f} |", flush=True)


if __name__ == "__main__":
    main()
