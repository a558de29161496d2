"""What a search costs beside the script that a user would write instead: trials an hour, where the time goes, mAP.

    python benchmarks/search_throughput.py --data bccd/data.yaml                   # 3 rounds of 8 trials of 8 epochs
    python benchmarks/search_throughput.py --data bccd/data.yaml --rounds 1 --trials 3 --epochs 2
    python benchmarks/search_throughput.py --data bccd/data.yaml --init trained.pt --rounds 5 > results.md

In each round, `nas search` trains some variants, and then the script trains the very same ones: Optuna's loop with a
`YOLO(yaml).train(...)` in it, a trial after the other in one process. Both have the images, their size, the batch,
the epochs, the seed and the recipe in common (optimizer, learning rates, warm-up, weight decay, mosaic and when it
ends, each batch a step), which the script is given in the host's words. All else in the script is as the host has it:
its threads, reading of images, checkpoints, a validation after each epoch and of the best checkpoint at the end. It
is spared the plots. Variants train from scratch, or both from the same file (`--init`): a search that trains a
baseline and distils a bank has no counterpart in the script. Nothing is confirmed. Start-up is counted in.

Each side's mAP is mAP50-95 of the weights after the last epoch; the interval is of Student's t over the paired
differences, of the same variant under the same seed. All trials of a round share what was drawn for their seed, on
either side, so by itself that interval says too much. With `--alike` both sides draw the same, batch by batch: in the
script too, images stay in memory, and reading and validating leave the random states as they were. The modules that a
variant swaps in begin near the layer that they replace in the search, and afresh in the script; with `--fresh` in both.
From scratch a short training is noise all the same: `--init` with a trained baseline tells more.

Time is measured in the training processes, by timers of which only the innermost runs. Forward and backward holds the
loss; the network's forward in validations stands apart. Of trainings side by side (`--extra "--workers 2"`) the times
are of one of them, and shares are of the wall time of all.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nas.workers.worker
from nas.training.jobs import ProxyJob

HERE = Path(__file__).resolve()
PHASES = "NAS_BENCHMARK_PHASES"
"""Names the file that training processes write their times to, a line for each training."""
FRESH = "NAS_BENCHMARK_FRESH"
"""Set where the search's swapped modules begin afresh."""
LEARNING, CHECKING = "forward and backward", "forward in validations"
ORDER = (
    "set-up", "data", LEARNING, "optimizer and averages", CHECKING, "rest of the validations", "rest of the training"
)  # fmt: skip
Call = Callable[..., Any]


class Timers:
    """Exclusive times by phase: while an inner one runs, the outer one stands."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(ORDER, 0.0)
        self._open: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time within as this phase's."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def timed(self, name: str, call: Call, when: Call = lambda *_: True) -> Call:
        """Return a function that counts its time; what is within a validation stays its own, but for the network."""

        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            inside = bool(self._open) and self._open[-1] in ORDER[4:6]
            if not self._open or inside != (name == CHECKING) or not when(*args):
                return call(*args, **kwargs)
            with self.phase(name):
                return call(*args, **kwargs)

        return run


def instrument(train: Call) -> Call:
    """Return a training that writes where its time went, once the host is imported."""
    timers: list[Timers] = []

    @functools.wraps(train)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not timers:
            timers.append(_patched())
        timer = timers[0]
        timer.seconds = dict.fromkeys(ORDER, 0.0)
        with timer.phase("rest of the training"):
            result = train(*args, **kwargs)
        with open(os.environ[PHASES], "a", encoding="utf-8") as file:
            file.write(json.dumps(timer.seconds) + "\n")
        return result

    return run


def instrument_trainings(do_job: Call) -> Call:
    """Return `nas.workers.worker.do_job` with timers around trainings."""
    timed = instrument(do_job)
    return lambda job, *rest: (timed if isinstance(job, ProxyJob) else do_job)(job, *rest)


def _patched() -> Timers:
    """Put timers around what the host's trainer calls."""
    import torch
    from torch.utils.data.dataloader import _BaseDataLoaderIter
    from ultralytics.engine.trainer import BaseTrainer
    from ultralytics.engine.validator import BaseValidator
    from ultralytics.nn.tasks import BaseModel
    from ultralytics.utils.torch_utils import ModelEMA

    def learning(_model: Any, x: Any, *_: Any) -> bool:
        return isinstance(x, dict) and torch.is_grad_enabled()

    def checking(_model: Any, x: Any, *_: Any) -> bool:
        return isinstance(x, torch.Tensor)

    timers = Timers()
    for owner, method, name, *when in (
        (BaseTrainer, "__init__", "set-up"),
        (BaseTrainer, "_setup_train", "set-up"),
        (BaseTrainer, "optimizer_step", "optimizer and averages"),
        (ModelEMA, "update", "optimizer and averages"),
        (BaseValidator, "__call__", "rest of the validations"),
        (BaseTrainer, "final_eval", "rest of the validations"),
        (BaseModel, "forward", LEARNING, learning),
        (BaseModel, "forward", CHECKING, checking),
        (torch.Tensor, "backward", LEARNING),
        (_BaseDataLoaderIter, "__next__", "data"),
        (BaseTrainer, "preprocess_batch", "data"),
    ):
        setattr(owner, method, timers.timed(name, getattr(owner, method), *when))
    return timers


def search(options: argparse.Namespace, folder: Path, seed: int) -> None:
    """Run `nas search` in this process; it trains in one of its own, which this file instruments as it starts."""
    from nas.cli import cli

    cli(
        [
            *("search", options.space, "--study", "s", "--data", str(options.data), "--trials", str(options.trials)),
            *("--epochs", str(options.epochs), "--imgsz", str(options.imgsz), "--batch", str(options.batch)),
            *("--init", options.init, "--seed", str(seed), "--confirm", "0", "--device", "cpu", "--json"),
            *("--storage", f"sqlite:///{folder / 's.db'}"),
            *shlex.split(options.extra),
        ],
        standalone_mode=False,
    )


def script(folder: Path) -> None:
    """Be the user's script: Optuna asks, `YOLO.train` trains."""
    from nas.model.offline import go_offline, offline_environment

    os.environ.update(offline_environment(folder / "cache"))  # as in the search: nothing is asked of the network
    import optuna
    from ultralytics import YOLO

    import nas  # noqa: F401  # makes the modules known to the host

    go_offline(folder / "cache")
    plan = json.loads((folder / "plan.json").read_text())

    def objective(trial: optuna.Trial) -> float:
        number = trial.suggest_categorical("variant", list(range(len(plan["models"]))))
        name = f"trial{trial.number}"
        model = YOLO(plan["models"][number])
        model.train(project=str(folder / "script"), name=name, **plan["train"])
        return _last_map(folder / "script" / name / "results.csv")

    study = optuna.create_study(direction="maximize", storage=f"sqlite:///{folder / 'script.db'}")
    for number in range(len(plan["models"])):  # what the search tried, in its order
        study.enqueue_trial({"variant": number})
    if "cache" in plan["train"]:
        draw_alike()
    YOLO.train = instrument(YOLO.train)
    study.optimize(objective, n_trials=len(plan["models"]))
    (folder / "script.json").write_text(json.dumps([trial.value for trial in study.trials]))


def draw_alike() -> None:
    """Let reading images and validating leave the random states as they were, as they do in a search."""
    import random

    import numpy as np
    from ultralytics.engine.validator import BaseValidator
    from ultralytics.models.yolo.detect import DetectionTrainer

    def still(call: Call) -> Call:
        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            before = random.getstate(), np.random.get_state()
            try:
                return call(*args, **kwargs)
            finally:
                random.setstate(before[0])
                np.random.set_state(before[1])

        return run

    DetectionTrainer.build_dataset = still(DetectionTrainer.build_dataset)
    BaseValidator.__call__ = still(BaseValidator.__call__)


def _last_map(results: Path) -> float:
    """Return mAP50-95 after the last epoch."""
    head, *rows = [[cell.strip() for cell in line.split(",")] for line in results.read_text().splitlines()]
    return float(rows[-1][head.index("metrics/mAP50-95(B)")])


def plan_of(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[float]]:
    """Return what the script has to train for the trials of a search, and the search's own mAPs."""
    from nas.data.dataset import load, write_resolved
    from nas.study.location import locate
    from nas.study.study import Study
    from nas.training.train import overrides_of

    study = Study.load(locate("s", f"sqlite:///{folder / 's.db'}"))
    recipe = study.settings.recipe
    done = [trial for trial in study.trials() if trial.status == "done"]
    models = []
    for trial in done:
        file = folder / f"{trial.variant.name}.yaml"
        file.write_text(trial.yaml)
        models.append(str(file))
    pinned = overrides_of(recipe)
    shared = ("epochs", "imgsz", "batch", "nbs", "device", "optimizer", "lr0", "lrf", "weight_decay", "warmup_epochs")
    train = {key: pinned[key] for key in (*shared, "warmup_bias_lr", "mosaic", "close_mosaic", "patience")}
    data = write_resolved(load(options.data), folder)  # the host reads a relative path its own way
    train |= {"data": str(data), "seed": study.settings.seed, "plots": False, "verbose": False}
    if options.alike:
        train["cache"] = "ram"  # mosaic draws otherwise from disk
    if options.init != "scratch":
        train["pretrained"] = options.init
    return {"models": models, "train": train}, [t.curve[-1].validation.map for t in done if t.curve[-1].validation]


def side(role: str, folder: Path, seed: int) -> tuple[float, dict[str, float]]:
    """Run one side as a program of its own; return its wall time and the seconds of each phase."""
    phases = folder / f"{role}-phases.jsonl"
    command = [sys.executable, str(HERE), *sys.argv[1:], "--role", role, "--folder", str(folder), "--seed", str(seed)]
    started = time.monotonic()
    done = subprocess.run(command, env={**os.environ, PHASES: str(phases)}, capture_output=True, text=True)
    wall = time.monotonic() - started
    if done.returncode:
        sys.exit(f"{role} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    lines = [json.loads(line) for line in phases.read_text().splitlines()]
    return wall, {name: sum(line[name] for line in lines) for name in ORDER}


def interval(differences: list[float]) -> str:
    """Return the mean of paired differences and its 95 % interval."""
    from scipy import stats

    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.4f} (of one pair)"
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.4f} ± {half:.4f} ({len(differences)} pairs)"


def main() -> None:
    """Measure, round by round, and print."""
    options = parsed()
    if options.role:
        with contextlib.ExitStack() as stack:
            if options.role == "script":
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
                return script(options.folder)
            return search(options, options.folder, options.seed)
    if options.fresh:
        os.environ[FRESH] = "1"
    walls: dict[str, list[float]] = {"search": [], "script": []}
    phases = {role: dict.fromkeys(ORDER, 0.0) for role in walls}
    maps: dict[str, list[float]] = {role: [] for role in walls}
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="throughput-") as name:
            folder = Path(name)
            for role in walls:
                if role == "script":
                    plan, found = plan_of(options, folder)
                    (folder / "plan.json").write_text(json.dumps(plan))
                    maps["search"] += found
                wall, seconds = side(role, folder, options.seed + number)
                walls[role].append(wall)
                for phase in ORDER:
                    phases[role][phase] += seconds[phase]
                print(f"round {number + 1}: {role} {wall:.0f} s", file=sys.stderr, flush=True)
            maps["script"] += json.loads((folder / "script.json").read_text())
            for model, *pair in zip(
                plan["models"], maps["search"][-len(found) :], maps["script"][-len(found) :], strict=True
            ):
                print(f"{Path(model).stem}: {pair[0]:.4f} and {pair[1]:.4f}", file=sys.stderr)
    report(options, walls, phases, maps)
    return None


def report(
    options: argparse.Namespace,
    walls: dict[str, list[float]],
    phases: dict[str, dict[str, float]],
    maps: dict[str, list[float]],
) -> None:
    """Print the tables."""
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("torch", "ultralytics", "optuna", "swapnas")]
    given = shlex.join(a if "/" not in a else Path(a).name for a in sys.argv[1:])
    pairs = list(zip(maps["search"], maps["script"], strict=True))
    trials = len(pairs) / options.rounds
    ratios = [b / a for a, b in zip(walls["search"], walls["script"], strict=True)]
    print("# A search beside the script that a user would write\n")
    print(f"    python benchmarks/search_throughput.py {given}\n")
    print(f"{datetime.date.today()}, {platform.processor() or platform.machine()}, ", end="")
    print(f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {', '.join(versions)}. ", end="")
    print(f"{options.rounds} rounds of {trials:.0f} trials: {options.epochs} epochs at {options.imgsz} px, ", end="")
    print(f"batch {options.batch}, {options.space}, from {Path(options.init).name}. Times are means a trial.\n")
    print("| | `nas search` | script |\n|---|---:|---:|")
    hours = {role: sum(seconds) / 3600 for role, seconds in walls.items()}
    print("| trials an hour |" + "".join(f" {len(pairs) / hours[role]:.1f} |" for role in walls))
    print("| wall time a trial, s |" + "".join(f" {3600 * hours[role] / len(pairs):.1f} |" for role in walls))
    for phase in ORDER:
        print(f"| {phase}, s |" + "".join(f" {phases[role][phase] / len(pairs):.2f} |" for role in walls))
    beside = {"search": workers_of(options.extra), "script": 1}
    spent = {role: 3600 * hours[role] * beside[role] for role in walls}  # of all processes that train side by side
    outside = {role: spent[role] - sum(phases[role].values()) for role in walls}
    print("| outside trainings, s |" + "".join(f" {outside[role] / len(pairs):.2f} |" for role in walls))
    for what, counted in (("", (LEARNING,)), (" with that of validations", (LEARNING, CHECKING))):
        share = {role: sum(phases[role][phase] for phase in counted) / spent[role] for role in walls}
        print(f"| forward and backward{what}, share of wall time |", end="")
        print("".join(f" {share[role]:.1%} |" for role in walls))
    print("| mAP50-95, mean |" + "".join(f" {statistics.mean(maps[role]):.4f} |" for role in walls))
    rounds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"\nTrials an hour, search over script: **{statistics.median(ratios):.2f}** (rounds: {rounds}).")
    print(f"mAP50-95, search less script, paired: {interval([a - b for a, b in pairs])}.")


def workers_of(extra: str) -> int:
    """Return how many trainings a search runs side by side."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--workers", type=int, default=1)
    return int(parser.parse_known_args(shlex.split(extra))[0].workers)


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), required=True, help="A data.yaml.")
    parser.add_argument("--space", default="quick")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--init", default="scratch", help="scratch, or a .pt file that both start from.")
    parser.add_argument("--extra", default="", help='Further options of `nas search`, such as "--precision bf16".')
    parser.add_argument(
        "--alike", action="store_true", help="Let the script draw, and keep images, as the search does."
    )
    parser.add_argument("--fresh", action="store_true", help="Let swapped modules begin afresh in the search too.")
    parser.add_argument("--seed", type=int, default=0, help="Of the first round.")
    parser.add_argument("--role", choices=("search", "script"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.init != "scratch":
        options.init = str(Path(options.init).resolve())
    return options


if __name__ == "__mp_main__" and PHASES in os.environ:  # the search's training process, as it starts
    nas.workers.worker.do_job = instrument_trainings(nas.workers.worker.do_job)
    if FRESH in os.environ:
        import nas.training.proxy_trainer

        # Swaps start at random: the trainer imports the function, which types do not take for its own.
        nas.training.proxy_trainer.warm_start_swaps = lambda *_: None  # type: ignore[attr-defined]
if __name__ == "__main__":
    main()
