"""What the commands that only read a study take, by its number of trials.

    python benchmarks/reading.py --trials 100 1000 10000

Makes studies of distinct variants with synthetic scores, in which nothing is trained: effects of swaps, interactions of
some pairs, and noise. Prints the CPU seconds of each command, all of its threads and imports included, the fastest of
some runs in turns; and by how much they grow from one size to the next. The last two rows of a size import nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.study.trial import Trial

COMMANDS = {
    "nas --help": ["--help"],
    "nas ops": ["ops"],
    "nas space show": ["space", "show", "SPACE"],
    "nas studies": ["studies"],
    "nas rank": ["rank", "made"],
    "nas rank --csv": ["rank", "made", "--csv"],
    "nas effects": ["effects", "made"],
}


def make_study(space_name: str, trials: int, folder: Path, seed: int = 0) -> None:
    """Make a study ``made`` with that number of finished trials of distinct variants, the baseline among them."""
    from nas.model.render import render
    from nas.space.search_space import key_of
    from nas.space.space_file import load_space
    from nas.study.location import StudyLocation
    from nas.study.settings import Settings, current_versions
    from nas.study.study import Study
    from nas.study.trial import Trial
    from nas.training.recipe import Recipe
    from nas.training.scores import EpochScore, Validation

    rng = random.Random(seed)
    space = load_space(space_name)
    settings = Settings(
        space, Recipe(), "", "f" * 16, ("a",), (200, 100), seed=0, floor=0.02, versions=current_versions()
    )
    study = Study.create(StudyLocation("made", folder / "studies" / "made.db"), settings, trials)
    effects = {(slot.key, label): rng.gauss(0, 0.01) for slot in space.active for label in slot.choices[1:]}
    pairs = {tuple(sorted(rng.sample(sorted(effects), 2))): rng.gauss(0, 0.01) for _ in range(len(effects))}
    text = render(space.variant({})).yaml
    seen: set[Any] = set()
    assignment = space.baseline()
    made: list[Trial] = []
    while len(seen) < trials:
        if (key := key_of(assignment)) not in seen and not space.forbids(assignment):
            seen.add(key)
            swaps = {swap for swap in assignment.items() if swap in effects}
            value = 0.4 + sum(effects[swap] for swap in swaps) + rng.gauss(0, 0.004)
            value += sum(beyond for pair, beyond in pairs.items() if set(pair) <= swaps)
            curve = tuple(EpochScore(k, 2.0, 1.0, Validation(0.9 * value, value * k / 3, 1.5)) for k in (1, 2, 3))
            facts: dict[str, Any] = {
                "gflops": 8 + rng.random(),
                "params": 3_000_000,
                "yaml": text,
                "versions": settings.versions,
            }
            facts |= {"stock_gflops": 8.0, "curve": curve, "seconds": 30.0}
            trial = Trial(len(seen) - 1, space.variant(assignment), assignment, "done", **facts)
            made.append(trial)
        assignment = {slot.key: rng.choice(slot.choices) for slot in space.active}
    running = study.start(replace(made[0], number=-1, status="running"))
    running.end(status="done")
    insert(folder / "studies" / "made.db", made[1:])


def insert(file: Path, trials: list[Trial]) -> None:
    """Insert trials as Optuna does, with its tables' rows of the first one as an example: it takes 40 ms for each."""
    from nas.study.running_trial import trial_attributes

    with contextlib.closing(sqlite3.connect(file)) as db, db:
        kinds = dict(db.execute("SELECT param_name, distribution_json FROM trial_params"))
        choices = {name: json.loads(text)["attributes"]["choices"] for name, text in kinds.items()}
        for number, trial in enumerate(trials, 1):
            others = "study_id, state, datetime_start, datetime_complete"
            sql = f"INSERT INTO trials (number, {others}) SELECT ?, {others} FROM trials"
            key = db.execute(f"{sql} WHERE number = 0", (number,)).lastrowid
            sql = "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, 0, ?, 'FINITE')"
            db.execute(sql, (key, trial.map_per_gflop))
            sql = "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)"
            places = ((key, name, choices[name].index(v), kinds[name]) for name, v in trial.assignment.items())
            db.executemany(sql, places)
            sql = "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)"
            db.executemany(sql, ((key, k, json.dumps(v)) for k, v in trial_attributes(trial).items()))


def cpu_of(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command of `nas` and return its CPU and wall seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "nas", *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - started


def cpu_of_steps(folder: Path) -> dict[str, float]:
    """Return the CPU seconds of reading and of ranking in this process, which has imported all."""
    from nas.cli.rank import print_ranking
    from nas.study.location import StudyLocation
    from nas.study.study import Study

    found = {}
    for _ in range(2):  # the first one imports
        study = Study.load(StudyLocation("made", folder / "studies" / "made.db"))
        started = time.process_time()
        study.runs()
        found["reading all trials"] = time.process_time() - started
        started = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            print_ranking(study, as_json=False, as_csv=False, conclude=False)
        found["ranking, notes, table"] = time.process_time() - started
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--space", default="seeds")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    print(f"Python {platform.python_version()}, space {args.space}, {args.rounds} rounds, 1 thread\n")
    print(f"{'trials':>7}  {'command':24}{'CPU s':>8}{'wall s':>8}{'growth':>8}")
    before: dict[str, float] = {}
    for trials in args.trials:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_study(args.space, trials, folder)
            taken: dict[str, list[tuple[float, float]]] = {}
            for _ in range(args.rounds):
                for title, command in COMMANDS.items():
                    words = [args.space if word == "SPACE" else word for word in command]
                    taken.setdefault(title, []).append(cpu_of(words, folder))
            steps = cpu_of_steps(folder)
        rows = {title: min(found) for title, found in taken.items()} | {t: (s, s) for t, s in steps.items()}
        for title, (cpu, wall) in rows.items():
            growth = f"{cpu / before[title]:7.1f}x" if title in before else ""
            print(f"{trials:7}  {title:24}{cpu:8.2f}{wall:8.2f}{growth:>8}")
            before[title] = cpu
        print()


if __name__ == "__main__":
    main()
