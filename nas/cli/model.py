"""Commands that need no study: the modules there are, what a model costs, where boxes fall, what a bug report needs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nas.cli.options import JSON, MODULES, TARGET_IMGSZ, WINDOW, load_own, prepare
from nas.task.task import CLASSIFY, DETECT, TASKS


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
    type=click.Choice([task.name for task in TASKS.values() if task is not CLASSIFY]),
    default=DETECT.name,
    show_default=True,
    help="What the labels are for.",
)
@JSON
def data(path: str, target_imgsz: int | None, imgsz: int | None, window: int | None, task: str, as_json: bool) -> None:
    """Print where the boxes of DATA, a data.yaml, fall by their size: shares of the detection levels P3, P4 and P5.

    Once at the image size of the training that is planned (the target), and once as a proxy sees them: on smaller
    images (--imgsz) or on windows cut out at the target's scale (--window). Without either, the cheapest proxy is shown
    whose shares are within 0.1 of the target's. If a study in this folder has trained a baseline on the same data, the
    levels are added that its assigner really uses.

    \b
    nas data data.yaml
    nas data data.yaml --target-imgsz 1280 --imgsz 320
    nas data polygons.yaml --task segment
    """
    prepare()
    from dataclasses import asdict

    from nas.data.assigned import stored_levels
    from nas.data.dataset import load
    from nas.data.fidelity import compare, fidelity_of
    from nas.data.levels import read_labels

    dataset = load(path, task)
    target = target_imgsz or 640
    found = compare(read_labels(dataset)[0], target, fidelity_of(target, imgsz, window))
    trained = stored_levels(Path("studies") / "weights", dataset.fingerprint)
    if as_json:
        return click.echo(json.dumps({**found.to_json(), "trained": [asdict(one) for one in trained]}, indent=2))
    train, val = len(dataset.train), len(dataset.val)
    what = "boxes" if task == DETECT.name else "objects"
    click.echo(f"{dataset.yaml}: {train:,} training and {val:,} validation images, {sum(dataset.boxes):,} {what}")
    for line in [*found.lines, *(one.line for one in trained)]:
        click.echo(line)
    return None
