"""The list of ``nas studies``."""

from __future__ import annotations

import json
from typing import Any

import click

from nas.errors import NasError, printable
from nas.ranking.race import find_winner
from nas.ranking.rank import baseline_of, rank_trials
from nas.ranking.replicates import pool_replicates
from nas.report.console import make_console, make_table, short_swaps
from nas.study.catalog import list_studies, outline_of
from nas.study.study import Study
from nas.study.trial import variants_spent


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
        best = row["best"] and short_swaps(row["best"], row["best_id"])
        table.add_row(
            *(str(row[k]) for k in ("study", "space", "data")),
            f"{row['trials']}/{row['asked']}",
            *("" if cell is None else str(cell) for cell in (row["baseline"], best, row["file"])),
        )
    return make_console().print(table)


def _study_json(study: Study) -> dict[str, Any]:
    """Return a study as plain values."""
    outline, s = outline_of(study), study.settings
    trials = [t for t in outline.trials if not t.fidelity]
    rows = rank_trials(trials, s.floor, s.goal, s.prior)
    base = baseline_of(pool_replicates(trials))
    winner = find_winner(study, rows, trials).trial if rows else None
    return {
        "study": study.location.name,
        "file": study.location.shown,
        "space": study.settings.space.name,
        "data": study.settings.data or "demo",
        "trials": variants_spent([t for t in outline.trials if t.fidelity == s.fidelities[0]]),
        "runs": sum(t.status == "done" for t in outline.trials),
        "asked": study.target,
        "baseline": round(base.map, 4) if base else None,
        "best": outline.swaps[winner.number] if winner else None,
        "best_id": outline.ids[winner.number] if winner else None,
    }
