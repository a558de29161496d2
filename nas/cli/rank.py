"""The commands that read a study: its ranking, and what each module and slot does in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from nas.cli.options import FORMATS, JSON, RUNG, STORAGE, TRUST, open_study, prepare
from nas.errors import StudyError

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
@click.option("--full", "of_full", is_flag=True, help="Rank full trainings (`nas train`) instead of proxies.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="With --full: print the ablation table of a paper, with means ± standard deviations over seeds.",
)
@click.option(
    "--settings",
    metavar="ID",
    help="With --full: rank the trainings with these settings. Default: those that were begun last.",
)
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
    of_full: bool,
    form: str | None,
    settings: str | None,
    aa_seeds: int | None,
) -> None:
    """Print the ranking of STUDY: means, intervals and verdicts over seeds.

    \b
    nas rank blood --csv > blood.csv
    nas rank blood --aa 12
    nas rank blood --full --format latex > table.tex
    """
    if (form or settings) and not of_full:
        raise click.UsageError(f"{'--format' if form else '--settings'} goes with --full")
    if of_full and (rung or aa_seeds):
        raise click.UsageError(f"--full ranks full trainings: leave {'--rung' if rung else '--aa'} out")
    opened = open_study(study, storage)
    if of_full:
        return print_full(opened, as_json=as_json, form="csv" if as_csv else form, settings=settings)
    fidelity = opened.fidelity_of(rung)
    if aa_seeds and fidelity:
        raise click.UsageError("--aa checks the study's own recipe: leave --rung out")
    checked = None
    if aa_seeds:
        opened, checked = _check(opened, aa_seeds)
    print_ranking(opened, as_json=as_json, as_csv=as_csv, conclude=False, checked=checked, fidelity=fidelity, top=top)
    if checked and not checked.passes:
        ctx.exit(1)
    return None


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
    from nas.full.ranking import full_scores, proxy_agreement
    from nas.full.store import FullRuns
    from nas.full.table import agreement_words
    from nas.ranking.rank import export_rows, ranking_of, to_csv
    from nas.ranking.yardstick import against_json, compare_with_yardsticks, measured_yardsticks, yardsticks_json
    from nas.report import console
    from nas.report import ranking_notes as notes

    rows = ranking_of(study, fidelity)
    yardsticks = [] if fidelity else measured_yardsticks(study)
    against = compare_with_yardsticks(rows, yardsticks, study.settings.prior)
    trained = FullRuns(study.location).read()
    if as_json:
        body: dict[str, Any] = {"study": study.location.name, "settings": json.loads(study.settings.to_json())}
        body |= {"seeds": study.seeds, "confirm": str(study.confirm), "fidelity": fidelity, "rows": export_rows(rows)}
        if yardsticks:
            body |= {"yardsticks": yardsticks_json(yardsticks), "against_yardsticks": against_json(against)}
        body |= {"full": full_scores(trained)} if trained else {}
        return click.echo(json.dumps(body | ({"aa": checked.to_json()} if checked else {}), indent=2))
    if as_csv:
        click.echo(to_csv(rows), nl=False)
        return click.echo(checked.text, err=True) if checked else None
    out = console.make_console()
    if rows:
        shown = [r for r in rows if r.rank <= top or r.seeds > 1 or r.trial.variant.is_baseline]
        out.print(console.ranking_table(shown, out.width, full_scores(trained)))
        named = {r.trial.variant for r in shown} | against.keys()  # the table of yardsticks has its own rows
        trials = (r.trial for r in rows if r.trial.variant in named)
        for line in console.swap_lines((t.variant.id, t.describe()) for t in trials):
            out.print(line, markup=False)
        if len(shown) < len(rows):
            out.print(
                f"{len(rows) - len(shown)} of {len(rows)} rows are not shown: --top N, --csv or --json", style="dim"
            )
    if yardsticks:
        out.print("")
        out.print(console.yardstick_table(rows, yardsticks, against))
    said = ["", *notes.yardstick_words(yardsticks), *notes.ranking_notes(study, fidelity, rows)]
    said += [checked.text] if checked else []
    agreed = proxy_agreement(study, trained) if trained and not fidelity else None
    said += [agreement_words(agreed)] if agreed else []
    said += ["", *notes.conclusion(study)] if conclude or not rows else []
    for line in said:
        out.print(line, markup=False)
    return None


def print_full(study: Study, *, as_json: bool, form: str | None, settings: str | None) -> None:
    """Print the ranking of a study's full trainings: a table with notes, JSON, or the ablation table of a paper."""
    from nas.full.ranking import groups_of, proxy_agreement, rank_full
    from nas.full.store import FullRuns
    from nas.full.table import ablation_table, full_notes, full_rows, ranking_cells
    from nas.report.console import make_console, make_table, short_swaps, swap_lines

    runs = FullRuns(study.location).read()
    groups = groups_of(runs)
    if not groups or (settings and settings not in groups):
        there = f"; there are {', '.join(groups)}" if groups else ""
        what = f"no full trainings with the settings {settings!r}" if settings else "no finished full training yet"
        raise StudyError(f"{study.shown} has {what}{there}: `nas train {study.location.name} --with baseline`")
    rows = rank_full(
        groups[settings or next(iter(groups))], study.settings.floor, by_map=study.settings.objective == "map"
    )
    agreed = proxy_agreement(study, runs)
    if as_json:
        body = {"study": study.location.name, "rows": full_rows(rows), "runs": [r.to_json() for r in runs]}
        return click.echo(json.dumps(body, indent=2))
    if form:
        return click.echo(ablation_table(rows, form), nl=False)
    out = make_console()
    columns, cells = ranking_cells(rows, short_swaps)
    table = make_table(
        *columns, right=set(columns) - {"model", "swaps", "verdict"}, no_wrap=set(columns) - {"swaps", "model"}
    )
    for row, line in zip(rows, cells, strict=True):
        table.add_row(*line, style="bold" if row.run.kind == "baseline" else None)
    out.print(table)
    for text in swap_lines((row.run.model, row.run.title) for row in rows):
        out.print(text, markup=False)
    for note in ["", *full_notes(rows, runs, agreed, study.settings.data or "the demo data")]:
        out.print(note, markup=False)
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
    from nas.space.bases import shown_task

    fidelity = opened.fidelity_of(rung)
    s = opened.settings.at(fidelity)
    found = estimate_effects(opened.trials(fidelity), s.space.active, s.error)
    if as_json:
        return click.echo(json.dumps({"study": study, **found.to_json()}, indent=2))
    return print_effects(found, shown_task(s.space.base))
