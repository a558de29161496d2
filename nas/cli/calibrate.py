"""The commands about proxies: which one to trust, and what the bank says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from nas.cli.options import (
    BANK_EPOCHS,
    BASE_EPOCHS,
    BASELINES,
    DATA,
    DEVICE,
    ENABLE,
    JSON,
    PRECISION,
    SCALE,
    STORAGE,
    TRUST,
    WEIGHTS,
    WINDOW,
    WORKERS,
    open_study,
    prepare,
)

if TYPE_CHECKING:
    from nas.calibration.given import GivenFull
    from nas.session.options import CalibrationOptions


@click.command(short_help="Measure which proxy can be trusted, and how far.")
@click.argument("space")
@DATA
@click.option("--variants", type=click.IntRange(3), default=8, show_default=True, help="Variants, beyond the baseline.")
@click.option("--full-epochs", type=click.IntRange(1), default=40, show_default=True, help="Epochs of full training.")
@click.option("--full-seeds", type=click.IntRange(1), default=2, show_default=True, help="Seeds of full training.")
@click.option(
    "--tune-epochs",
    type=click.IntRange(1),
    help="Train each variant in full from --weights too, for this many epochs, and compare proxies with both.",
)
@click.option("--seeds", type=click.IntRange(2), default=3, show_default=True, help="Seeds of every proxy.")
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    help="Calibrate this proxy (initial weights and epochs; then @160 for images of 160 px, @224/640 for windows of "
    "224 px at 640 px); repeat for several. Default: scratch-8, baseline-8, bank-0, bank-2, bank-4.",
)
@click.option(
    "--imgsz",
    type=click.IntRange(32),
    default=160,
    show_default=True,
    help="Image size in pixels, of full training and of proxies that say no other.",
)
@WINDOW
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Batch size.")
@SCALE
@ENABLE
@WEIGHTS
@BASE_EPOCHS
@BASELINES
@BANK_EPOCHS
@DEVICE
@PRECISION
@WORKERS
@click.option(
    "--full-from",
    metavar="STUDY",
    help="Take the full trainings that `nas train` has made of this study, with their variants and seeds, instead of "
    "making others.",
)
@STORAGE
@click.option("--name", help="Name of the calibration; an existing one is resumed. Default: the name of the space.")
@JSON
def calibrate(as_json: bool, **given: Any) -> None:
    """Measure which proxy resolves the variants of SPACE and agrees with full training, and at what cost.

    Trains a few variants with every proxy and in full. Finished runs are stored: run it again to resume it, or with
    more variants, seeds or proxies to extend it. `nas search --proxy NAME` uses the selected proxy.

    \b
    nas calibrate seeds --data data.yaml --name blood
    nas search seeds --data data.yaml --proxy blood
    """
    cache = prepare()
    from nas.calibration.assessment import assess
    from nas.calibration.report import write_report
    from nas.locks import held
    from nas.report.calibration_table import calibration_table, next_steps
    from nas.report.console import make_console
    from nas.report.progress import CalibrationProgress
    from nas.session.calibration import open_calibrator
    from nas.session.options import CalibrationOptions

    progress = CalibrationProgress(make_console(stderr=True))
    options = CalibrationOptions(**given)
    full = None
    if options.full_from:
        options, full = _given(options.full_from, options)
    calibrator = open_calibrator(cache, progress, options, full)
    with held(calibrator.folder / "lock", f"the calibration {calibrator.folder}"):
        calibrator.run()
        calibrated = assess(calibrator)
        files = write_report(calibrated, calibrator.folder)
    if as_json:
        return click.echo(json.dumps(calibrated.to_json(), indent=2))
    out = make_console()
    out.print(calibration_table(calibrated))
    for line in ["", calibrated.reason, "", *next_steps(calibrated, calibrator.folder, files)]:
        out.print(line, markup=False)
    return None


def _given(name: str, options: CalibrationOptions) -> tuple[CalibrationOptions, GivenFull]:
    """Return the full trainings of a study, and the options with its data, which have to be the same if given."""
    from nas.data.dataset import load_or_demo
    from nas.errors import CalibrationError
    from nas.full.ranking import given_full
    from nas.full.store import FullRuns
    from nas.space.bases import task_of_base

    study = open_study(name, options.storage)
    options = replace(options, data=options.data or study.settings.data or None)
    task = task_of_base(study.settings.space.base).name
    if load_or_demo(options.data, task).fingerprint != study.settings.fingerprint:
        raise CalibrationError(
            f"the full trainings of {study.shown} were made on other data than {options.data or 'the demo data'}"
        )
    return options, given_full(study, FullRuns(study.location).read())


@click.command(short_help="Print the distilled swaps of a study.")
@click.argument("study")
@TRUST
@STORAGE
@JSON
def bank(study: str, storage: str | None, as_json: bool) -> None:
    """Print the bank of STUDY: the distillation error of every swap, and mAP with only that swap made.

    Each distilled swap is put into the trained baseline and validated without further training, and so is a control:
    the original module, re-initialised and distilled in the same way. A swap on a par with its control is not a worse
    module; its distillation has not converged.

    \b
    nas bank blood
    """
    opened = open_study(study, storage)
    from nas.report.bank_table import bank_notes, bank_table
    from nas.report.console import make_console
    from nas.report.progress import Progress
    from nas.search.bank_validation import validate_bank
    from nas.space.bases import task_of_base

    cache = prepare()
    with opened.locked(), Progress(make_console(stderr=True), opened) as progress:
        found = validate_bank(opened, cache, progress)
    if as_json:
        return click.echo(json.dumps(found.to_json(), indent=2))
    out = make_console()
    out.print(bank_table(found, task_of_base(opened.settings.space.base)))
    for line in bank_notes(found, opened.settings):
        out.print(line, markup=False)
    return None
