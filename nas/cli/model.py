"""Commands that need no study: the modules there are, what a model costs, where boxes fall, what a bug report needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nas.cli.options import JSON, MODULES, STORAGE, TARGET_IMGSZ, TRUST, WINDOW, load_own, prepare
from nas.engines import ENGINES
from nas.task.task import DETECT, TASKS


@click.command(short_help="List the modules, or show one in detail.")
@click.argument("module", required=False)
@click.option("--host", is_flag=True, help="List the classes of the installed Ultralytics instead: `host:NAME`.")
@MODULES
@JSON
def ops(module: str | None, host: bool, module_files: tuple[Path, ...], as_json: bool) -> None:
    """List the modules that can be swapped in or inserted, by kind of slot, or show MODULE in detail.

    With --host, list what else the installed Ultralytics (a fork, perhaps) can build: `host:NAME` in a space.

    \b
    nas ops CARAFE
    nas ops --host
    nas ops --modules my_block.py
    """
    prepare()
    if host:
        from nas.report.module_list import print_host

        return print_host(module, as_json=as_json)
    load_own(module_files)
    from nas.report.module_list import print_modules

    return print_modules(module, as_json=as_json)


@click.command(short_help="Print parameters, GFLOPs and latency of a model.")
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--scale", metavar="LETTER", help="Scale letter. Default: that of the file name, else the file's first.")
@click.option("--latency", is_flag=True, help="Also measure the latency of one image on this machine.")
@click.option("--imgsz", type=click.IntRange(32), default=640, help="Image size of the latency, pixels. Default: 640.")
@click.option("--device", default="cpu", help="Device of the latency: cpu, or the number of a GPU. Default: cpu.")
@MODULES
@JSON
def cost(
    model: Path,
    scale: str | None,
    latency: bool,
    imgsz: int,
    device: str,
    module_files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Print the cost of a model YAML: parameters, GFLOPs, Ultralytics' own GFLOPs, and uncounted operations.

    \b
    nas cost out/yolov8n-1a2b3c4d.yaml
    nas cost my_model_yolov8n.yaml --modules my_block.py
    nas cost my_model.yaml --scale s --latency --imgsz 320
    """
    cache = prepare()
    load_own(module_files)
    from nas.report.cost_table import print_cost

    print_cost(model, scale, as_json=as_json, timed=(cache / "latency", device, imgsz) if latency else None)


class _Measures(click.Group):
    """A group whose first word may be a model: that is `nas latency measure`."""

    default = "measure"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the subcommand before arguments that name none."""
        known = (*self.commands, "-h", "--help")
        return super().parse_args(ctx, args if not args or args[0] in known else [self.default, *args])


@click.group(cls=_Measures, short_help="Print how long engines such as ONNX Runtime take for models.")
def latency() -> None:
    """Export models for engines, prove that they answer as PyTorch does, and time them.

    `nas latency STUDY` and `nas latency MODEL.yaml` are short for `nas latency measure`.
    """


_TOP = click.option("--top", type=click.IntRange(1), default=5, help="Of a study, so many variants. Default: 5.")
_LETTER = click.option("--scale", metavar="LETTER", help="Scale letter of the model YAMLs.")


def _conditions(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which models are measured, and under what."""
    for option in reversed(
        (
            click.option(
                "--imgsz",
                type=click.IntRange(32),
                help="Image size, pixels. Default: 640; of a study, that of the training that it is for.",
            ),
            click.option("--batch", type=click.IntRange(1), default=1, help="Images in a run. Default: 1."),
            click.option("--threads", type=click.IntRange(1), default=1, help="Threads of the engine. Default: 1."),
            click.option(
                "--precision", type=click.Choice(("fp32", "fp16")), default="fp32", help="Of the engine. Default: fp32."
            ),
            _TOP,
            click.option("--slots", is_flag=True, help="Of a study, also each swap of its space alone."),
            _LETTER,
            MODULES,
            TRUST,
            STORAGE,
        )
    ):
        command = option(command)
    return command


@latency.command("measure")
@click.argument("models", metavar="STUDY|MODEL...", nargs=-1, required=True)
@click.option(
    "--engine",
    "engines",
    default="onnxruntime",
    metavar="NAME,...",
    help=f"Of {', '.join(ENGINES)}. Default: onnxruntime.",
)
@_conditions
@click.option("--store", is_flag=True, help="Store the latencies of one engine in the study.")
@JSON
def latency_measure(
    models: tuple[str, ...],
    engines: str,
    batch: int,
    threads: int,
    precision: str,
    module_files: tuple[Path, ...],
    **given: Any,
) -> None:
    """Print how long engines take for the best variants of STUDY, or for model YAMLs and checkpoints (.pt).

    Each model is fused, exported for the engine, compared with PyTorch's answer (boxes and scores), and timed
    alternately with the first: the baseline of the study, or the first file.

    \b
    nas latency blood --engine onnxruntime,openvino,ncnn --threads 4
    nas latency blood --engine openvino --slots --store
    nas latency yolov8n.yaml out/yolov8n-1a2b3c4d.yaml --engine openvino --imgsz 320
    """
    prepare()
    load_own(module_files)
    from nas.engines import Conditions
    from nas.report.cost_table import print_latencies

    print_latencies(models, engines, Conditions(batch=batch, threads=threads, precision=precision), **given)


@latency.command("export")
@click.argument("models", metavar="STUDY|MODEL...", nargs=-1, required=True)
@click.option(
    "--engine", default="onnxruntime", metavar="NAME", help="The engine of that machine. Default: onnxruntime."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The folder to write."
)
@_conditions
def latency_export(
    models: tuple[str, ...],
    engine: str,
    output: Path,
    batch: int,
    threads: int,
    precision: str,
    module_files: tuple[Path, ...],
    **given: Any,
) -> None:
    """Write a folder that another machine measures, such as a board: it needs Python, NumPy and the engine there.

    `python run.py` in the folder compares the answers, times the models and writes latencies.json.

    \b
    nas latency export blood --engine ncnn --threads 4 -o board
    """
    prepare()
    load_own(module_files)
    from nas.engines import Conditions
    from nas.report.cost_table import write_latency_folder

    conditions = Conditions(batch=batch, threads=threads, precision=precision)
    write_latency_folder(models, engine, conditions, output, **given)


@latency.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("models", metavar="STUDY|MODEL...", nargs=-1, required=True)
@_LETTER
@MODULES
@TRUST
@STORAGE
@JSON
def latency_import(file: Path, models: tuple[str, ...], module_files: tuple[Path, ...], **given: Any) -> None:
    """Print FILE, the latencies.json of another machine, after a check that it is of these models; a study stores it.

    Rankings then show them, `nas solve --budget-latency` uses them, and a search of the study measures none itself.

    \b
    nas latency import latencies.json blood
    """
    prepare()
    load_own(module_files)
    from nas.report.cost_table import print_imported

    print_imported(file, models, **given)


@click.command(short_help="Print what a bug report needs.")
@JSON
def doctor(as_json: bool) -> None:
    """Print what a bug report needs: versions, devices, whether kernels compile, folders, Ultralytics' anchors."""
    prepare()
    from nas.report.doctor import print_report

    print_report(as_json=as_json)


@click.command(short_help="Show which detection levels a dataset uses.")
@click.argument("path", metavar="DATA", type=click.Path())
@TARGET_IMGSZ
@click.option("--imgsz", type=click.IntRange(32), help="Image size of a proxy, in pixels.")
@WINDOW
@click.option(
    "--task",
    type=click.Choice([task.name for task in TASKS.values() if task.has_proxies]),
    default=DETECT.name,
    show_default=True,
    help="What the labels are for.",
)
@JSON
def data(path: str, target_imgsz: int | None, imgsz: int | None, window: int | None, task: str, as_json: bool) -> None:
    """Print where the boxes of DATA, a data.yaml, fall by their size: shares of the detection levels P3, P4 and P5.

    Of a folder for classification, which labels no boxes, the images of each class are counted.

    Once at the image size of the training that is planned (the target), and once as a proxy sees them: on smaller
    images (--imgsz) or on windows cut out at the target's scale (--window). Without either, the cheapest proxy is shown
    whose shares are within 0.1 of the target's. If a study in this folder has trained a baseline on the same data, the
    levels are added that its assigner really uses.

    \b
    nas data data.yaml
    nas data data.yaml --target-imgsz 1280 --imgsz 320
    nas data polygons.yaml --task segment
    nas data class-folders --task classify
    """
    prepare()
    from dataclasses import asdict

    from nas.data.assigned import stored_levels
    from nas.data.class_folders import images_by_class
    from nas.data.dataset import load
    from nas.data.fidelity import check_target, compare, fidelity_of
    from nas.data.levels import read_labels

    dataset = load(path, task)
    train, val = len(dataset.train), len(dataset.val)
    if dataset.is_folder:
        folders = tuple(folder for folder, *_ in dataset.sources)
        counts = images_by_class(dataset.names, (dataset.train, dataset.val), folders)
        if as_json:
            return click.echo(json.dumps({"classes": counts}, indent=2))
        click.echo(f"{dataset.yaml}: {train:,} training and {val:,} validation images of {len(counts)} classes")
        for name, (here, there) in counts.items():
            click.echo(f"{name}: {here:,} and {there:,}")
        return click.echo("No boxes are labelled, so there are no detection levels and no windows: proxies see images")
    target = check_target(target_imgsz or 640)
    found = compare(read_labels(dataset)[0], target, fidelity_of(target, imgsz, window))
    trained = stored_levels(Path("studies") / "weights", dataset.fingerprint)
    if as_json:
        return click.echo(json.dumps({**found.to_json(), "trained": [asdict(one) for one in trained]}, indent=2))
    what = "boxes" if task == DETECT.name else "objects"
    click.echo(f"{dataset.yaml}: {train:,} training and {val:,} validation images, {sum(dataset.boxes):,} {what}")
    for line in [*found.lines, *(one.line for one in trained)]:
        click.echo(line)
    return None
