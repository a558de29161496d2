"""`nas report`: the result of a study as one page, or in parts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from nas.cli.options import STORAGE, TRUST, open_study


@click.command(short_help="Write the report of a study: one HTML page.")
@click.argument("studies", nargs=-1, required=True, metavar="STUDY...")
@STORAGE
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The file. Default: <study>-report.html.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("html", "md", "json", "png")),
    default="html",
    show_default=True,
    help="html: the whole report. md, json: its words and numbers. png: a picture of each figure, drawn by Chromium or "
    "Chrome if one is installed.",
)
@click.option(
    "--pictures/--no-pictures",
    default=True,
    help="Let the baseline and the winner detect on validation images, and show those on which they differ most, with "
    "heat maps; where the study has weights of both. On a CPU this takes a while. Default: on for html and png.",
)
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@TRUST
def report(
    studies: tuple[str, ...], storage: str | None, output: Path | None, form: str, pictures: bool, force: bool
) -> None:
    """Write the report of STUDY: answer, forest plot, front, heat map, learning curves, bank, calibration, tables.

    With full trainings (`nas train`) it has their ranking too, and with weights pictures of detections.

    The page is one file that needs no server and no network. Several studies are put side by side. A study that is
    running can be reported too: the page is a snapshot of it.

    \b
    nas report blood -o report.html
    nas report blood blood-2
    nas report blood --format md -o blood.md
    """
    from nas.html.forms import DRAWN, write_report
    from nas.html.source import read_sources

    sources, problems = read_sources(
        [partial(open_study, name, storage) for name in studies],
        pictures=pictures and form in DRAWN and len(studies) == 1,
        note=partial(click.echo, err=True),
    )
    for problem in problems:
        click.echo(f"warning: {problem}", err=True)
    files = write_report(sources, output, form, force=force)
    for source in sources:
        for problem in source.problems:
            click.echo(f"warning: {problem}", err=True)
    click.echo(f"written: {', '.join(map(str, files))}")
