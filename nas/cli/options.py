"""Options that several commands share, and what has to happen before anything heavy is imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nas.study.study import Study

DATA = click.option(
    "--data",
    type=click.Path(),
    help="data.yaml of the dataset; of classification its folder. Default: built-in demo data.",
)
TARGET_IMGSZ = click.option(
    "--target-imgsz",
    type=click.IntRange(32),
    metavar="PX",
    help="Image size of the training that is planned, in pixels: the proxy is chosen so that objects keep their "
    "detection levels (docs/proxies.md). Default: 640, of classification 224.",
)
WINDOW = click.option(
    "--window",
    type=click.IntRange(32),
    metavar="PX",
    help="Train the proxy on windows of PX pixels, cut from images at the size of the target.",
)
DEVICE = click.option(
    "--device",
    help="cpu, or the number of a GPU (with --workers, of the first). Default: the first GPU that can be used, or else "
    "cpu.",
)
SCALE = click.option("--scale", help="Scale letter (n, s, m, l, x). Default: the scale of the space.")
ENABLE = click.option(
    "--enable", multiple=True, metavar="SLOT", help="Enable a slot that is off in the space; globs work."
)
YARDSTICK = click.option(
    "--yardstick",
    metavar="BUDGET[,BUDGET]",
    help="Also train the yardstick: the baseline pruned uniformly to these GFLOPs, such as 6.5 or -25%, or `front`: to "
    "those of each variant on the front. Budgets of GFLOPs have theirs anyway.",
)
STORAGE = click.option(
    "--storage",
    metavar="URL",
    help="sqlite:///PATH, or postgresql://USER@HOST/DATABASE for several machines (password: PGPASSWORD or ~/.pgpass). "
    "Default: studies/<study>.db in this folder.",
)


class _Workers(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in the newest click alone
    """A number, or ``auto``, which is None."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number of workers; None where the tool chooses it."""
        if value == "auto":
            return None
        number = str(value)
        if not number.isdecimal() or not int(number):
            self.fail(f"expected auto or a number from 1, not {value!r}", param, ctx)
        return int(number)


WORKERS = click.option(
    "--workers",
    type=_Workers(),
    metavar="auto|N",
    help="Number of parallel trainings, each in its own process; GPUs are assigned in turn. Default: auto, which is as "
    "many as cores and memory allow, one thread each; on a GPU one.",
)
WEIGHTS = click.option(
    "--weights",
    metavar="FILE.pt",
    help="Initial weights of the baseline training. Default for a search: those of the stock model, such as "
    "yolov8n.pt, if they are in this folder or where Ultralytics keeps weights.",
)
BASE_EPOCHS = click.option(
    "--base-epochs",
    type=click.IntRange(0),
    help="Epochs of the baseline training; with --weights, 0 uses them as they are. Default: 40 (demo data: 3); a "
    "search without trained weights goes on until the validation is flat, for at most 120.",
)
BANK_EPOCHS = click.option(
    "--bank-epochs", type=click.IntRange(1), help="Epochs of distilling the bank. Default: 8 (demo data: 3)."
)
MODULES = click.option(
    "--modules",
    "module_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE.py",
    help="A Python file with your own modules; repeat for several.",
)


def _give_trust(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Let the code of a study run in this command."""
    if value:
        from nas.own.trust import given

        ctx.with_resource(given())


TRUST = click.option(
    "--trust",
    is_flag=True,
    expose_value=False,
    callback=_give_trust,
    help="Run the Python code of own modules that the study brings, here and in later commands.",
)


class _Confirm(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in the newest click alone
    """``TOP:K``, or 0 for none."""

    name = "TOP:K"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a `nas.study.budget.Confirm`."""
        from nas.study.budget import Confirm

        if isinstance(value, Confirm):
            return value
        if value == "0":
            return Confirm()
        match = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", value)
        if not match or int(match[2]) < 2:
            self.fail(
                f"{value!r} is not TOP:K (variants, and seeds for each, at least 2), such as 3:3; 0 disables it",
                param,
                ctx,
            )
        return Confirm(int(match[1]), int(match[2]))


CONFIRM = click.option(
    "--confirm",
    type=_Confirm(),
    metavar="TOP:K",
    help="Confirmation: train the best TOP variants and the baseline with further seeds until each has K. A variant "
    "that is clearly not the best is dropped, and its trainings go to the others; 0 disables it. Default: 3:3.",
)
PRECISION = click.option(
    "--precision",
    "amp",
    type=click.Choice(("fp32", "bf16")),
    callback=lambda _ctx, _param, value: {None: None, "fp32": False, "bf16": "bf16"}[value],
    help="Precision of trainings. bf16 takes 20 % less time on CPUs with AVX512-BF16 or AMX. Default: bf16 on GPUs of "
    "compute capability 8.0 and later, which compute in it natively, else fp32.",
)
SEEDS = click.option("--seeds", type=click.IntRange(1), help="Seeds per variant in the screening. Default: 1.")
BASELINES = click.option(
    "--baseline-per-seed/--one-baseline",
    default=None,
    help="Train one baseline per seed, from which the variants of that seed start: intervals and verdicts then cover "
    "the variance of baselines. Or share one baseline: faster, but verdicts hold for that one only. Default: the "
    "setting of the study or calibration; else one per seed.",
)
RUNGS = click.option(
    "--rungs",
    metavar="RUNG,...",
    help="Successive halving: cheaper trainings that run first, from the cheapest, each EPOCHS[@IMGSZ][/FRACTION of "
    "the training images], or EPOCHS@WINDOW/TARGET for windows; the best of each are trained at the next "
    "(docs/rungs.md). Default: none.",
)
BUDGET = click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    metavar="MINUTES",
    help="Approximate time of the whole search. What is not given of proxy, epochs, trials and confirmation is chosen "
    "for it by a short timed probe, and printed before the search starts. For a finished study: further trials.",
)
ETA = click.option(
    "--eta",
    type=click.IntRange(2),
    help="Halving factor: keep the best 1/ETA of the variants at each rung. Default: 3.",
)
RUNG = click.option(
    "--rung",
    type=click.IntRange(1),
    metavar="K",
    help="Show the K-th rung, counted from the cheapest. Default: the top one.",
)
BUDGET_GFLOPS = click.option(
    "--budget-gflops",
    metavar="AMOUNT,...",
    help="Look for the best variant of at most so many GFLOPs (at 640 px): an amount such as 6.5, or a change against "
    "the baseline such as -25%; several are several budgets.",
)
BUDGET_PARAMS = click.option(
    "--budget-params", metavar="AMOUNT,...", help="The same for parameters, such as 2.5M or -20%."
)
BUDGET_LATENCY = click.option(
    "--budget-latency",
    metavar="AMOUNT,...",
    help="The same for the latency of one image on this machine, in ms. Several kinds of budgets hold together, amount "
    "by amount.",
)
FORMATS = ("md", "latex", "csv")
"""Forms of the ablation table of full trainings (`nas.full.table`)."""
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def prepare() -> Path:
    """Set Ultralytics offline before anything imports it, and return the cache folder."""
    from nas.model.offline import set_offline

    return set_offline()


def load_own(files: tuple[Path, ...]) -> None:
    """Register the modules of the user's own files; call `prepare` first."""
    if files:
        from nas.own import load_modules

        load_modules(*files)


def open_study(name: str, storage: str | None) -> Study:
    """Return a stored study."""
    prepare()
    from nas.study.location import locate
    from nas.study.study import Study

    return Study.load(locate(name, storage))
