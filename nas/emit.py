"""Writes a variant's files where the user asks for them: whole or not at all, and over nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from nas.bundle import bundle, prove
from nas.cost import costed
from nas.errors import OutputError, StudyError
from nas.rank import rank
from nas.render import ModelFiles, render
from nas.study import Study
from nas.trial import Trial
from nas.variant import Variant

FORMS = {
    "yaml": "the model YAML",
    "snippet": "what to paste into Ultralytics' tasks.py",
    "plugin": "a script that trains it with this tool installed",
    "bundle": "a folder that trains it without this tool",
}
"""What a variant can be written as."""

DEFAULT_FORMS = ("yaml", "snippet", "plugin")


def chosen_trial(study: Study, number: int | None) -> Trial:
    """Return a trial of a study: the first of the ranking, or the one of a number.

    Raises:
        StudyError: The study has no finished trial, or none of that number.
    """
    trials = study.trials()
    if number is not None:
        found = next((t for t in trials if t.number == number and t.yaml), None)
        if found is None:
            numbers = ", ".join(str(t.number) for t in trials if t.yaml) or "none"
            raise StudyError(
                f"the study {study.place.name!r} has no trial {number} that was built; its trials: {numbers}"
            )
        return found
    rows = rank(trials, study.settings.floor)
    if not rows:
        raise StudyError(
            f"the study {study.place.name!r} has no finished trial yet; `nas search --study {study.place.name}`"
        )
    return rows[0].trial


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


def texts_of(variant: Variant, files: ModelFiles, forms: Iterable[str]) -> dict[Path, str]:
    """Return what a variant's forms are made of, by path below the folder that the user names.

    Args:
        variant: The variant.
        files: What was rendered for it.
        forms: Of `FORMS`. A bundle is proved first: its model is built in a process of its own.

    Raises:
        OutputError: A bundle of the stock model, or one that does not build.
    """
    texts: dict[Path, str] = {}
    for form in forms:
        if form == "bundle":
            parts = bundle(variant, files)
            prove(parts, files)
            texts |= {Path(files.name) / name: text for name, text in parts.items()}
        else:
            ending, text = {
                "yaml": (".yaml", files.yaml),
                "snippet": (".snippet.txt", files.snippet),
                "plugin": (".train.py", files.train),
            }[form]
            texts[Path(f"{files.name}{ending}")] = text
    return texts


def write(texts: Mapping[Path, str], folder: Path, *, force: bool = False, dry_run: bool = False) -> list[Path]:
    """Write files and return their paths: all of them or, if one cannot be, none.

    Args:
        texts: What to write, by path below `folder`.
        folder: Where; made if it is not there.
        force: Whether existing files may be replaced.
        dry_run: Whether to only say what would be written.

    Raises:
        OutputError: A file exists and differs, or cannot be written. Nothing has been written then.
    """
    whole = {folder / path: text for path, text in texts.items()}
    try:
        exists = [p for p, text in whole.items() if p.exists() and p.read_text(encoding="utf-8") != text]
        if exists and not force:
            raise OutputError(f"{', '.join(map(str, exists))} exists and differs; --force replaces it")
        if dry_run:
            return list(whole)
        for parent in {path.parent for path in whole}:
            parent.mkdir(parents=True, exist_ok=True)
        beside = {p: p.with_name(f".{p.name}.{os.getpid()}") for p in whole}
        try:
            for path, text in whole.items():
                beside[path].write_text(text, encoding="utf-8", newline="\n")
            for path in whole:
                beside[path].replace(path)
        finally:
            for path in beside.values():
                path.unlink(missing_ok=True)
    except OutputError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot write to {folder}: {error}") from None
    return list(whole)
