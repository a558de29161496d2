"""List the studies of a storage, and copy a study to another storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nas.errors import StorageError, StudyError
from nas.files import from_plain
from nas.space.variant import Variant
from nas.study.location import StudyLocation, locate
from nas.study.optuna_private import read_tables
from nas.study.running_trial import RECORD
from nas.study.storage import check_storage, open_storage, translate_damage, translate_errors, with_retry
from nas.study.study import Study
from nas.study.trial import Status, Trial

FULL_SUFFIX = "~full"
"""Suffix of the study in the same storage that holds a study's full trainings (`nas.full.store`)."""


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
                names = read_tables(where).names() if check_storage(where, write=False) else []
        except (StorageError, StudyError) as error:
            problems.append(str(error))
            continue
        if not names and not where.server:
            problems.append(f"{where.shown} holds no study: it is empty or damaged")
        for name in (name for name in names if not name.endswith(FULL_SUFFIX)):
            try:
                locate(name)  # a name that the tool would not give may be a path, or escapes for a terminal
            except StudyError as error:
                problems.append(f"{where.shown}: {error}")
                continue
            try:
                found.append(Study.load(where.named(name)))
            except (StudyError, StorageError) as error:
                problems.append(str(error))
    return found, problems


@dataclass(frozen=True)
class Outline:
    """The trials of a study with what ranks them, but without assignments, curves and model YAMLs.

    Attributes:
        trials: All of all fidelities, in order.
        swaps: The swaps of each in one line, by the number of the trial.
        ids: The ID of each variant, by the number of the trial: the variants of `trials` are stand-ins.
    """

    trials: list[Trial]
    swaps: Mapping[int, str]
    ids: Mapping[int, str]


def outline_of(study: Study) -> Outline:
    """Return the outline of a study, from a few plain values a trial: their records are read only where these lack.

    Raises:
        StudyError: It is damaged.
        StorageError: Its storage cannot be read.
    """
    with translate_damage(study.location), translate_errors(study.location):
        return _outline(study)


_FACTS: Mapping[str, type] = {
    "id": str, "swaps": str, "seed": int, "fidelity": str, "gflops": float, "width": float
}  # fmt: skip
"""The plain values of a trial that its outline needs."""


def _outline(study: Study) -> Outline:
    s = study.settings
    stored = with_retry(study.location, lambda: study.tables.plain(tuple(_FACTS)))
    plain = [
        (row, value, {key: from_plain(_FACTS[key], fact, key) for key, fact in facts.items()})
        for row, value, facts in stored
        if "id" in facts and "width" not in facts  # no yardsticks
    ]
    done = [(value, facts.get("gflops")) for row, value, facts in plain if row.state == "COMPLETE"]
    if s.goal.needs_latency or not all(gflops and value is not None for value, gflops in done):
        trials = study.runs()
        return Outline(trials, {t.number: t.describe() for t in trials}, {t.number: t.variant.id for t in trials})
    ended = [row.id for row, _, _ in plain if row.state == "FAIL"]  # failed, or interrupted
    records = with_retry(study.location, lambda: study.tables.parts(ended, RECORD))
    base, scale = s.space.base, s.space.scale
    baseline = Variant(base, scale)
    trials = []
    for row, value, facts in plain:
        variant = baseline if facts["id"] == baseline.id else Variant(base, scale, (("id", f"id_{facts['id']}"),))
        status: Status = "rejected" if row.state == "PRUNED" else "done" if row.state == "COMPLETE" else "running"
        if row.state == "FAIL":
            status = from_plain(Status, records[row.id][1]["status"], "status") if row.id in records else "failed"
        gflops = float(facts.get("gflops", 0.0))
        # Equal scores stay equal: what the division by GFLOPs has rounded is far below the last digit that is kept.
        score = round((value or 0.0) * gflops, 12) if status == "done" else None
        seed, fidelity = int(facts.get("seed", 0)), str(facts.get("fidelity", ""))
        trials.append(Trial(row.number, variant, {}, status, seed=seed, fidelity=fidelity, gflops=gflops, pooled=score))
    swaps, ids = ({row.number: str(facts[key]) for row, _, facts in plain} for key in ("swaps", "id"))
    return Outline(trials, swaps, ids)


VERDICTS = "verdicts"
"""The user attribute of a study that has the verdict on each variant in words, for optuna-dashboard."""


def store_verdicts(study: Study, verdicts: Mapping[str, str]) -> None:
    """Store the verdicts on variants, by their swaps, for users who look at the storage with other tools.

    A trial cannot hold its own, because a verdict changes with the trainings that come after it.

    Raises:
        StorageError: The storage cannot be written.
    """
    study._write({VERDICTS: dict(verdicts)})


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
    import optuna

    with source.locked(), source.leases.claim_lock():
        source.take_over()
        if any(trial.status == "running" for trial in source.every_run()):
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
            stored, there = open_storage(source.location), read_tables(source.location).names()
            for suffix in ("", FULL_SUFFIX):
                if source.location.name + suffix in there:
                    optuna.copy_study(
                        from_study_name=source.location.name + suffix,
                        from_storage=stored,
                        to_storage=open_storage(target),
                        to_study_name=target.name + suffix,
                    )
    return Study.load(target)
