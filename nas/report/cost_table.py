"""The output of ``nas cost``: parameters, GFLOPs and latency of a model YAML."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from nas.errors import BuildError, ModelError
from nas.fork.names import registered_name
from nas.fork.rows import as_lines, row_problems
from nas.fork.signature import ambiguous
from nas.model.cost import IMGSZ, Cost, model_cost
from nas.model.host import build, check_size, chosen_scale
from nas.model.latency import Latency, LatencyMeter
from nas.ops import registry
from nas.own import own_modules_lacking
from nas.space.model_yaml import ModelYaml, parse_model_yaml, read_model_text


def print_cost(
    path: Path, scale: str | None = None, *, as_json: bool, timed: tuple[Path, str, int] | None = None
) -> None:
    """Print what a model YAML costs.

    Args:
        path: The YAML.
        scale: Scale letter; None for what Ultralytics reads.
        as_json: Whether to print JSON.
        timed: The folder of stored latencies, the device and the image side in pixels; None measures no latency.

    Raises:
        ModelError: It is no model YAML, or names classes that are not there; each with its line.
        BuildError: It cannot be built.
        OptionError: There is no such device.
    """
    text, word = read_model_text(path)
    model = parse_model_yaml(text, str(path))
    try:
        check_model(model)
        scale, note = chosen_scale(path, model, scale)
        for line in filter(None, (word, note, *_doubtful(model))):
            click.echo(line, err=True)
        check_size(text, scale)
        cost = model_cost(build(text, scale))
    except (BuildError, ModelError) as error:
        if missing := own_modules_lacking(text):  # a comment names them; nothing of it is imported
            names = " ".join(f"--modules {file}" for file in missing)
            raise type(error)(
                f"{error}\n{path} says that it needs own modules; if you trust them, give {names}"
            ) from None
        raise
    latency = LatencyMeter(*timed).measure(text, scale) if timed else None
    if as_json:
        body = {"model": str(path), "imgsz": IMGSZ, **cost.to_json()}
        return click.echo(json.dumps(body | ({"latency": asdict(latency)} if latency else {}), indent=2))
    return click.echo("\n".join([*_cost_lines(cost), *(_latency_lines(latency) if latency else [])]))


def check_model(model: ModelYaml) -> None:
    """Raise ModelError, with all lines, if a model YAML has no nc, or rows that cannot be built."""
    found = row_problems((row.line, row.module) for row in model.rows)
    if not model.named_nc:
        found.append((1, "no nc, the number of classes, without which Ultralytics builds nothing: add `nc: 80`"))
    if found:
        raise ModelError("\n".join(as_lines(model.file, found)))


def _doubtful(model: ModelYaml) -> list[str]:
    """Return a line for each row that the registered module of its name may read in another way than its author."""
    entries = registry.entries()
    found = []
    for row in model.rows:
        ours = registered_name(row.module)
        own = row.args[0 if ours and entries[ours].rule in ("same", "guided") else 1 :]
        if ours and (why := ambiguous(entries[ours], own)):
            found.append(f"{model.file}:{row.line}: {why}; this is the cost of the registered one")
    return found


def _cost_lines(cost: Cost) -> list[str]:
    missed = cost.gflops - cost.stock_gflops
    share = f"it misses {missed / cost.gflops:.0%}" if abs(missed) > 0.005 * cost.gflops else "the same"
    listed = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in cost.uncounted if count >= 50_000)
    return [
        f"parameters      {cost.params:,}",
        f"GFLOPs          {cost.gflops:.2f}   (one image of {IMGSZ} px, Ultralytics' convention)",
        f"stock counter   {cost.stock_gflops:.2f}   ({share})",
        f"not counted     {listed}   (elements written)",
    ]


def _latency_lines(latency: Latency) -> list[str]:
    spread = f"middle half of {latency.runs} runs within {latency.spread_ms:.2f} ms"
    return [
        f"latency         {latency.ms:.2f} ms   (one image of {latency.imgsz} px, fused, float32; {spread})",
        f"measured on     {latency.on}" + (f"; timed as {latency.by}" if latency.by else ""),
    ]
