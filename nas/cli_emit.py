"""The command that writes a variant into someone else's tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nas.cli_shared import JSON, STORAGE, open_study, prepare

if TYPE_CHECKING:
    from nas.render import ModelFiles
    from nas.variant import Variant


@click.command("emit-yaml")
@click.option("--study", help="Take the variant from this study.")
@click.option("--best", is_flag=True, help="The first of the study's ranking (the default).")
@click.option("--trial", type=int, help="The study's trial of this number.")
@click.option("--front", is_flag=True, help="All on the study's Pareto front of mAP and GFLOPs, but the baseline.")
@click.option("--all", "everything", is_flag=True, help="All variants that the study has finished, but the baseline.")
@click.option(
    "--swap", "swaps", multiple=True, metavar="SLOT=CHOICE", help="Without a study: make this swap; globs work; repeat."
)
@click.option("--base", help="Without a study: the base. Default: yolov8.")
@click.option("--scale", metavar="LETTER[,LETTER]", help="Scales, a variant each. Default: the study's, or n.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("out"), show_default=True
)
@click.option(
    "--form",
    "forms",
    default="yaml,snippet,plugin",
    show_default=True,
    metavar="FORM[,FORM]",
    help="yaml, snippet (to paste into tasks.py), plugin (a script that trains with this tool), bundle (a folder that "
    "trains without it), patch (a diff against Ultralytics).",
)
@click.option(
    "--ultralytics",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The tree that a patch is for: a checkout or package folder. Default: the installed one.",
)
@click.option(
    "--apply", "apply_to", type=click.Path(path_type=Path), metavar="PATH", help="Apply the patch to this tree instead."
)
@click.option(
    "--revert", type=click.Path(path_type=Path), metavar="PATH", help="Take what --apply did out of this tree again."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@STORAGE
@JSON
def emit_yaml(as_json: bool, **options: Any) -> None:
    """Write a variant's files: model YAML, how to register its modules, a script that trains it, or all in a bundle.

    \b
    nas emit-yaml --study blood --best -o out/
    nas emit-yaml --study blood --form bundle -o out/
    nas emit-yaml --study blood --front --scale n,s --form yaml -o out/
    nas emit-yaml --study blood --form yaml,patch --ultralytics ~/src/ultralytics -o out/
    nas emit-yaml --swap neck.up_p4=CARAFE --swap 'neck.c2f_*=C2f_DCNv4' --scale s -o out/
    """
    if options["revert"]:
        return _revert(options, as_json)
    _check(options)
    prepare()
    from nas import emit

    forms = [form.strip() for form in options["forms"].split(",") if form.strip()]
    unknown = [form for form in forms if form not in emit.FORMS]
    if unknown or not forms:
        raise click.UsageError(f"--form {options['forms']}: expected some of {', '.join(emit.FORMS)}")
    if options["apply_to"] and forms != ["patch"]:
        raise click.UsageError("--apply writes into a tree: give --form patch, and nothing else")
    if options["ultralytics"] and "patch" not in forms:
        raise click.UsageError("--ultralytics names the tree of a patch: give --form patch")
    chosen = _chosen(options)
    if options["apply_to"]:
        # Modules do not depend on the scale, and one tree takes those of several variants.
        paths = [p for v, f in chosen for p in emit.apply_patch(v, f, options["apply_to"], dry_run=options["dry_run"])]
        paths = list(dict.fromkeys(paths))
    else:
        if "patch" in forms and len({tuple(variant.registered) for variant, _ in chosen}) > 1:
            raise click.UsageError("patches of several variants exclude each other; --apply makes one edit for all")
        texts: dict[Path, str] = {}
        for variant, files in chosen:
            # Scales share their modules, and so one patch.
            own = [form for form in dict.fromkeys(forms) if form != "patch" or variant is chosen[0][0]]
            texts |= emit.texts_of(variant, files, own, options["ultralytics"])
        paths = emit.write(texts, options["output"], force=options["force"], dry_run=options["dry_run"])
    names = ", ".join(files.name for _, files in chosen)
    _say(paths, "would write" if options["dry_run"] else "wrote", options["dry_run"], as_json, names)
    script = next((path for path in reversed(paths) if path.name.endswith("train.py")), None)
    if script and not options["dry_run"] and not as_json:
        click.echo(f"Next:  python {script} --data path/to/data.yaml --epochs 100")
    return None


def _check(options: dict[str, Any]) -> None:
    """Refuse options that contradict each other."""
    if bool(options["study"]) == bool(options["swaps"]):
        raise click.UsageError("give either --study NAME or --swap SLOT=CHOICE")
    which = [f"--{key}" for key in ("best", "front") if options[key]]
    which += ["--all"] * options["everything"] + ["--trial"] * (options["trial"] is not None)
    if options["swaps"] and which:
        raise click.UsageError(f"{which[0]} chooses from a study: give --study NAME")
    if len(which) > 1:
        raise click.UsageError(f"give one of {', '.join(which)}")
    if options["study"] and options["base"]:
        raise click.UsageError("--base goes with --swap; a study knows its base")


def _revert(options: dict[str, Any], as_json: bool) -> None:
    """Take a patch out of a tree."""
    if options["study"] or options["swaps"] or options["apply_to"]:
        raise click.UsageError("--revert takes out whatever was applied: give no variant")
    prepare()
    from nas import emit

    paths = emit.revert_patch(options["revert"], dry_run=options["dry_run"])
    _say(paths, "would restore" if options["dry_run"] else "restored", options["dry_run"], as_json, "")


def _say(paths: list[Path], verb: str, dry_run: bool, as_json: bool, name: str) -> None:
    """Print what was written, or would be."""
    if as_json:
        click.echo(json.dumps({"name": name, "written": not dry_run, "files": [str(p) for p in paths]}))
        return
    for path in paths:
        click.echo(f"{verb} {path}")
    if not paths:
        click.echo("nothing to change")


def _chosen(options: dict[str, Any]) -> list[tuple[Variant, ModelFiles]]:
    """Return the variants that the options ask for, and their files."""
    from nas import emit
    from nas.variant import parse_swaps

    scales = [scale.strip() for scale in (options["scale"] or "").split(",") if scale.strip()]
    if options["swaps"]:
        variants = [parse_swaps(options["base"] or "yolov8", scale, options["swaps"]) for scale in scales or ["n"]]
        return [(variant, emit.files_of_variant(variant)) for variant in variants]
    which: emit.Which = "front" if options["front"] else "all" if options["everything"] else "best"
    study = open_study(options["study"], options["storage"])
    chosen = []
    for trial in emit.chosen_trials(study, number=options["trial"], which=which):
        for scale in scales or [trial.variant.scale]:
            if scale == trial.variant.scale:
                chosen.append((trial.variant, emit.files_of_trial(trial)))
            else:
                variant = trial.variant.with_scale(scale)
                chosen.append((variant, emit.files_of_variant(variant)))
    return chosen
