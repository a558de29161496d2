"""`nas train`: from a ranking to trained models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nas.cli.options import DATA, JSON, STORAGE, TRUST, open_study, prepare
from nas.errors import StudyError

if TYPE_CHECKING:
    from nas.full.run import FullEpoch, FullRun
    from nas.study.study import Study

_EXTRAS = ("baseline", "pruned", "scaled")


class _Extras(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in the newest click alone
    """Words separated by commas."""

    name = "WORD,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the words, each once."""
        if isinstance(value, tuple):
            return value
        words = tuple(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))
        if not words or not set(words) <= set(_EXTRAS):
            self.fail(f"expected some of {', '.join(_EXTRAS)}, separated by commas, not {value!r}", param, ctx)
        return words


@click.command(short_help="Train variants of a study in full.")
@click.argument("study")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--best", is_flag=True, help="The winner of the study (the default).")
@click.option("--trial", type=int, metavar="N", help="The variant of the trial with this number.")
@click.option("--variant", "variants", multiple=True, metavar="ID", help="The variant with this ID; repeatable.")
@click.option("--front", is_flag=True, help="All variants on the Pareto front of mAP and GFLOPs.")
@click.option(
    "--with",
    "extras",
    type=_Extras(),
    default=(),
    metavar="WHAT,...",
    help="Train for comparison: baseline; and at the variant's GFLOPs pruned, the baseline with fewer channels "
    "(docs/yardstick.md), and scaled, the stock model at a smaller width and depth.",
)
@click.option("--epochs", type=click.IntRange(1), default=100, show_default=True, help="Epochs.")
@click.option(
    "--imgsz",
    type=click.IntRange(32),
    metavar="PX",
    help="Image size. Default: the study's target, or Ultralytics' own.",
)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Seeds of each model.")
@click.option(
    "--from",
    "start",
    metavar="START",
    default="scratch",
    show_default=True,
    help="Initial weights: scratch; inherit, the study's trained baseline; bank, that with the distilled swaps; or a "
    "FILE.pt of the stock model.",
)
@click.option("--distill", is_flag=True, help="Teach the variants by the trained baseline of the same seed.")
@DATA
@click.option(
    "--device", metavar="DEVICE", help="cpu, a GPU, or several such as 0,1 (DDP). Default: the first GPU, or else cpu."
)
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Parallel trainings; GPUs in turn."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    help="Then write the winner's folder here: best.pt, a bundle, ONNX, table, commands and versions.",
)
@click.option("--force", is_flag=True, help="Replace existing files of --output.")
@TRUST
@STORAGE
@JSON
@click.pass_context
def train(
    ctx: click.Context,
    /,
    study: str,
    storage: str | None,
    as_json: bool,
    output: Path | None,
    force: bool,
    **given: Any,
) -> None:
    """Train variants of STUDY in full, with plain Ultralytics, and store the results with the study.

    KEY=VALUE are Ultralytics' own training arguments. Finished trainings are stored: run it again to resume what was
    stopped, on this or another machine of the same storage. `nas rank STUDY --full` ranks them. The exit code is 1 if
    one of them has failed.

    \b
    nas train blood --with baseline --epochs 100 --seeds 3
    nas train blood --variant 1a2b3c4d --with baseline,scaled --from bank --distill batch=32 cos_lr=True
    nas train blood --with baseline --seeds 3 -o out/
    """
    which = ["--best"] * given["best"] + ["--front"] * given["front"] + ["--variant"] * bool(given["variants"])
    which += ["--trial"] * (given["trial"] is not None)
    if len(which) > 1:
        raise click.UsageError(f"give one of {', '.join(which)}")
    opened = open_study(study, storage)
    from nas.full.arguments import FullOptions
    from nas.full.session import FullTraining
    from nas.space.bases import shown_task

    training = FullTraining.open(prepare(), opened, FullOptions(**given), _Lines())
    runs = training.run()
    if output:
        _hand_over(opened, runs, output, force)
    if as_json:
        click.echo(json.dumps([run.to_json() for run in runs], indent=2))
    for run in [] if as_json else runs:
        what = (
            f"{shown_task(run.base).metric} {run.map:.4f}  {run.weights}"
            if run.status == "done"
            else run.failure or run.status
        )
        click.echo(f"{run.model}  seed {run.seed}  {run.gflops:.2f} GFLOPs  {what}")
    if any(run.status == "failed" for run in runs):
        ctx.exit(1)


def _hand_over(study: Study, runs: list[FullRun], output: Path, force: bool) -> None:
    """Write the folder of the winner, and say what is in it."""
    from nas.emit.output import write_files
    from nas.full.handover import hand_over, rows_of

    rows = rows_of(study, runs)
    if not rows:
        raise StudyError(f"{study.shown}: no full training has finished, so nothing is written to {output}")
    made = hand_over(study, rows, sys.argv[1:])
    for path in write_files(made.texts, output, force=force, dry_run=False):
        click.echo(f"wrote {path}", err=True)
    for note in made.notes:
        click.echo(note, err=True)


class _Lines:
    """Prints the progress, an epoch a line: the first, the last, and one in ten between them."""

    def note(self, text: str) -> None:
        """See `FullObserver`."""
        click.echo(text, err=True)

    def epoch(self, run: FullRun, last: FullEpoch) -> None:
        """See `FullObserver`."""
        from nas.space.bases import shown_task

        if last.epoch in (1, run.epochs) or last.epoch % max(1, run.epochs // 10) == 0:
            scored = f"{shown_task(run.base).metric} {last.map:.4f}"
            click.echo(f"{run.name} seed {run.seed}: epoch {last.epoch}/{run.epochs}, {scored}", err=True)
