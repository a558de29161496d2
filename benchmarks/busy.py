"""How a training on a CPU slows down beside other work, by threads and by how its threads wait; and whole searches.

    python benchmarks/busy.py --loads 0,2,8 --epochs 4
    python benchmarks/busy.py --loads 0,2,8 --searches -- --trials 6 --confirm 0

A load of k is k processes that compute without end. Each row of the first table is the seconds of an epoch of the demo
data's baseline in a process of its own, over those of one thread without load, measured in turns: the median of the
epochs after the first. The second table is the wall time of the demo search (`nas search`) over that of one worker
without load; options after `--` go to it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAYS: dict[str, tuple[int, dict[str, str]]] = {
    "one thread": (1, {}),
    "a thread a core, spinning": (0, {"OMP_WAIT_POLICY": "active"}),
    "a thread a core, system's default": (0, {}),
    "a thread a core, passive": (0, {"OMP_WAIT_POLICY": "passive"}),
}
SEARCHES = {"--workers 1": ("--workers", "1"), "--workers auto": ()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", default="0,2,8")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--searches", action="store_true", help="whole searches in place of epochs")
    parser.add_argument("--train", nargs=2, metavar=("THREADS", "EPOCHS"), help=argparse.SUPPRESS)
    given = sys.argv[1:]
    own = given.index("--") if "--" in given else len(given)
    args = parser.parse_args(given[:own])
    args.more = given[own + 1 :]
    if args.train:
        return train(*map(int, args.train))
    loads = [int(load) for load in args.loads.split(",")]
    ways: list[str] = list(SEARCHES if args.searches else WAYS)
    times = {way: [measured(way, load, args) for load in loads] for way in ways}
    base = times[ways[0]][loads.index(min(loads))]
    print(f"| {'search' if args.searches else 'threads'} | " + " | ".join(f"load {load}" for load in loads) + " |")
    print("|---|" + "--:|" * len(loads))
    for way, row in times.items():
        print(f"| {way} | " + " | ".join(f"{seconds / base:.2f} ({seconds:.0f} s)" for seconds in row) + " |")
    return None


def measured(way: str, load: int, args: argparse.Namespace) -> float:
    """Return the seconds of an epoch, or of a search, beside a load."""
    with tempfile.TemporaryDirectory() as folder, loaded(load):
        environment = os.environ | {"NAS_CACHE": folder}
        if args.searches:
            started = time.monotonic()
            command = [sys.executable, "-m", "nas", "search", *SEARCHES[way], *args.more]
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
            return time.monotonic() - started
        threads, more = WAYS[way]
        command = [sys.executable, __file__, "--train", str(threads), str(args.epochs)]
        done = subprocess.run(command, env=environment | more, check=True, capture_output=True, text=True)
        return statistics.median(json.loads(done.stdout.splitlines()[-1])[1:])


@contextmanager
def loaded(count: int) -> Iterator[None]:
    """Let other processes compute meanwhile."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: sum(range(10000))"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()


def train(threads: int, epochs: int) -> None:
    """Train the demo data's baseline, and print the seconds of its epochs."""
    from nas.workers.count import available_cores

    threads = threads or available_cores()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from nas.model.offline import go_offline, offline_environment

    cache = Path(os.environ["NAS_CACHE"])
    os.environ.update(offline_environment(cache))
    go_offline(cache)
    from nas.data.dataset import load_or_demo, write_resolved
    from nas.model.render import render
    from nas.space.variant import Variant
    from nas.training.jobs import ProxyJob
    from nas.training.recipe import make_recipe
    from nas.training.train import train as run

    dataset = load_or_demo(None)
    data = write_resolved(dataset, cache / "data")
    variant = Variant("yolov8", "n")
    recipe = make_recipe(init="scratch", epochs=epochs, base_epochs=0, imgsz=128, batch=8, device="cpu")
    job = ProxyJob(variant.name, render(variant).yaml, "yolov8", "n", (), str(data), dataset.fingerprint, recipe, 0,
                   average=False)  # fmt: skip
    print(json.dumps([score.seconds for score in run(job, threads, lambda _: None).curve]))


if __name__ == "__main__":
    main()
