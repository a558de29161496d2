"""`nas search` and `nas worker`: the commands that train a study's trials."""

from __future__ import annotations

from typing import Any

import click

from nas.cli.options import (
    BANK_EPOCHS,
    BASE_EPOCHS,
    BASELINES,
    BUDGET,
    BUDGET_GFLOPS,
    BUDGET_LATENCY,
    BUDGET_PARAMS,
    CONFIRM,
    DATA,
    DEVICE,
    ENABLE,
    ETA,
    JSON,
    PRECISION,
    RUNGS,
    SCALE,
    SEEDS,
    STORAGE,
    TARGET_IMGSZ,
    TRUST,
    WEIGHTS,
    WINDOW,
    WORKERS,
    YARDSTICK,
    prepare,
)
from nas.cli.rank import print_ranking
from nas.engines import ENGINES
from nas.samplers import AUTO, BUDGETED, DEFAULT, SAMPLERS
from nas.study import OBJECTIVES


@click.command(short_help="Search a space: train proxies, rank, confirm.")
@click.argument("space", required=False)
@click.option("--study", help="Name of the study; an existing one is resumed. Default: the name of the space.")
@DATA
@click.option(
    "--trials",
    type=click.IntRange(1),
    help="Number of variants to train, including the baseline; for a study that has trials, the number of further "
    "ones. Default: the baseline and every single swap, at most 40; for a study that has trials, what is left of the "
    "last request.",
)
@BUDGET
@SEEDS
@CONFIRM
@BASELINES
@click.option(
    "--epochs",
    type=click.IntRange(0),
    help="Epochs of a proxy training; 0 only validates. Default: 4 (demo data: 2); 8 without a bank.",
)
@TARGET_IMGSZ
@click.option(
    "--imgsz",
    type=click.IntRange(32),
    help="Image size of the proxy in pixels. Default: on a CPU the cheapest that does for the target, which may be "
    "windows; on a GPU the target's (demo data: 160).",
)
@WINDOW
@RUNGS
@ETA
@click.option("--batch", type=click.IntRange(1), help="Batch size. Default: 16 (demo data: 8).")
@SCALE
@click.option(
    "--proxy",
    metavar="CALIBRATION",
    help="Use the proxy that `nas calibrate` selected: name, folder or file of the calibration.",
)
@click.option(
    "--init",
    help="Initial weights of variants: bank (swapped layers distilled from a trained baseline; the default), baseline, "
    "scratch, or a .pt file.",
)
@WEIGHTS
@BASE_EPOCHS
@BANK_EPOCHS
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Random seed of training and sampling; with --workers 1 the same seed repeats a search on a CPU bit for bit. "
    "Default: 0.",
)
@click.option(
    "--floor",
    type=click.FloatRange(0, 1),
    help="Largest loss of mAP50-95; variants that lose more rank below all others. Default: 0.02.",
)
@YARDSTICK
@ENABLE
@click.option("--max-gflops", type=click.FloatRange(0, min_open=True), help="Skip variants above this (at 640 px).")
@click.option("--max-params", type=click.FloatRange(0, min_open=True), help="Skip variants with more parameters.")
@click.option(
    "--max-latency",
    type=click.FloatRange(0, min_open=True),
    metavar="MS",
    help="Skip variants whose latency for one image on this machine is higher.",
)
@click.option("--min-map", type=click.FloatRange(0, 1), help="Rank variants with less mAP50-95 below all others.")
@click.option(
    "--objective",
    type=click.Choice(tuple(OBJECTIVES)),
    help="What the search maximises and the ranking is ordered by. Default: map_per_gflop.",
)
@BUDGET_GFLOPS
@BUDGET_PARAMS
@BUDGET_LATENCY
@click.option(
    "--sampler",
    type=click.Choice((AUTO, *SAMPLERS)),
    help="How the next variant is chosen (docs/samplers.md): "
    + "; ".join(f"{name}, {sampler.help}" for name, sampler in SAMPLERS.items())
    + f". Default: {AUTO}, which is {DEFAULT}, and {BUDGETED} with budgets.",
)
@click.option(
    "--latency",
    type=click.Choice(tuple(ENGINES)),
    is_flag=False,
    flag_value="pytorch",
    metavar="[ENGINE]",
    help="Also measure latency and show it in the ranking; limits, budgets and objectives of latency are of this "
    f"engine: {', '.join(ENGINES)}. Default: pytorch. Give SPACE before it.",
)
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False),
    metavar="TABLE",
    help="Train nothing: look scores up in a table that `nas studies export` wrote.",
)
@DEVICE
@WORKERS
@PRECISION
@TRUST
@STORAGE
@JSON
def search(as_json: bool, **given: Any) -> None:
    """Search SPACE: train short proxies of its variants, rank them by mAP per GFLOP, and confirm the best.

    SPACE is a file, or one that ships with the tool (`nas space list`).

    \b
    nas search                                              a first look, on demo data, in minutes
    nas search seeds --data data.yaml --trials 40 --study blood
    nas search --study blood --trials 20                    20 more
    nas search seeds --data data.yaml --budget 60           what fits into about an hour
    nas search light --data data.yaml --budget-gflops -10%,-20%,-30%
    nas search --replay blood.json --sampler tpe            the same search by another sampler, in seconds
    nas search --study blood --confirm 5:5                  five seeds for each of the best five
    nas search --study blood --yardstick front              the pruned baseline at the GFLOPs of each of the front
    nas search full --data data.yaml --rungs 0,2 --epochs 8 --trials 200
    """
    cache = prepare()
    from nas.api import replayed, searched
    from nas.session.options import SearchOptions

    options = SearchOptions(**given)
    study = replayed(options) if options.replay else searched(cache, options)
    print_ranking(study, as_json=as_json, as_csv=False, conclude=True)


@click.command(short_help="Join a running search, on any machine.")
@click.option("--study", required=True, help="Name of the study.")
@TRUST
@STORAGE
@WORKERS
@click.option("--data", type=click.Path(), help="data.yaml of the dataset on this machine. Default: the study's path.")
@click.option(
    "--wait",
    type=click.FloatRange(0),
    default=0,
    metavar="MINUTES",
    help="Wait up to MINUTES for the study to be created and the server to respond. Default: 0.",
)
def worker(study: str, storage: str | None, workers: int | None, data: str | None, wait: float) -> None:
    """Join a study: run its remaining trials in parallel with its other workers, and exit when none is left.

    Any number of workers can join and leave at any time, on any machine that reaches the storage. See docs/parallel.md
    for Slurm and Kubernetes.

    \b
    nas worker --study blood --storage postgresql://me@db.lab/studies
    """
    cache = prepare()
    from nas.report.console import make_console
    from nas.report.progress import Progress
    from nas.session.worker import Joining
    from nas.study.location import locate

    joining = Joining.open(cache, locate(study, storage), data=data, workers=workers, wait=wait)
    with Progress(make_console(stderr=True), joining.study) as progress:
        joining.run(progress)
