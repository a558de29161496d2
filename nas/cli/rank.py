"""The commands that read a study: its ranking, and what each module and slot does in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from nas.cli.options import JSON, RUNG, STORAGE, TRUST, open_study, prepare

if TYPE_CHECKING:
    from nas.ranking.aa_check import AACheck
    from nas.study.study import Study

TOP = 100
"""Rows of a ranking that are printed."""


@click.command(short_help="Print the ranking of a study.")
@click.argument("study")
@STORAGE
@JSON
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option(
    "--top",
    type=click.IntRange(1),
    default=TOP,
    show_default=True,
    metavar="N",
    help="Print the first N rows, the baseline, and every variant with further seeds. CSV and JSON hold all.",
)
@RUNG
@click.option(
    "--aa",
    "aa_seeds",
    type=click.IntRange(6),
    metavar="N",
    help="Check the verdicts: train the baseline until it has N seeds, 12 or more to be of use, and count how often it "
    "is called different from itself. Exit code 1 if that is too often.",
)
@TRUST
@click.pass_context
def rank(
    ctx: click.Context,
    study: str,
    storage: str | None,
    as_json: bool,
    as_csv: bool,
    top: int,
    rung: int | None,
    aa_seeds: int | None,
) -> None:
    """Print the ranking of STUDY: means, intervals and verdicts over seeds.

    \b
    nas rank blood --csv > blood.csv
    nas rank blood --aa 12
    """
    opened = open_study(study, storage)
    fidelity = opened.fidelity_of(rung)
    if aa_seeds and fidelity:
        raise click.UsageError("--aa checks the study's own recipe: leave --rung out")
    checked = None
    if aa_seeds:
        opened, checked = _check(opened, aa_seeds)
    print_ranking(opened, as_json=as_json, as_csv=as_csv, conclude=False, checked=checked, fidelity=fidelity, top=top)
    if checked and not checked.passes:
        ctx.exit(1)


def _check(study: Study, seeds: int) -> tuple[Study, AACheck]:
    """Train the baseline's seeds that are missing, and check the verdicts with them."""
    from nas.ranking.aa_check import run_aa_check
    from nas.ranking.replicates import group_by_variant, scores_by_seed
    from nas.report.console import make_console
    from nas.report.progress import Progress
    from nas.session.search import DEFAULT_CONFIRM, train_baseline_seeds

    cache = prepare()
    with Progress(make_console(stderr=True), study) as progress:
        opened = train_baseline_seeds(cache, study, seeds, progress)
    runs = next(runs for variant, runs in group_by_variant(opened.trials()).items() if variant.is_baseline)
    design = opened.confirm if opened.confirm.top else DEFAULT_CONFIRM
    return opened, run_aa_check(list(scores_by_seed(runs).values())[:seeds], design.top, design.seeds)


def print_ranking(
    study: Study,
    *,
    as_json: bool,
    as_csv: bool,
    conclude: bool,
    checked: AACheck | None = None,
    fidelity: str = "",
    top: int = TOP,
) -> None:
    """Print the ranking of a study or of a lower rung: a table with what has to be said of it, JSON, or CSV."""
    from nas.ranking.rank import export_rows, ranking_of, to_csv
    from nas.ranking.yardstick import against_json, compare_with_yardsticks, measured_yardsticks, yardsticks_json
    from nas.report import console
    from nas.report import ranking_notes as notes

    rows = ranking_of(study, fidelity)
    yardsticks = [] if fidelity else measured_yardsticks(study)
    against = compare_with_yardsticks(rows, yardsticks, study.settings.prior)
    if as_json:
        body: dict[str, Any] = {"study": study.location.name, "settings": json.loads(study.settings.to_json())}
        body |= {"seeds": study.seeds, "confirm": str(study.confirm), "fidelity": fidelity, "rows": export_rows(rows)}
        if yardsticks:
            body |= {"yardsticks": yardsticks_json(yardsticks), "against_yardsticks": against_json(against)}
        return click.echo(json.dumps(body | ({"aa": checked.to_json()} if checked else {}), indent=2))
    if as_csv:
        click.echo(to_csv(rows), nl=False)
        return click.echo(checked.text, err=True) if checked else None
    out = console.make_console()
    if rows:
        shown = [r for r in rows if r.rank <= top or r.seeds > 1 or r.trial.variant.is_baseline]
        out.print(console.ranking_table(shown, out.width))
        if len(shown) < len(rows):
            out.print(
                f"{len(rows) - len(shown)} of {len(rows)} rows are not shown: --top N, --csv or --json", style="dim"
            )
    if yardsticks:
        out.print("")
        out.print(console.yardstick_table(rows, yardsticks, against))
    said = ["", *notes.yardstick_words(yardsticks), *notes.ranking_notes(study, fidelity, rows)]
    said += [checked.text] if checked else []
    said += ["", *notes.conclusion(study)] if conclude or not rows else []
    for line in said:
        out.print(line, markup=False)
    return None


@click.command(short_help="Print the effect of each module, slot and swap.")
@click.argument("study")
@STORAGE
@RUNG
@JSON
def effects(study: str, storage: str | None, rung: int | None, as_json: bool) -> None:
    """Print what each module, slot and swap does in STUDY: to mAP and to GFLOPs, and which swaps interact.

    \b
    nas effects blood
    """
    opened = open_study(study, storage)
    from nas.ranking.effects import estimate_effects
    from nas.report.effects_table import print_effects

    fidelity = opened.fidelity_of(rung)
    s = opened.settings.at(fidelity)
    found = estimate_effects(opened.trials(fidelity), s.space.active, s.error)
    if as_json:
        return click.echo(json.dumps({"study": study, **found.to_json()}, indent=2))
    return print_effects(found)
