"""The commands about proxies: which one to trust, and what the bank says."""

from __future__ import annotations

import json
from typing import Any

import click

from nas.cli.options import BANK_EPOCHS, BASE_EPOCHS, BASELINES, JSON, STORAGE, WEIGHTS, open_study, prepare


@click.command()
@click.argument("space")
@click.option("--data", type=click.Path(), help="The dataset's data.yaml. Default: built-in demo data.")
@click.option("--variants", type=click.IntRange(3), default=8, show_default=True, help="Variants beside the baseline.")
@click.option("--full-epochs", type=click.IntRange(1), default=40, show_default=True, help="Epochs of full training.")
@click.option("--full-seeds", type=click.IntRange(1), default=2, show_default=True, help="Seeds of full training.")
@click.option("--seeds", type=click.IntRange(2), default=3, show_default=True, help="Seeds of every proxy.")
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    help="Try this one; repeat. Default: scratch-8, baseline-8, bank-0, bank-2, bank-4 (start and epochs).",
)
@click.option("--imgsz", type=click.IntRange(32), default=160, show_default=True, help="Image side in pixels.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Images a step.")
@click.option("--scale", help="Scale letter (n, s, m, l, x). Default: the space's.")
@click.option("--enable", multiple=True, metavar="SLOT", help="Switch on a slot that the space has off; globs work.")
@WEIGHTS
@BASE_EPOCHS
@BASELINES
@BANK_EPOCHS
@click.option("--device", help="cpu, or a GPU's number. Default: a GPU if there is one.")
@click.option("--workers", type=click.IntRange(1), help="Trainings side by side. Default: one a core; on a GPU one.")
@click.option("--name", help="Name of the calibration; an existing one is gone on with. Default: the space's name.")
@JSON
def calibrate(as_json: bool, **options: Any) -> None:
    """Measure which proxy tells the variants of SPACE apart, and agrees with full training, at what cost.

    Trains a few variants with every proxy and in full. What is finished is kept: start it again to go on, or with more
    variants, seeds or proxies to extend it. `nas search --proxy NAME` takes the answer.

    \b
    nas calibrate seeds --data data.yaml --name blood
    nas search seeds --data data.yaml --proxy blood
    """
    cache = prepare()
    from nas.calibration import report as calibration_report
    from nas.calibration.assessment import assess
    from nas.locks import held
    from nas.report import console
    from nas.session.calibration import open_calibrator

    told = console.CalibrationProgress(console.make_console(stderr=True))
    calibrator = open_calibrator(cache, told, **options)
    with held(calibrator.folder / "lock", f"the calibration {calibrator.folder}"):
        calibrator.run()
        calibrated = assess(calibrator)
        files = calibration_report.write(calibrated, calibrator.folder)
    if as_json:
        return click.echo(json.dumps(calibrated.to_json(), indent=2))
    out = console.make_console()
    out.print(calibration_report.summary_table(calibrated))
    for line in ["", calibrated.reason, "", *calibration_report.next_steps(calibrated, calibrator.folder, files)]:
        out.print(line, markup=False)
    return None


@click.command()
@click.argument("study")
@STORAGE
@JSON
def bank(study: str, storage: str | None, as_json: bool) -> None:
    """Print the bank of STUDY: how near every distilled swap comes to the layer, and what it does to mAP as it is.

    Each swap is set into the trained baseline's place and validated without any training, and so is the layer's own
    module distilled anew (control): a swap that does no worse than that is not a worse module, only unfinished.

    \b
    nas bank blood
    """
    opened = open_study(study, storage)
    from nas.report.bank_report import bank_report, bank_table
    from nas.report.console import Progress, make_console

    cache = prepare()
    with opened.locked(), Progress(make_console(stderr=True), opened) as progress:
        report = bank_report(opened, cache, progress)
    if as_json:
        return click.echo(json.dumps(report.to_json(), indent=2))
    out = make_console()
    out.print(bank_table(report))
    for line in report.notes():
        out.print(line, markup=False)
    return None
