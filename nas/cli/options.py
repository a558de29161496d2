"""What the commands share: options, and what has to happen before anything heavy is imported."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nas.study.study import Study

STORAGE = click.option(
    "--storage",
    metavar="URL",
    help="sqlite:///PATH, or postgresql://USER:PASSWORD@HOST/DATABASE for several machines. Default: "
    "studies/<study>.db here.",
)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Trainings side by side, each in a process of its own; on GPUs they are dealt out. Default: 1.",
)
WEIGHTS = click.option("--weights", metavar="FILE.pt", help="Trained weights that the baseline's training starts from.")
BASE_EPOCHS = click.option(
    "--base-epochs",
    type=click.IntRange(0),
    help="Epochs of the baseline; with --weights, 0 takes them as they are. Default: 40, for the demo data 16.",
)
BANK_EPOCHS = click.option("--bank-epochs", type=click.IntRange(1), help="Epochs of distilling the bank. Default: 8.")
MODULES = click.option(
    "--modules",
    "module_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE.py",
    help="A Python file with modules of your own; repeat.",
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
                f"{value!r} is not TOP:K, how many variants get how many seeds each (K at least 2), such as 3:3; "
                "0 confirms none",
                param,
                ctx,
            )
        return Confirm(int(match[1]), int(match[2]))


CONFIRM = click.option(
    "--confirm",
    type=_Confirm(),
    metavar="TOP:K",
    help="Train the first TOP of the ranking, and the baseline, under further seeds until each has K. A variant "
    "that is clearly no longer first leaves its share to the others; 0 confirms none. Default: 3:3.",
)
PRECISION = click.option(
    "--precision",
    "amp",
    type=click.Choice(("fp32", "bf16")),
    callback=lambda _ctx, _param, value: {None: None, "fp32": False, "bf16": "bf16"}[value],
    help="What proxies compute in. bf16 takes a fifth off a CPU's time where it has AVX512-BF16 or AMX. Default: "
    "bf16 on GPUs that have it, else fp32.",
)
SEEDS = click.option("--seeds", type=click.IntRange(1), help="Seeds of every variant in the screening. Default: 1.")
BASELINES = click.option(
    "--baseline-per-seed/--one-baseline",
    default=None,
    help="Train a baseline under every seed, for its variants to inherit from: intervals and verdicts hold for more "
    "than one then. Or one for all: quicker, and true of that one. Default: as it was begun, or calibrated (--proxy); "
    "else one per seed.",
)
RUNGS = click.option(
    "--rungs",
    metavar="RUNG,...",
    help="Cheaper trainings that come first, the cheapest first, each EPOCHS[@IMGSZ][/SHARE of the training images]; "
    "only the best of each go on (docs/rungs.md). Default: none.",
)
ETA = click.option(
    "--eta", type=click.IntRange(2), help="Of so many variants on a rung, one goes on to the next. Default: 3."
)
RUNG = click.option(
    "--rung",
    type=click.IntRange(1),
    metavar="K",
    help="Look at the K-th rung, counted from the cheapest. Default: the study's own recipe.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def prepare() -> Path:
    """Take the host offline before anything imports it, and return the cache directory."""
    from nas.files import cache_dir
    from nas.model.offline import offline_environment

    cache = cache_dir()
    os.environ.update(offline_environment(cache))
    return cache


def load_own(files: tuple[Path, ...]) -> None:
    """Register the modules of the user's own files; `prepare` comes first."""
    if files:
        from nas.own import load_modules

        load_modules(*files)


def open_study(name: str, storage: str | None) -> Study:
    """Return a stored study."""
    prepare()
    from nas.study.location import locate
    from nas.study.study import Study

    return Study.load(locate(name, storage))
