"""The list of ``nas studies``."""

from __future__ import annotations

import json
from typing import Any

import click

from nas.errors import NasError, printable
from nas.ranking.race import find_winner
from nas.ranking.rank import baseline_of, ranking_of
from nas.ranking.replicates import pool_replicates
from nas.report.console import make_console, make_table
from nas.study.catalog import list_studies
from nas.study.study import Study


def print_studies(storage: str | None, *, as_json: bool) -> None:
    """Print the studies of a storage, and as warnings those that cannot be read."""
    found, problems = list_studies(storage)
    body = []
    for study in found:
        try:
            body.append(_study_json(study))
        except NasError as error:  # a damaged one: the others are listed
            problems.append(str(error))
    for problem in problems:
        click.echo(f"warning: {printable(problem)}", err=True)
    if as_json:
        return click.echo(json.dumps(body, indent=2))
    if not body:
        return click.echo("no studies here; `nas search` creates one")
    table = make_table("study", "space", "data", "trials", "baseline mAP50-95", "best", "file")
    for row in body:
        table.add_row(
            *(str(row[k]) for k in ("study", "space", "data")),
            f"{row['trials']}/{row['asked']}",
            *("" if row[k] is None else str(row[k]) for k in ("baseline", "best", "file")),
        )
    return make_console().print(table)


def _study_json(study: Study) -> dict[str, Any]:
    """Return a study as plain values."""
    rows = ranking_of(study)
    base = baseline_of(pool_replicates(study.trials()))
    return {
        "study": study.location.name,
        "file": study.location.shown,
        "space": study.settings.space.name,
        "data": study.settings.data or "demo",
        "trials": study.spent,
        "runs": sum(t.status == "done" for t in study.runs()),
        "asked": study.target,
        "baseline": round(base.map, 4) if base else None,
        "best": find_winner(study, rows).trial.describe() if rows else None,
    }
