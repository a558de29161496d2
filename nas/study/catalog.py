"""List the studies of a storage, and copy a study to another storage."""

from __future__ import annotations

from pathlib import Path

import optuna

from nas.errors import StorageError, StudyError
from nas.study.location import StudyLocation, locate
from nas.study.storage import check_storage, open_storage, translate_damage, translate_errors
from nas.study.study import Study


def list_studies(storage: str | None = None) -> tuple[list[Study], list[str]]:
    """Return the studies of one storage, or of every ``studies/*.db`` below the current directory.

    Returns:
        The studies, and the problems of files and studies that cannot be opened.
    """
    files = sorted(Path("studies").glob("*.db"))
    places = [StudyLocation(file.stem, file) for file in files] if storage is None else [locate("any", storage)]
    found: list[Study] = []
    problems: list[str] = []
    for where in places:
        try:
            if not where.server and not where.file.exists():
                raise StorageError(f"{where.file} does not exist")
            with translate_damage(where), translate_errors(where):
                names = optuna.get_all_study_names(open_storage(where)) if check_storage(where, write=False) else []
        except (StorageError, StudyError) as error:
            problems.append(str(error))
            continue
        for name in names:
            try:
                if locate(name).name == name:  # a name that the tool would not give is no path of a file
                    found.append(Study.load(where.named(name)))
            except (StudyError, StorageError) as error:
                problems.append(f"{where.shown}: {error}" if where.shown not in str(error) else str(error))
    return found, problems


def copy_study(source: Study, target: StudyLocation) -> Study:
    """Copy a complete study to another storage or name, and return the copy.

    Args:
        source: Without running trials, which would be lost or run twice.
        target: Location of the copy, without a study.

    Raises:
        StudyError: A trial of it is running, or the target holds a study of that name.
        StorageError: The target cannot be written.
        LockError: A search works on it.
    """
    with source.locked(), source.leases.claim_lock():
        source.take_over()
        if any(trial.status == "running" for trial in source.runs()):
            raise StudyError(
                f"runs of the study {source.location.name!r} are not finished; copy it when its workers have stopped"
                + (
                    " (runs of one that was killed have to be taken over first, by nas worker)"
                    if source.location.server
                    else ""
                )
            )
        if Study.exists(target):
            raise StudyError(f"{target.shown} holds a study {target.name!r} already; --as gives the copy another name")
        with translate_errors(target):
            if not target.server:
                target.file.parent.mkdir(parents=True, exist_ok=True)
            check_storage(target, write=True)
            optuna.copy_study(
                from_study_name=source.location.name,
                from_storage=open_storage(source.location),
                to_storage=open_storage(target),
                to_study_name=target.name,
            )
    return Study.load(target)
