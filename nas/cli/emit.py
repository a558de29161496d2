"""`nas emit-yaml`: write the files of variants."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nas.cli.options import JSON, MODULES, STORAGE, TRUST, load_own, open_study, prepare
from nas.emit.forms import DEFAULT, FORMS, texts_of

if TYPE_CHECKING:
    from nas.emit.pretrained import Pretrained
    from nas.model.render import ModelFiles
    from nas.space.variant import Variant
    from nas.study.study import Study
    from nas.study.trial import Trial


@dataclass(frozen=True)
class EmitOptions:
    """The options of ``nas emit-yaml``; its help says what each means."""

    study: str | None
    best: bool
    trial: int | None
    variants: tuple[str, ...]
    front: bool
    everything: bool
    swaps: tuple[str, ...]
    module_files: tuple[Path, ...]
    space: str | None
    sample: int | None
    seed: int | None
    base: str | None
    scale: str | None
    output: Path
    forms: str
    weights: Path | None
    ultralytics: str | None
    apply_to: Path | None
    revert: Path | None
    without_proof: bool
    dry_run: bool
    force: bool
    storage: str | None


@click.command("emit-yaml", short_help="Write the files of a variant.")
@click.option("--study", help="Take the variant from this study.")
@click.option(
    "--best", is_flag=True, help="The winner of the study: its first confirmed variant, if there is one (the default)."
)
@click.option("--trial", type=int, help="The trial with this number.")
@click.option("--variant", "variants", multiple=True, metavar="ID", help="The variant with this ID; repeatable.")
@click.option("--front", is_flag=True, help="All variants on the Pareto front of mAP and GFLOPs, without the baseline.")
@click.option("--all", "everything", is_flag=True, help="All finished variants of the study, without the baseline.")
@click.option(
    "--swap",
    "swaps",
    multiple=True,
    metavar="SLOT=CHOICE",
    help="Without a study: a swap to make; globs work; repeat it.",
)
@MODULES
@click.option("--space", metavar="NAME", help="Draw random variants of this space: one that ships, or a .yaml file.")
@click.option(
    "--sample",
    type=click.IntRange(1),
    metavar="N",
    help="Number of random variants of --space, without the baseline.",
)
@click.option("--seed", type=click.IntRange(0), help="Random seed of the draw from --space. Default: 0.")
@click.option("--base", help="Base architecture of --swap. Default: yolov8.")
@click.option(
    "--scale",
    metavar="LETTER[,LETTER]",
    help="Scale letters, one variant each. Default: the scale of the study or space, or the first of the base.",
)
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("out"), show_default=True
)
@click.option(
    "--form",
    "forms",
    default=",".join(DEFAULT),
    show_default=True,
    metavar="FORM[,FORM]",
    help=", ".join(f"{form.name} ({form.help})" for form in FORMS.values()) + ".",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE.pt|bank|trained",
    help="Also write a .pt: with the tensors of this stock checkpoint, copied by layer name; or of a study, bank (its "
    "trained baseline with the distilled swaps) or trained (the best full training by `nas train`).",
)
@click.option(
    "--ultralytics",
    metavar="PATH",
    help="The source tree that a patch or snippet is for: a checkout or a package folder. Default: the installed one.",
)
@click.option(
    "--apply", "apply_to", type=click.Path(path_type=Path), metavar="PATH", help="Apply the patch to this tree instead."
)
@click.option("--revert", type=click.Path(path_type=Path), metavar="PATH", help="Undo --apply in this tree.")
@click.option(
    "--without-proof",
    is_flag=True,
    help="Write a model YAML, snippet or script that has not been built: for an Ultralytics that imports packages "
    "which are not installed here.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@TRUST
@STORAGE
@JSON
def emit_yaml(as_json: bool, **given: Any) -> None:
    """Write a variant's files: model YAML, how to register its modules, a script that trains it, or all in a bundle.

    \b
    nas emit-yaml --study blood --best -o out/
    nas emit-yaml --study blood --form bundle -o out/
    nas emit-yaml --study blood --best --weights yolov8n.pt -o out/
    nas emit-yaml --study blood --front --scale n,s --form yaml -o out/
    nas emit-yaml --study blood --form yaml,patch --ultralytics ~/src/ultralytics -o out/
    nas emit-yaml --swap neck.up_p4=CARAFE --swap 'neck.c2f_*=C2f_DCNv4' --scale s -o out/
    nas emit-yaml --swap neck.up_p4=CARAFE --form yaml,snippet --ultralytics ~/src/ultralytics -o out/
    nas emit-yaml --space seeds --sample 10 --seed 1 --form yaml -o out/

    The YAML of a study's trial is the one that it was trained from, byte for byte. Every other YAML states parameters
    and GFLOPs of all requested scales.
    """
    options = EmitOptions(**given)
    if options.revert:
        return _revert(options, options.revert, as_json)
    _check(options)
    prepare()
    if options.without_proof:
        from nas.fork.missing import missing_packages, stand_in

        stand_in(missing_packages())
        click.echo("not proved: nothing is built, and parameters and GFLOPs are not known", err=True)
    load_own(options.module_files)
    from nas.emit.output import write_files
    from nas.emit.patch import apply_patch
    from nas.fork.names import renamed
    from nas.space.bases import task_of_base

    forms = _forms(options)
    tree = _tree(options.ultralytics)
    chosen = _chosen(options)
    notes: list[dict[str, Any]] = []
    if options.apply_to:
        # Modules do not depend on the scale, and one tree takes those of several variants.
        paths = [p for v, f in chosen for p in apply_patch(v, f, options.apply_to, dry_run=options.dry_run)]
        paths = list(dict.fromkeys(paths))
    else:
        if "patch" in forms and len({variant.added for variant, _ in chosen}) > 1:
            raise click.UsageError("patches of several variants exclude each other; --apply makes one edit for all")
        texts: dict[Path, str | bytes] = {}
        for variant, files in chosen:
            # Scales share their modules, and so one patch.
            own = [form for form in forms if form != "patch" or variant is chosen[0][0]]
            weights = _pretrained(variant, files, options, notes)
            texts |= texts_of(variant, files, own, tree, weights)
        paths = write_files(texts, options.output, force=options.force, dry_run=options.dry_run)
    names = ", ".join(files.name for _, files in chosen)
    if said := renamed(sorted({module for variant, _ in chosen for module in variant.added})):
        click.echo(said, err=True)
    _say(paths, "would write" if options.dry_run else "wrote", options.dry_run, as_json, names, notes)
    script = next((path for path in reversed(paths) if path.name.endswith("train.py")), None)
    if script and not options.dry_run and not as_json:
        data = task_of_base(chosen[0][0].base).data_file
        start = f" --weights {script.parent / notes[-1]['name']}" if notes else ""
        click.echo(f"Next:  python {script} --data path/to/{data} --epochs 100{start}")
    return None


def _check(options: EmitOptions) -> None:
    """Refuse options that contradict each other."""
    sources = [bool(source) for source in (options.study, options.swaps, options.space)]
    if sum(sources) != 1:
        raise click.UsageError("give one of --study NAME, --swap SLOT=CHOICE and --space NAME")
    which = ["--best"] * options.best + ["--front"] * options.front + ["--variant"] * bool(options.variants)
    which += ["--all"] * options.everything + ["--trial"] * (options.trial is not None)
    if not options.study and which:
        raise click.UsageError(f"{which[0]} chooses from a study: give --study NAME")
    if len(which) > 1:
        raise click.UsageError(f"give one of {', '.join(which)}")
    if options.base and not options.swaps:
        raise click.UsageError("--base goes with --swap; a study or space knows its base")
    if options.module_files and not options.swaps:
        raise click.UsageError("--modules goes with --swap; a study or space knows its modules")
    if options.space and options.sample is None:
        raise click.UsageError("--space draws random variants: give --sample N, how many")
    for flag, value in (("--sample", options.sample), ("--seed", options.seed)):
        if value is not None and not options.space:
            raise click.UsageError(f"{flag} goes with --space NAME")
    if options.scale is not None and not _scales(options):
        raise click.UsageError(f"--scale {options.scale!r}: expected letters, such as n or n,s")
    if options.without_proof and (options.weights or options.apply_to or options.ultralytics):
        raise click.UsageError("--without-proof builds nothing: leave --weights, --apply and --ultralytics out")
    if options.weights and options.apply_to:
        raise click.UsageError("--apply only edits a tree: --weights goes with forms that are written")
    learnt = options.weights if str(options.weights) in _OF_STUDY else None
    if learnt and not options.study and not learnt.is_file():
        raise click.UsageError(f"--weights {options.weights} are those of a study: give --study NAME")
    if learnt and options.study and _scales(options):
        raise click.UsageError(f"--weights {options.weights} are those of the study's scale: leave --scale out")
    if options.weights and len(set(_scales(options))) > 1:
        raise click.UsageError("--weights are those of one scale: give one --scale")


def _forms(options: EmitOptions) -> list[str]:
    """Return the requested forms, each once."""
    forms = list(dict.fromkeys(form.strip() for form in options.forms.split(",") if form.strip()))
    if not forms or not set(forms) <= set(FORMS):
        raise click.UsageError(f"--form {options.forms}: expected some of {', '.join(FORMS)}")
    if options.apply_to and forms != ["patch"]:
        raise click.UsageError("--apply writes into a tree: give --form patch, and nothing else")
    if options.apply_to and options.ultralytics:
        raise click.UsageError("--apply names the tree: leave --ultralytics out")
    built = [form for form in forms if form in ("bundle", "patch")]
    if options.without_proof and built:
        raise click.UsageError(f"--without-proof builds nothing, and a {built[0]} is always built: leave one out")
    takes_tree = [form.name for form in FORMS.values() if form.takes_tree]
    if options.ultralytics and not set(takes_tree) & set(forms):
        kinds = " or ".join(takes_tree)
        raise click.UsageError(f"--ultralytics names the tree of a {kinds}: give --form {kinds}")
    return forms


def _scales(options: EmitOptions) -> list[str]:
    """Return the requested scale letters."""
    return [scale.strip() for scale in (options.scale or "").split(",") if scale.strip()]


def _tree(given: str | None) -> Path | None:
    """Return the tree that --ultralytics names."""
    if given is None:
        return None
    path = Path(given).expanduser()
    if (release := re.fullmatch(r"v?(\d+\.\d+\.\d+)", given)) and not path.exists():
        name = f"ultralytics-{release[1]}"
        raise click.UsageError(
            f"--ultralytics {given}: give the path of a source tree; this makes one, and installs nothing: "
            f"pip install --no-deps --target {name} ultralytics=={release[1]}"
        )
    return path


def _pretrained(
    variant: Variant, files: ModelFiles, options: EmitOptions, notes: list[dict[str, Any]]
) -> Pretrained | None:
    """Return the weights of a variant if they are requested, and append what they hold to `notes`."""
    path = options.weights
    if path is None:
        return None
    if str(path) in _OF_STUDY and options.study:
        made, origin = _learnt(variant, files, str(path), open_study(options.study, options.storage))
    else:
        from nas.emit.pretrained import pretrained_checkpoint, read_weights
        from nas.space.variant import Variant

        made = pretrained_checkpoint(variant, files, read_weights(path, Variant(variant.base, variant.scale).graph()))
        origin = str(path)
    notes.append({k: v for k, v in vars(made).items() if k != "content"} | {"from": origin})
    return made


_OF_STUDY = ("bank", "trained")
"""Weights that a study has."""


def _learnt(variant: Variant, files: ModelFiles, which: str, study: Study) -> tuple[Pretrained, str]:
    """Return the weights that a study has of a variant, and where they are from."""
    from nas.full.handover import best_run
    from nas.full.models import Model
    from nas.full.start import bank_checkpoint, trained_checkpoint
    from nas.full.store import FullRuns

    model = Model(variant.id, "variant", variant.describe(), files.name, files.yaml, variant, 0, 0.0)
    if which == "bank":
        return bank_checkpoint(study, model), "the trained baseline and the bank"
    run = best_run(study, FullRuns(study.location).read(), variant.id)
    return trained_checkpoint(model, Path(run.weights)), run.weights


def _revert(options: EmitOptions, tree: Path, as_json: bool) -> None:
    """Take a patch out of a tree."""
    if options.study or options.swaps or options.space or options.apply_to or options.weights:
        raise click.UsageError("--revert undoes every applied patch: give no variant")
    prepare()
    from nas.emit.patch import revert_patch

    paths = revert_patch(tree, dry_run=options.dry_run)
    _say(paths, "would restore" if options.dry_run else "restored", options.dry_run, as_json, "", [])


def _say(paths: list[Path], verb: str, dry_run: bool, as_json: bool, name: str, notes: list[dict[str, Any]]) -> None:
    """Print what was written, or would be."""
    if as_json:
        weights = {"weights": notes} if notes else {}
        click.echo(json.dumps({"name": name, "written": not dry_run, "files": [str(p) for p in paths], **weights}))
        return
    for path in paths:
        click.echo(f"{verb} {path}")
    if not paths:
        click.echo("nothing to change")
    for made in notes:
        click.echo(f"{made['name']} keeps {made['kept']} of the {made['given']} tensors of {made['from']}")
        if made["other_nc"]:
            click.echo(f"  its head tells {made['nc']} classes apart, as theirs does; the YAML says another number")
        for key, said in (
            ("distilled", "have distilled tensors of the bank"),
            ("begun", "start near the layer that they replace"),
            ("shared", "have some tensors of the layer that they replace"),
            ("fresh", "have new initial values"),
            ("unmatched", "not kept as they were"),
        ):
            if made[key]:
                click.echo(f"  {said}: {', '.join(made[key])}")


def _chosen(options: EmitOptions) -> list[tuple[Variant, ModelFiles]]:
    """Return the variants that the options ask for, and their files."""
    from nas.emit.selection import Which, chosen_trials, files_at_scales, random_variants, trial_of_variant
    from nas.own import use_stored
    from nas.space.bases import load_base
    from nas.space.space_file import load_space
    from nas.space.variant import parse_swaps

    scales = _scales(options)
    found: list[Variant] | list[Trial]
    if options.swaps:
        base = options.base or "yolov8"
        found = [parse_swaps(base, scales[0] if scales else load_base(base).default_scale, options.swaps)]
    elif options.space and options.sample:
        found = random_variants(load_space(options.space), options.sample, options.seed or 0)
    else:
        assert options.study
        which: Which = "front" if options.front else "all" if options.everything else "best"
        study = open_study(options.study, options.storage)
        use_stored(study.settings.space.modules, study.shown)
        if options.variants:
            found = [trial_of_variant(study, wanted) for wanted in dict.fromkeys(options.variants)]
        else:
            found = chosen_trials(study, number=options.trial, which=which)
    return [pair for one in found for pair in files_at_scales(one, scales, proved=not options.without_proof)]
