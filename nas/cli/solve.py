"""`nas solve`: the best variants of a study under budgets, by what it holds."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import click

from nas.cli.options import (
    BUDGET_GFLOPS,
    BUDGET_LATENCY,
    BUDGET_PARAMS,
    JSON,
    RUNG,
    STORAGE,
    TRUST,
    open_study,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nas.solver.front import Front
    from nas.study.study import Study

_DEFAULT = "-10%,-20%,-30%,-40%"


@click.command(short_help="Print the best variants of a study under budgets.")
@click.argument("study")
@BUDGET_GFLOPS
@BUDGET_PARAMS
@BUDGET_LATENCY
@click.option(
    "--top",
    type=click.IntRange(1, 20),
    default=1,
    show_default=True,
    metavar="K",
    help="Number of predicted variants for each budget; they differ in at least a fifth of the slots.",
)
@RUNG
@TRUST
@STORAGE
@JSON
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def solve(
    study: str,
    budget_gflops: str | None,
    budget_params: str | None,
    budget_latency: str | None,
    top: int,
    rung: int | None,
    storage: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Print, for each budget, the best variant that STUDY predicts, and the best that it has measured; train nothing.

    Without a budget: -10%, -20%, -30% and -40% of the baseline's GFLOPs.

    \b
    nas solve blood --budget-gflops -15%,-25%
    nas solve blood --budget-gflops 6.5 --budget-params 2.5M --top 3
    """
    opened = open_study(study, storage)
    from nas.solver.front import front_of
    from nas.study.objective import read_budgets

    budgets = read_budgets(budget_gflops, budget_params, budget_latency) or read_budgets(_DEFAULT, None, None)
    found = front_of(opened, budgets, count=_counter(opened), top=top, fidelity=opened.fidelity_of(rung))
    if as_json:
        return click.echo(json.dumps({"study": study, "trained": found.trained, "rows": found.to_plain()}, indent=2))
    if as_csv:
        return click.echo(_csv(found), nl=False)
    return _print(opened, found)


def _counter(study: Study) -> Any:
    """Return what counts the costs of variants; nothing heavy is imported before the first of them."""
    if study.settings.table:
        return None

    def count(assignment: Mapping[str, str]) -> dict[str, float]:
        from nas.model.cost import gflops_and_params
        from nas.own.trust import check_trusted

        check_trusted(study.settings.space.modules, study.shown)
        gflops, params = gflops_and_params(study.settings.space.variant(assignment))
        return {"gflops": gflops, "params": float(params)}

    return count


def _csv(found: Front) -> str:
    rows, text = found.to_plain(), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _print(study: Study, found: Front) -> None:
    """Print the front as a table with its notes."""
    from nas.report import console
    from nas.space.bases import shown_task

    out = console.make_console()
    out.print(console.front_table(found, out.width, shown_task(study.settings.space.base).metric))
    described = console.swap_lines((row.variant, row.swaps) for row in found.rows)
    for line in (*described, *console.front_notes(study, found)):
        out.print(line, markup=False)
