"""Writes a variant's files where the user asks for them: whole or not at all, and over nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from nas.emit.bundle import bundle, prove
from nas.emit.patch import Tree, diff, patched, read_tree, reverted, write_tree
from nas.emit.patch import prove as prove_patch
from nas.emit.pretrained import Pretrained
from nas.emit.snippet import release_snippet
from nas.errors import OutputError, StudyError
from nas.files import write_all
from nas.model.cost import costed
from nas.model.render import ModelFiles, render
from nas.own.files import files_of
from nas.ranking.race import winner_of
from nas.ranking.rank import ranking_of
from nas.space.variant import Variant
from nas.study.study import Study
from nas.study.trial import Trial

FORMS = {
    "yaml": "the model YAML",
    "snippet": "what to paste into Ultralytics' tasks.py",
    "plugin": "a script that trains it with this tool installed",
    "bundle": "a folder that trains it without this tool",
    "patch": "a diff that teaches an Ultralytics tree its modules",
}
"""What a variant can be written as."""

Which: TypeAlias = Literal["best", "front", "all"]
"""Which of a ranking to take."""

DEFAULT_FORMS = ("yaml", "snippet", "plugin")


def chosen_trials(study: Study, *, number: int | None = None, which: Which = "best") -> list[Trial]:
    """Return trials of a study, best first.

    Args:
        study: The study.
        number: The trial of this number; the other argument counts only where it is None.
        which: What the study answers (`nas.ranking.race.winner_of`), its Pareto front of mAP and GFLOPs, or all that
            are ranked; the baseline, which needs nothing emitted, is left out of the last two.

    Raises:
        StudyError: The study has no such trial.
    """
    trials, name = study.runs(), study.location.name
    if number is not None:
        found = [t for t in trials if t.number == number and t.yaml]
        if not found:
            numbers = ", ".join(str(t.number) for t in trials if t.yaml) or "none"
            raise StudyError(f"the study {name!r} has no trial {number} that was built; its trials: {numbers}")
        return found
    rows = ranking_of(study)
    if not rows:
        raise StudyError(f"the study {name!r} has no finished trial yet; `nas search --study {name}`")
    if which == "best":
        return [winner_of(study, rows).trial]
    chosen = [r.trial for r in rows if (r.on_front or which == "all") and not r.trial.variant.is_baseline]
    if not chosen:
        raise StudyError(f"the study {name!r} has nothing but its baseline there")
    return chosen


def files_of_trial(trial: Trial) -> ModelFiles:
    """Return the files of a trial; the model YAML is the one that it was built from, byte for byte."""
    files = render(trial.variant)
    return ModelFiles(files.name, trial.yaml, files.snippet, files.train)


def files_of_variant(variant: Variant) -> ModelFiles:
    """Return the files of a variant that no study holds, proved by building and costing it.

    Raises:
        BuildError: It cannot be built.
    """
    return costed(variant)[0]


def files_at_scales(found: Trial | Variant, scales: Sequence[str] = ()) -> list[tuple[Variant, ModelFiles]]:
    """Return the files of the same swaps at several scales, each proved by building and costing it.

    A trial's own model YAML is the one that it was built from, byte for byte, whatever else is asked for. Every other
    one states the costs of all scales asked for.

    Args:
        found: A trial of a study, or a variant that no study holds.
        scales: Scale letters; none for its own.

    Raises:
        BuildError: A variant cannot be built.
        SpaceError: The base has no such scale.
    """
    variant = found.variant if isinstance(found, Trial) else found
    letters = list(dict.fromkeys(scales)) or [variant.scale]
    if letters == [variant.scale]:
        return [(variant, files_of_trial(found) if isinstance(found, Trial) else files_of_variant(variant))]
    variants = [variant.with_scale(letter) for letter in letters]
    costs = {v.scale: costed(v)[1].summary for v in variants}
    return [
        (v, files_of_trial(found) if isinstance(found, Trial) and v == variant else render(v, costs)) for v in variants
    ]


def texts_of(
    variant: Variant,
    files: ModelFiles,
    forms: Iterable[str],
    ultralytics: Path | None = None,
    weights: Pretrained | None = None,
) -> dict[Path, str | bytes]:
    """Return what a variant's forms are made of, by path below the folder that the user names.

    Args:
        variant: The variant.
        files: What was rendered for it.
        forms: Of `FORMS`. A bundle, a patch and a snippet for a given tree are proved first: the model is built in a
            process of its own.
        ultralytics: The tree that a patch or snippet is for. None: the installed one for a patch, any for a snippet.
        weights: A checkpoint to write beside; a bundle holds its own copy.

    Raises:
        OutputError: A bundle or patch of the stock model, a bundle that does not build, or a tree that has the patch.
        HostError: A tree that cannot be patched, or does not build the variant then.
    """
    texts: dict[Path, str | bytes] = {}
    for form in forms:
        if form == "bundle":
            parts = bundle(variant, files, weights.name if weights else None)
            prove(parts, files)
            texts |= {Path(files.name) / name: text for name, text in parts.items()}
            if weights:
                texts[Path(files.name) / weights.name] = weights.content
        elif form == "patch":
            tree, new = _patch(variant, files, ultralytics)
            if not new:
                raise OutputError(f"the Ultralytics in {tree.root} is patched with these modules already")
            texts[Path(f"{files.name}.patch")] = diff(tree, new)
        elif form == "snippet" and ultralytics is not None and variant.added:
            tree = read_tree(ultralytics)
            snippet = release_snippet(tree, variant, files)
            prove_patch(tree, snippet.pasted, files)
            texts[Path(f"{files.name}.snippet.txt")] = snippet.text
            texts[Path(f"{files.name}.modules.py")] = snippet.modules
        else:
            ending, text = {
                "yaml": (".yaml", files.yaml),
                "snippet": (".snippet.txt", files.snippet),
                "plugin": (".train.py", files.train),
            }[form]
            texts[Path(f"{files.name}{ending}")] = text
            texts |= {Path(file.name): file.text for file in files_of(variant.modules)}
    if weights and set(forms) != {"bundle"}:
        texts[Path(weights.name)] = weights.content
    return texts


def apply_patch(variant: Variant, files: ModelFiles, path: Path, *, dry_run: bool = False) -> list[Path]:
    """Teach an Ultralytics tree a variant's modules, proved first; return the files that change.

    Raises:
        OutputError: The variant has no modules that Ultralytics has not.
        HostError: The tree cannot be patched or written, or does not build the variant then.
    """
    tree, new = _patch(variant, files, path)
    return [tree.root / p for p in new] if dry_run else write_tree(tree, new)


def revert_patch(path: Path, *, dry_run: bool = False) -> list[Path]:
    """Take what `apply_patch` did out of a tree; return the files that change.

    Raises:
        HostError: The tree is half patched, or cannot be written.
    """
    tree = read_tree(path)
    changes = reverted(tree)
    return [tree.root / p for p in changes] if dry_run else write_tree(tree, changes)


def _patch(variant: Variant, files: ModelFiles, path: Path | None) -> tuple[Tree, dict[Path, str]]:
    if not variant.added:
        what = "is the stock model" if variant.is_baseline else "is made of Ultralytics' own modules"
        raise OutputError(f"{files.name} {what}: it needs no patch")
    tree = read_tree(path)
    new = patched(tree, variant.added)
    if new:
        prove_patch(tree, new, files)
    return tree, new


def write(texts: Mapping[Path, str | bytes], folder: Path, *, force: bool = False, dry_run: bool = False) -> list[Path]:
    """Write files and return their paths: all of them or, if one cannot be, none.

    Args:
        texts: What to write, by path below `folder`; text as UTF-8 with plain line ends.
        folder: Where; made if it is not there.
        force: Whether existing files may be replaced.
        dry_run: Whether to only say what would be written.

    Raises:
        OutputError: A path leads out of the folder, or a file exists and differs or cannot be written. Nothing has been
            written then.
    """
    if out := [path for path in texts if not _inside(path)]:
        raise OutputError(f"{', '.join(map(repr, map(str, out)))} would lie outside of {folder}: nothing is written")
    whole = {folder / path: text.encode() if isinstance(text, str) else text for path, text in texts.items()}
    try:
        if folders := [p for p in whole if p.is_dir()]:
            raise OutputError(f"{', '.join(map(str, folders))} is a folder: move it away, or give another -o")
        exists = [p for p, content in whole.items() if p.exists() and p.read_bytes() != content]
        if exists and not force:
            raise OutputError(f"{', '.join(map(str, exists))} exists and differs; --force replaces it")
        if dry_run:
            return list(whole)
        write_all(whole)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error}") from None
    return list(whole)


def _inside(path: Path) -> bool:
    """Whether a path names a file below the folder that it is joined to, on any system."""
    return (
        bool(path.name)
        and not path.is_absolute()
        and ".." not in path.parts
        and not any(c in part for part in path.parts for c in "\\:\0")
    )
