"""The command about a dataset: where its boxes fall, and which proxy sees what the target will see."""

from __future__ import annotations

import json

import click

from nas.cli.options import JSON, TARGET_IMGSZ, WINDOW, prepare


@click.command(short_help="Show which detection levels a dataset uses.")
@click.argument("path", metavar="DATA", type=click.Path())
@TARGET_IMGSZ
@click.option("--imgsz", type=click.IntRange(32), help="Image size of a proxy, in pixels.")
@WINDOW
@JSON
def data(path: str, target_imgsz: int | None, imgsz: int | None, window: int | None, as_json: bool) -> None:
    """Print where the boxes of DATA, a data.yaml, fall by their size: shares of the detection levels P3, P4 and P5.

    Once at the image size of the training that is planned (the target), and once as a proxy sees them: on smaller
    images (--imgsz) or on windows cut out at the target's scale (--window). Without either, the cheapest proxy is shown
    whose shares are within 0.1 of the target's. If a study in this folder has trained a baseline on the same data, the
    levels are added that its assigner really uses.

    \b
    nas data data.yaml
    nas data data.yaml --target-imgsz 1280 --imgsz 320
    """
    prepare()
    from dataclasses import asdict
    from pathlib import Path

    from nas.bank.assigned import stored_levels
    from nas.data.dataset import load
    from nas.data.fidelity import compare, fidelity_of
    from nas.data.levels import read_labels

    dataset = load(path)
    target = target_imgsz or 640
    found = compare(read_labels(dataset)[0], target, fidelity_of(target, imgsz, window))
    trained = stored_levels(Path("studies") / "weights", dataset.fingerprint)
    if as_json:
        return click.echo(json.dumps({**found.to_json(), "trained": [asdict(one) for one in trained]}, indent=2))
    train, val = len(dataset.train), len(dataset.val)
    click.echo(f"{dataset.yaml}: {train:,} training and {val:,} validation images, {sum(dataset.boxes):,} boxes")
    for line in [*found.lines, *(one.line for one in trained)]:
        click.echo(line)
    return None
