"""`nas studies`: list, export and copy them."""

from __future__ import annotations

from pathlib import Path

import click

from nas.cli.options import JSON, STORAGE, open_study, prepare


@click.group(invoke_without_command=True, short_help="List, export or copy studies.")
@STORAGE
@JSON
@click.pass_context
def studies(ctx: click.Context, storage: str | None, as_json: bool) -> None:
    """List the studies below the current directory, or of one storage."""
    if ctx.invoked_subcommand:
        return
    prepare()
    from nas.report.study_list import print_studies

    print_studies(storage, as_json=as_json)


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
    """Copy STUDY to another storage, or to another name; the search can be resumed there.

    \b
    nas studies copy blood --to postgresql://me@db.lab/studies
    nas studies copy blood --storage postgresql://me@db.lab/studies
    """
    opened = open_study(study, storage)
    from nas.study.catalog import copy_study
    from nas.study.location import locate

    copy = copy_study(opened, locate(name or study, target))
    click.echo(f"{len(copy.every_run())} runs copied to {copy.location.shown}, as {copy.location.name}")
    click.echo(f"trained weights are not in a storage; they stay in {opened.location.weights}", err=True)
