"""The command line. A command parses, calls one function and prints; heavy imports wait for their command.

Results go to stdout, progress and warnings to stderr. Exit code 0 is success, 1 a known failure, 2 wrong usage.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from nas.cli.calibrate import bank, calibrate
from nas.cli.emit import emit_yaml
from nas.cli.options import (
    BANK_EPOCHS,
    BASE_EPOCHS,
    BASELINES,
    CONFIRM,
    ETA,
    JSON,
    MODULES,
    PRECISION,
    RUNGS,
    SEEDS,
    STORAGE,
    WEIGHTS,
    WORKERS,
    load_own,
    prepare,
)
from nas.cli.rank import effects, print_ranking, rank
from nas.cli.space import import_model, space_init
from nas.cli.studies import studies, worker
from nas.errors import NasError
from nas.samplers import AUTO, DEFAULT, SAMPLERS
from nas.study import OBJECTIVES
from nas.version import __version__

if TYPE_CHECKING:
    from nas.study.study import Study


class _Group(click.Group):
    """Turns known failures into one message and exit code 1; a traceback only with --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (NasError, KeyboardInterrupt) as error:
            if ctx.params.get("debug"):
                raise
            if isinstance(error, KeyboardInterrupt):
                stored = (
                    "; what was finished is stored"
                    if ctx.invoked_subcommand in ("search", "worker", "calibrate")
                    else ""
                )
                click.echo(f"stopped{stored}", err=True)
            else:
                click.echo(f"error: {error}", err=True)
            ctx.exit(130 if isinstance(error, KeyboardInterrupt) else 1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="nas")
@click.option("--debug", is_flag=True, help="Show tracebacks of failures.")
def cli(debug: bool) -> None:
    """Measured search over YOLO module swaps: which are worth it on your data, and the files to train the winner.

    Start with `nas search`: it needs no data and takes a few minutes.
    """
    if debug:
        os.environ["NAS_DEBUG"] = "1"


cli.add_command(calibrate)
cli.add_command(bank)
cli.add_command(emit_yaml)
cli.add_command(import_model)
cli.add_command(rank)
cli.add_command(effects)
cli.add_command(worker)
cli.add_command(studies)


def main() -> NoReturn:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):  # a console that cannot show a sign shows another one
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    cli.main(prog_name="nas")
    sys.exit(0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@cli.command()
@click.argument("space", required=False)
@click.option("--study", help="Name of the study; an existing one is resumed. Default: the space's name.")
@click.option("--data", type=click.Path(), help="The dataset's data.yaml. Default: built-in demo data.")
@click.option(
    "--trials",
    type=click.IntRange(1),
    help="Variants to train, the baseline included; for a study that has trials: further ones. Default: the baseline "
    "and every swap alone, 40 at most; for a study that has trials: what is left of those asked for.",
)
@SEEDS
@CONFIRM
@BASELINES
@click.option(
    "--epochs",
    type=click.IntRange(0),
    help="Epochs of a proxy; 0 only validates. Default: 4, for the demo data 2; 8 without a bank.",
)
@click.option("--imgsz", type=click.IntRange(32), help="Image side in pixels. Default: 160, for the demo data 128.")
@RUNGS
@ETA
@click.option("--batch", type=click.IntRange(1), help="Images a step. Default: 16.")
@click.option("--scale", help="Scale letter (n, s, m, l, x). Default: the space's.")
@click.option(
    "--proxy",
    metavar="CALIBRATION",
    help="Take the proxy that `nas calibrate` found: its name, its folder, or its file.",
)
@click.option(
    "--init",
    help="What variants inherit: bank (default: swaps distilled from a baseline), baseline, scratch, or a .pt file.",
)
@WEIGHTS
@BASE_EPOCHS
@BANK_EPOCHS
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Of training and sampling; repeats a search on a CPU bit for bit. Default: 0.",
)
@click.option(
    "--floor",
    type=click.FloatRange(0, 1),
    help="mAP50-95 that a variant may lose before it ranks below all others. Default: 0.02.",
)
@click.option("--enable", multiple=True, metavar="SLOT", help="Switch on a slot that the space has off; globs work.")
@click.option("--max-gflops", type=click.FloatRange(0, min_open=True), help="Train no variant above this (at 640 px).")
@click.option("--max-params", type=click.FloatRange(0, min_open=True), help="Train no variant with more parameters.")
@click.option(
    "--max-latency",
    type=click.FloatRange(0, min_open=True),
    metavar="MS",
    help="Train no variant that takes longer for one image here.",
)
@click.option("--min-map", type=click.FloatRange(0, 1), help="Rank variants with less mAP50-95 below all others.")
@click.option(
    "--objective",
    type=click.Choice(tuple(OBJECTIVES)),
    help="What is looked for, and what the ranking is ordered by. Default: map_per_gflop.",
)
@click.option(
    "--sampler",
    type=click.Choice((AUTO, *SAMPLERS)),
    help="How the next variant is chosen (docs/samplers.md): "
    + "; ".join(f"{name}, {sampler.help}" for name, sampler in SAMPLERS.items())
    + f". Default: {AUTO}, which is {DEFAULT}.",
)
@click.option("--latency", is_flag=True, help="Measure latencies, for the ranking, though nothing else asks for them.")
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False),
    metavar="TABLE",
    help="Train nothing: take scores from a table that `nas studies export` wrote.",
)
@click.option("--device", help="cpu, or a GPU's number. Default: a GPU if there is one.")
@WORKERS
@PRECISION
@STORAGE
@JSON
def search(as_json: bool, **options: Any) -> None:
    """Search SPACE: train short proxies of its variants, rank them by mAP per GFLOP, and confirm the first.

    SPACE is a file, or one that ships with the tool (`nas space list`).

    \b
    nas search                                              a first look, on demo data, in minutes
    nas search seeds --data data.yaml --trials 40 --study blood
    nas search --study blood --trials 20                    20 more
    nas search --replay blood.json --sampler tpe            the same search by another sampler, in seconds
    nas search --study blood --confirm 5:5                  five seeds each for the first five
    nas search full --data data.yaml --rungs 0,2 --epochs 8 --trials 200
    """
    cache = prepare()
    study = _replayed(options) if options["replay"] else _searched(cache, options)
    print_ranking(study, as_json=as_json, as_csv=False, conclude=True)


def _searched(cache: Path, options: dict[str, Any]) -> Study:
    """Search by training, and return the study."""
    from nas.workers.process import trainers_of

    with trainers_of(cache, options["workers"] or 1) as trainers:  # first: they import while this process does
        from nas.report.console import Progress, make_console
        from nas.session.search import Session

        session = Session.open(cache, **options)
        with session.study.locked(), Progress(make_console(stderr=True), session.study) as progress:
            session.run(progress, trainers)
    return session.study


def _replayed(options: dict[str, Any]) -> Study:
    """Search a table of what was measured, and return the study."""
    from nas.report.console import Progress, make_console
    from nas.session.replay import ReplaySession

    session = ReplaySession.open(**options)
    with session.study.locked(), Progress(make_console(stderr=True), session.study) as progress:
        session.run(progress)
    return session.study


@cli.command()
@click.argument("module", required=False)
@MODULES
@JSON
def ops(module: str | None, module_files: tuple[Path, ...], as_json: bool) -> None:
    """List the modules that can be swapped in or inserted, by kind of slot, or show MODULE in full.

    \b
    nas ops CARAFE
    nas ops --modules my_block.py
    """
    prepare()
    load_own(module_files)
    from nas.report import listing

    listing.print_modules(module, as_json=as_json)


@cli.group()
def space() -> None:
    """Look at search spaces, and prove them before a search."""


space.add_command(space_init)


@space.command("list")
def space_list() -> None:
    """List the spaces that ship with the tool."""
    prepare()
    from nas.report import listing

    listing.print_spaces()


@space.command("show")
@click.argument("name")
@JSON
def space_show(name: str, as_json: bool) -> None:
    """Show the slots and choices of a space.

    \b
    nas space show seeds
    """
    prepare()
    from nas.report import listing

    listing.print_space(name, as_json=as_json)


@space.command("check")
@click.argument("name")
@click.option("--scale", "scales", multiple=True, help="Scale letter; repeat. Default: the space's own.")
@click.option("--all-scales", is_flag=True, help="Check at every scale of the base.")
def space_check(name: str, scales: tuple[str, ...], all_scales: bool) -> None:
    """Prove a space: every choice in every slot builds, runs at two sizes, and keeps the layer's output shape.

    \b
    nas space check my_space.yaml --all-scales
    """
    prepare()
    from nas.report.listing import print_check

    print_check(name, scales, all_scales=all_scales)


@cli.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--latency", is_flag=True, help="Measure also how long one image takes on this machine.")
@click.option(
    "--imgsz", type=click.IntRange(32), default=640, help="Image side in pixels, of the latency. Default: 640."
)
@click.option("--device", default="cpu", help="cpu, or a GPU's number, for the latency. Default: cpu.")
@MODULES
@JSON
def cost(model: Path, latency: bool, imgsz: int, device: str, module_files: tuple[Path, ...], as_json: bool) -> None:
    """Print what a model YAML costs, what the stock counter would have said, and what nobody counts.

    \b
    nas cost out/yolov8n-1a2b3c4d.yaml
    nas cost my_model_yolov8n.yaml --modules my_block.py
    nas cost out/yolov8n-1a2b3c4d.yaml --latency --imgsz 320
    """
    cache = prepare()
    load_own(module_files)
    from nas.report import listing

    listing.print_cost(model, as_json=as_json, timed=(cache / "latency", device, imgsz) if latency else None)


@cli.command()
@JSON
def doctor(as_json: bool) -> None:
    """Print what a bug report needs: versions, devices, whether kernels compile, where files go, the host's anchors."""
    prepare()
    from nas.report.doctor import print_report

    print_report(as_json=as_json)
