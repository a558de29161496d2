"""What each lever on a proxy's speed does to its result: the same trainings with it and without, paired.

    python benchmarks/proxy_levers.py --data bccd/data.yaml --init trained.pt --rows rows.jsonl

Every variant is trained under every seed: as it is without any lever (float32, AdamW as the host makes it), and with
each one alone. Only what is trained in full on both sides is paired. A lever is sound when the interval of the paired
difference (Student's t, 95 %) holds 0. CPU seconds are of the whole training, validations and set-up included, on one
thread. Rows are kept in a file, so that an interrupted measurement goes on, and is printed as far as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

VARIANTS = (
    (),
    ("neck.up_*=CARAFE",),
    ("neck.down_*=SPConv",),
    ("neck.up_*=DySample",),
    ("neck.c2f_*=C2f_DCNv4",),
    ("neck.down_*=DynamicConv",),
)
PLAIN = "none"
LEVERS = {"fused": "AdamW in one pass", "bf16": "bfloat16 (and AdamW in one pass)"}
AGAINST = {"fused": PLAIN, "bf16": "fused"}
"""What a lever is compared with: bfloat16 with what is on already."""
SCORES = {"map": "mAP50-95", "average": "mAP50-95, averaged weights", "map50": "mAP50", "val_loss": "validation loss"}


def measure(options: argparse.Namespace, rows: Path) -> None:
    """Train what the file of rows does not hold yet."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from nas.model.offline import go_offline, offline_environment

    with tempfile.TemporaryDirectory(prefix="levers-") as name:
        folder = Path(name)
        os.environ.update(offline_environment(folder))
        from nas.data.dataset import load, write_resolved
        from nas.training.proxy_trainer import ProxyTrainer
        from nas.training.recipe import make_recipe
        from nas.training.train import train

        go_offline(folder)
        dataset = load(options.data)
        data = write_resolved(dataset, folder)
        kept = {key(row) for row in read(rows)}
        one_pass, as_host = ProxyTrainer.build_optimizer, ProxyTrainer.__mro__[1].build_optimizer
        for seed in range(options.seeds):
            for swaps in VARIANTS:
                for how in (PLAIN, *LEVERS):
                    if (" ".join(swaps), seed, how) in kept or (how in options.without):
                        continue
                    ProxyTrainer.build_optimizer = as_host if how == PLAIN else one_pass
                    recipe = make_recipe(
                        init="baseline" if options.init else "scratch", epochs=options.epochs, imgsz=options.imgsz,
                        batch=options.batch, base_epochs=None, device="cpu", amp="bf16" if how == "bf16" else False,
                    )  # fmt: skip
                    job = replace(_job(swaps, recipe, data, dataset.fingerprint), seed=seed, init=options.init)
                    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
                        result = train(job, 1, _unheard)
                    last, average = result.curve[-1].validation, result.average
                    assert last
                    assert average
                    row = {"swaps": " ".join(swaps), "seed": seed, "how": how, "cpu": result.cpu_seconds}
                    row |= {"map": last.map, "map50": last.map50, "val_loss": last.loss, "average": average.map}
                    with open(rows, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    print(json.dumps(row), file=sys.stderr, flush=True)


def _unheard(_score: object) -> None:
    """Take an epoch's score; the result holds it."""


def _job(swaps: tuple[str, ...], recipe: Any, data: Path, fingerprint: str) -> Any:
    from nas.model.render import render
    from nas.space.variant import parse_swaps
    from nas.training.jobs import ProxyJob

    v = parse_swaps("yolov8", "n", swaps)
    return ProxyJob(v.name, render(v).yaml, "yolov8", "n", v.swaps, str(data), fingerprint, recipe, 0)


def key(row: dict[str, Any]) -> tuple[str, int, str]:
    """Return which training a row is of."""
    return row["swaps"], row["seed"], row["how"]


def read(rows: Path) -> list[dict[str, Any]]:
    """Return the rows so far."""
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []


def pairs(rows: list[dict[str, Any]], lever: str, what: str) -> Iterator[tuple[float, float]]:
    """Give, for each variant and seed, a figure with the lever and without."""
    by_key = {key(row): row for row in rows}
    for row in rows:
        other = by_key.get((row["swaps"], row["seed"], AGAINST[lever]))
        if row["how"] == lever and other:
            yield row[what], other[what]


def report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    from scipy import stats

    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "ultralytics", "swapnas"))
    start = "a trained baseline" if options.init else "scratch"
    print("# What each lever does to a proxy's result\n")
    print("    python benchmarks/proxy_levers.py --data bccd/data.yaml --init trained.pt --rows rows.jsonl\n")
    print(f"{datetime.date.today()}, {versions}. YOLOv8n from {start}, {options.epochs} epochs at")
    print(f"{options.imgsz} px, batch {options.batch}, one thread; pairs are of one variant under one seed. The")
    print("difference is with the lever less without, with its 95 % interval.\n")
    print("| lever | pairs | CPU time, median ratio |" + "".join(f" {text} |" for text in SCORES.values()))
    print("|---|---:|---:|" + "---:|" * len(SCORES))
    for lever, text in LEVERS.items():
        times = [a / b for a, b in pairs(rows, lever, "cpu")]
        if len(times) < 2:
            continue
        half = stats.t.ppf(0.975, len(times) - 1) / math.sqrt(len(times))
        cells = []
        for score in SCORES:
            differences = [a - b for a, b in pairs(rows, lever, score)]
            cells.append(f" {statistics.mean(differences):+.4f} ± {half * statistics.stdev(differences):.4f} |")
        print(f"| {text} | {len(times)} | {statistics.median(times):.2f} |" + "".join(cells))


def main() -> None:
    """Measure what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="A data.yaml.")
    parser.add_argument(
        "--init", help="A file of named tensors, as in studies/weights/, to train from. Default: scratch."
    )
    parser.add_argument("--rows", type=Path, required=True, help="Where rows are kept.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--without", nargs="*", default=[], choices=(PLAIN, *LEVERS), help="What is not trained.")
    options = parser.parse_args()
    measure(options, options.rows)
    report(options, read(options.rows))


if __name__ == "__main__":
    main()
