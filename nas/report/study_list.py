"""The list of ``nas studies``."""

from __future__ import annotations

import json
from typing import Any

import click

from nas.report.console import make_console, make_table


def print_studies(storage: str | None, *, as_json: bool) -> None:
    """Print the studies that there are."""
    from nas.ranking.race import winner_of
    from nas.ranking.rank import baseline_of, ranking_of
    from nas.ranking.replicates import pool_seeds
    from nas.study.catalog import list_studies

    found, problems = list_studies(storage)
    body = []
    for study in found:
        rows = ranking_of(study)
        base = baseline_of(pool_seeds(study.trials()))
        body.append(
            {
                "study": study.location.name,
                "file": study.location.shown,
                "space": study.settings.space.name,
                "data": study.settings.data or "demo",
                "trials": study.spent,
                "runs": sum(t.status == "done" for t in study.runs()),
                "asked": study.target,
                "baseline": round(base.map, 4) if base else None,
                "best": winner_of(study, rows).trial.describe() if rows else None,
            }
        )
    for problem in problems:
        click.echo(f"warning: {problem}", err=True)
    if as_json:
        return click.echo(json.dumps(body, indent=2))
    if not body:
        return click.echo("no studies here; `nas search` begins one")
    table = make_table("study", "space", "data", "trials", "baseline mAP50-95", "best", "file")
    for row in body:
        table.add_row(
            *(str(row[k]) for k in ("study", "space", "data")),
            f"{row['trials']}/{row['asked']}",
            *("" if row[k] is None else str(row[k]) for k in ("baseline", "best", "file")),
        )
    return make_console().print(table)
