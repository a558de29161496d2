"""The output of ``nas cost``: parameters, GFLOPs and latency of a model YAML."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from nas.errors import BuildError
from nas.model.cost import IMGSZ, Cost, model_cost
from nas.model.host import build, check_size, scale_of
from nas.model.latency import Latency, LatencyMeter
from nas.own import own_modules_lacking


def print_cost(path: Path, *, as_json: bool, timed: tuple[Path, str, int] | None = None) -> None:
    """Print what a model YAML costs.

    Args:
        path: The YAML.
        as_json: Whether to print JSON.
        timed: The folder of stored latencies, the device and the image side in pixels; None measures no latency.

    Raises:
        BuildError: It is no model YAML, or cannot be built.
        OptionError: There is no such device.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"cannot read {path}: {error}") from None
    scale = scale_of(path, text)
    try:
        check_size(text, scale)
        cost = model_cost(build(text, scale))
    except BuildError as error:
        if missing := own_modules_lacking(text):  # a comment names them; nothing of it is imported
            names = " ".join(f"--modules {file}" for file in missing)
            raise BuildError(
                f"{error}\n{path} says that it needs own modules; if you trust them, give {names}"
            ) from None
        raise
    latency = LatencyMeter(*timed).measure(text, scale) if timed else None
    if as_json:
        body = {"model": str(path), "imgsz": IMGSZ, **cost.to_json()}
        return click.echo(json.dumps(body | ({"latency": asdict(latency)} if latency else {}), indent=2))
    return click.echo("\n".join([*_cost_lines(cost), *(_latency_lines(latency) if latency else [])]))


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
