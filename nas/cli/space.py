"""`nas space` (search spaces) and `nas import` (a variant from a hand-made model YAML)."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nas.cli.options import JSON, prepare


@click.group()
def space() -> None:
    """List, show, check and create search spaces."""


@space.command("list")
def space_list() -> None:
    """List the spaces that ship with the tool."""
    prepare()
    from nas.report.space_list import print_spaces

    print_spaces()


@space.command("show")
@click.argument("name")
@JSON
def space_show(name: str, as_json: bool) -> None:
    """Show the slots and choices of a space.

    \b
    nas space show seeds
    """
    prepare()
    from nas.report.space_list import print_space

    print_space(name, as_json=as_json)


@space.command("check")
@click.argument("name")
@click.option("--scale", "scales", multiple=True, help="Scale letter; repeat for several. Default: the space's scale.")
@click.option("--all-scales", is_flag=True, help="Check at every scale of the base.")
def space_check(name: str, scales: tuple[str, ...], all_scales: bool) -> None:
    """Prove a space: every choice in every slot builds, runs at two sizes, and keeps the layer's output shape.

    \b
    nas space check my_space.yaml --all-scales
    """
    prepare()
    from nas.report.space_list import print_check

    print_check(name, scales, all_scales=all_scales)


@space.command("init")
@click.option(
    "--base", default="yolov8", show_default=True, help="The architecture, or a file; a wrong name lists all."
)
@click.option("--scale", help="Scale letter. Default: the first of the base.")
@click.option("--module", "modules", multiple=True, metavar="MODULE", help="Only this module; repeat it. Default: all.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write."
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def space_init(base: str, scale: str | None, modules: tuple[str, ...], output: Path, force: bool) -> None:
    """Write a space to start from: every layer of a base, and the modules that fit it.

    \b
    nas space init --base yolo11 -o my.yaml
    nas space init --base yolov8 --scale s --module CARAFE --module DySample -o upsamplers.yaml
    """
    prepare()
    from nas.emit.output import write_files
    from nas.emit.starter_space import starting_space
    from nas.space.space_file import read_space

    text = starting_space(base, scale, modules, output.name)
    made = read_space(text, str(output), output.stem)
    write_files({Path(output.name): text}, output.parent, force=force)
    click.echo(f"wrote {output}: {len(made.slots)} slots, {len(made.active)} of them on, {made.size} variants")
    click.echo(f"Next:  nas space check {output}")


@click.command("import", short_help="Read a hand-made model YAML as a variant.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--base", help="The architecture that it was made from. Default: the most similar one.")
@click.option("--scale", help="Scale letter. Default: the one in the file name, else the first of the base.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write a space of its swaps."
)
@click.option("--partial", is_flag=True, help="Use the rows that can be read, and skip the others.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@JSON
def import_model(
    model: Path, base: str | None, scale: str | None, output: Path | None, partial: bool, force: bool, as_json: bool
) -> None:
    """Read a hand-made Ultralytics model YAML as a variant of a base, to search, cost and emit it.

    Rows that match no registered module are reported with their line numbers; exit code 1 if there are any.

    \b
    nas import yolov8n-from-a-post.yaml -o post.yaml
    nas search post.yaml --data data.yaml
    """
    prepare()
    from nas.emit.output import write_files
    from nas.emit.starter_space import space_of
    from nas.fork.names import renamed
    from nas.space.bases import base_argument, task_of_base
    from nas.space.import_yaml import variant_of_yaml
    from nas.space.model_yaml import read_model_yaml

    given = read_model_yaml(model)
    if given.word:
        click.echo(given.word, err=True)
    found = variant_of_yaml(given, scale, base)
    variant = found.variant
    complete = partial or not found.left_out
    if output and complete and not variant.is_baseline:
        write_files({Path(output.name): space_of(variant, output.name)}, output.parent, force=force)
    if as_json:
        body = {
            "base": variant.base,
            "scale": variant.scale,
            "name": variant.name,
            "swaps": dict(variant.swaps),
            "left_out": [{"line": line, "what": text} for line, text in found.left_out],
        }
        click.echo(json.dumps(body, indent=2))
    else:
        what = "the stock model" if variant.is_baseline else variant.describe()
        click.echo(f"{model} is {variant.name}: {what}{', and more that cannot be read' * bool(found.left_out)}")
        if not variant.is_baseline and complete:
            swaps = " ".join(f"--swap '{slot}={label}'" for slot, label in variant.swaps)
            scale_option = f" --scale {variant.scale}" if variant.scale else ""
            click.echo(f"Next:  nas emit-yaml --base {base_argument(variant.base)}{scale_option} {swaps} -o out/")
        if output and complete and not variant.is_baseline:
            data = task_of_base(variant.base).data_file
            click.echo(f"wrote {output}\nNext:  nas search {output} --data path/to/{data}")
    if said := renamed(variant.added):
        click.echo(said, err=True)
    for line, text in found.left_out:
        click.echo(f"{'left out: ' if partial else ''}{model}:{line}: {text}", err=True)
    if not complete:
        raise click.exceptions.Exit(1)
