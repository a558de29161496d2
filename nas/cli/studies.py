"""Commands for studies with several workers: `nas worker`, and what `nas studies` has beside its list."""

from __future__ import annotations

from pathlib import Path

import click

from nas.cli.options import JSON, STORAGE, WORKERS, open_study, prepare


@click.command()
@click.option("--study", required=True, help="Name of the study.")
@STORAGE
@WORKERS
@click.option("--data", type=click.Path(), help="The dataset's data.yaml here. Default: where the study says.")
@click.option(
    "--wait",
    type=click.FloatRange(0),
    default=0,
    metavar="MINUTES",
    help="Wait so long for the study to be made, and for its server to answer. Default: not at all.",
)
def worker(study: str, storage: str | None, workers: int | None, data: str | None, wait: float) -> None:
    """Join a study: do what it still asks for, beside whoever works on it, and end when nothing is left.

    Any number of workers can join and leave at any time, on any machine that reaches the storage. See docs/parallel.md
    for Slurm and Kubernetes.

    \b
    nas worker --study blood --storage postgresql://me:secret@db.lab/studies
    """
    cache = prepare()
    from nas.report.console import Progress, make_console
    from nas.session.worker import Joining
    from nas.study.location import locate

    joining = Joining.open(cache, locate(study, storage), data=data, workers=workers or 1, wait=wait)
    with Progress(make_console(stderr=True), joining.study) as progress:
        joining.run(progress)


@click.group(invoke_without_command=True)
@STORAGE
@JSON
@click.pass_context
def studies(ctx: click.Context, storage: str | None, as_json: bool) -> None:
    """List the studies below the current directory, or of one storage."""
    if ctx.invoked_subcommand:
        return
    prepare()
    from nas.report import listing

    listing.print_studies(storage, as_json=as_json)


@studies.command("export")
@click.argument("study")
@STORAGE
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Default: <study>.json.")
def studies_export(study: str, storage: str | None, output: Path | None) -> None:
    """Write what STUDY measured as a table: every training's choices, seed, scores and costs.

    \b
    nas studies export blood -o blood.json
    nas search --replay blood.json
    """
    opened = open_study(study, storage)
    from nas.search.table import export_table, write_table

    path = output or Path(f"{study}.json")
    click.echo(f"{write_table(export_table(opened), path)} trainings written to {path}")


@studies.command("copy")
@click.argument("study")
@STORAGE
@click.option("--to", "target", metavar="URL", help="Where to: sqlite:///PATH or postgresql://… Default: here.")
@click.option("--as", "name", help="Name of the copy. Default: the same.")
def studies_copy(study: str, storage: str | None, target: str | None, name: str | None) -> None:
    """Copy STUDY to another storage, or under another name; the search goes on there as it would have here.

    \b
    nas studies copy blood --to postgresql://me:secret@db.lab/studies
    nas studies copy blood --storage postgresql://me:secret@db.lab/studies
    """
    opened = open_study(study, storage)
    from nas.study.catalog import copy_study
    from nas.study.location import locate

    copy = copy_study(opened, locate(name or study, target))
    click.echo(f"{len(copy.runs())} runs copied to {copy.location.shown}, as {copy.location.name}")
    click.echo(f"trained weights are not in a storage; they stay in {opened.location.weights}", err=True)
