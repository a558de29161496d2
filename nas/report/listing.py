"""What ``nas ops``, ``nas space``, ``nas cost`` and ``nas studies`` print."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from nas.errors import BuildError
from nas.report.console import make_console

if TYPE_CHECKING:
    from nas.ops.registry import Entry


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def print_modules(module: str | None, *, as_json: bool) -> None:
    """Print the registry by kind of slot, or one module in full.

    Raises:
        SpaceError: There is no such module.
    """
    from nas.errors import SpaceError
    from nas.model.module_card import WHERE, in_order, kinds_of, measure_module, timing
    from nas.ops import registry

    try:
        entries = [registry.get(module)] if module else sorted(registry.entries().values(), key=in_order)
    except ValueError as error:
        raise SpaceError(str(error)) from None
    if as_json:
        return click.echo(json.dumps([_module_json(e) for e in entries], indent=2))
    console = make_console()
    if module:
        return _print_module(entries[0])
    for kinds in dict.fromkeys(kinds_of(e) for e in entries):
        console.print(f"{kinds}", style="bold", markup=False)
        right = ("parameters", "MACs", "time")
        table = _table("module", *right, "fuse()", "what it is", "paper", right=right)
        for e in (e for e in entries if kinds_of(e) == kinds):
            figures, timed = measure_module(e), timing(e)
            ratio = f"{timed.ratio:g} x" if timed else ""
            table.add_row(
                e.name, f"{figures.params:,}", _millions(figures.macs), ratio, figures.fuse, e.summary, e.paper
            )
        console.print(table)
        console.print()
    for line in (
        f"parameters and MACs: {WHERE}, defaults; `nas ops NAME` shows one with its arguments",
        "time: a training step on a CPU over that of the layer it replaces (attention: of the C2f in front of it)",
        "fuse(): how many of its batch norms Ultralytics folds into convolutions",
        f"export: {_EXPORT}",
    ):
        console.print(line, markup=False)
    return None


_EXPORT = "ONNX (any batch and image size), TorchScript and torch.export, with equal outputs; all of them"


def _millions(macs: int) -> str:
    return f"{macs / 1e6:.3g} M" if macs else "0"


def _module_json(entry: Entry) -> dict[str, Any]:
    """Return all that is known of a module as plain values."""
    from nas.model.module_card import is_shipped, measure_module, timing

    figures, timed = measure_module(entry), timing(entry)
    return {
        "name": entry.name,
        "fits": sorted(entry.kinds),
        "channels": entry.rule,
        "paper": entry.paper,
        "summary": entry.summary,
        "requires": entry.requires,
        "starts": entry.starts,
        "from_ultralytics": entry.native,
        "params": figures.params,
        "macs": figures.macs,
        "norms": figures.norms,
        "norms_folded": figures.folded,
        "time": timed and timed.ratio,
        "time_beside": timed and timed.layer,
        "exports": ["onnx", "torchscript", "torch.export"] if is_shipped(entry) else None,
        "arguments": {
            a.name: {"default": a.default, "accepts": a.accepts, "help": a.help} for a in entry.args.values()
        },
    }


def _print_module(entry: Entry) -> None:
    """Print one module in full."""
    from nas.model.module_card import WHERE, is_shipped, kinds_of, measure_module, timed_how, timing, usage

    figures, timed = measure_module(entry), timing(entry)
    console = make_console()
    facts = {
        "": entry.summary,
        "paper": entry.paper,
        "fits": ("after a layer: " if entry.kinds == {"attention"} else "slots of kind ") + kinds_of(entry),
        "costs": f"{figures.params:,} parameters, {_millions(figures.macs)} MACs ({WHERE}, defaults)",
        "time": timed and f"{timed.text}: a training step on a CPU ({timed_how()})",
        "fuse()": f"{figures.fuse} of its batch norms folded" if figures.norms else "no batch norm to fold",
        "exports": _EXPORT.partition(";")[0] if is_shipped(entry) else "not tested: a module of your own",
        "from": "Ultralytics itself: needs no registration" if entry.native else "",
        "takes": "two maps: its layer's input, and a guide of its output's size" if entry.rule == "guided" else "",
        "needs": entry.requires,
        "starts": entry.starts and f"in a trained model: {entry.starts}",
    }
    console.print(entry.name, style="bold", markup=False)
    for name, text in facts.items():
        if text:
            console.print(f"{name:8}{text}" if name else text, markup=False)
    if entry.args:
        console.print()
        arguments = _table("argument", "default", "accepts", "what it does")
        for a in entry.args.values():
            arguments.add_row(a.name, str(a.default), a.accepts, a.help)
        console.print(arguments)
    if usage(entry):
        console.print(f"\n{usage(entry)}", markup=False)


def print_spaces() -> None:
    """Print the spaces that ship with the tool."""
    from nas.space.space_file import load_space, shipped

    table = _table("space", "base", "slots", "swaps", "variants", right=("slots", "swaps", "variants"))
    for name in shipped():
        s = load_space(name)
        table.add_row(name, s.base + s.scale, str(len(s.active)), str(len(s.single_swaps())), f"{s.size:.3g}")
    make_console().print(table)


def print_space(name: str, *, as_json: bool) -> None:
    """Print a space's slots and choices.

    Raises:
        SpaceError: It cannot be read.
    """
    from nas.space.space_file import load_space

    s = load_space(name)
    if as_json:
        return click.echo(json.dumps(json.loads(s.to_json()), indent=2))
    console = make_console()
    console.print(f"{s.name}: {s.base}{s.scale}, {len(s.active)} slots, {s.size:.3g} variants", markup=False)
    table = _table("slot", "kind", "layers", "choices")
    for slot in s.slots:
        layer = s.graph[slot.layers[0].removeprefix("after ")]
        tied = str(len(slot.layers)) if len(slot.layers) > 1 else ""
        kind = "insertion" if slot.layers[0].startswith("after ") else str(layer.kind)
        table.add_row(slot.key, kind + ("" if slot.enabled else " (off)"), tied, "  ".join(slot.choices))
    console.print(table, markup=False)
    for file in s.modules:
        console.print(f"own modules: {file.name} ({file.digest})", markup=False)
    for rule in s.forbid:
        console.print("forbidden: " + ", ".join(f"{k}={v}" for k, v in rule), markup=False)
    for key, value in s.limits:
        console.print(f"{key}: {value:g}", markup=False)
    return None


def print_check(name: str, scales: tuple[str, ...], *, all_scales: bool) -> None:
    """Prove a space and print what was proved.

    Raises:
        SpaceError: It cannot be read, or a choice fails.
    """
    from nas.model.check_space import check_space
    from nas.space.space_file import load_space

    s = load_space(name)
    chosen = tuple(s.graph.scales) if all_scales else tuple(s.with_scale(scale).scale for scale in scales) or (s.scale,)
    started = time.monotonic()
    proved = check_space(s, chosen)
    click.echo(
        f"{s.name}: {proved} choices build, run at two sizes and keep their layer's shape"
        f" (scale {', '.join(chosen)}; {time.monotonic() - started:.0f} s)"
    )


def print_cost(path: Path, *, as_json: bool, timed: tuple[Path, str, int] | None = None) -> None:
    """Print what a model YAML costs.

    Args:
        path: The YAML.
        as_json: Whether to print JSON.
        timed: Where latencies are kept, the device and the image side in pixels; None measures none.

    Raises:
        BuildError: It is no model YAML, or cannot be built.
        ModuleFileError: It names own modules that are not there.
        StudyError: There is no such device.
    """
    from nas.model.cost import IMGSZ, model_cost
    from nas.model.host import build, scale_of
    from nas.own import load_named

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"cannot read {path}: {error}") from None
    load_named(text, path.parent)
    scale = scale_of(path, text)
    cost = model_cost(build(text, scale))
    latency = None
    if timed:
        from nas.model.latency import LatencyMeter

        latency = LatencyMeter(*timed).measure(text, scale)
    if as_json:
        body = {"model": str(path), "imgsz": IMGSZ, **cost.to_json()}
        return click.echo(json.dumps(body | ({"latency": asdict(latency)} if latency else {}), indent=2))
    click.echo(f"parameters      {cost.params:,}")
    click.echo(f"GFLOPs          {cost.gflops:.2f}   (one image of {IMGSZ} px, Ultralytics' convention)")
    missed = cost.gflops - cost.stock_gflops
    share = f"it misses {missed / cost.gflops:.0%}" if abs(missed) > 0.005 * cost.gflops else "the same"
    click.echo(f"stock counter   {cost.stock_gflops:.2f}   ({share})")
    listed = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in cost.uncounted if count >= 50_000)
    click.echo(f"not counted     {listed}   (elements written)")
    if latency:
        spread = f"middle half of {latency.runs} runs within {latency.spread_ms:.2f} ms"
        click.echo(f"latency         {latency.ms:.2f} ms   (one image of {latency.imgsz} px, fused, float32; {spread})")
        click.echo(f"measured on     {latency.on}")
    return None


def print_studies(storage: str | None, *, as_json: bool) -> None:
    """Print the studies that there are."""
    from nas.ranking.race import winner_of
    from nas.ranking.rank import baseline_of, ranking_of
    from nas.ranking.replicates import pool_seeds
    from nas.study.catalog import list_studies

    found, problems = list_studies(storage)
    body = []
    for study in found:
        rows = ranking_of(study)
        base = baseline_of(pool_seeds(study.trials()))
        body.append(
            {
                "study": study.location.name,
                "file": study.location.shown,
                "space": study.settings.space.name,
                "data": study.settings.data or "demo",
                "trials": study.spent,
                "runs": sum(t.status == "done" for t in study.runs()),
                "asked": study.target,
                "baseline": round(base.map, 4) if base else None,
                "best": winner_of(study, rows).trial.describe() if rows else None,
            }
        )
    for problem in problems:
        click.echo(f"warning: {problem}", err=True)
    if as_json:
        return click.echo(json.dumps(body, indent=2))
    if not body:
        return click.echo("no studies here; `nas search` begins one")
    table = _table("study", "space", "data", "trials", "baseline mAP50-95", "best", "file")
    for row in body:
        table.add_row(
            *(str(row[k]) for k in ("study", "space", "data")),
            f"{row['trials']}/{row['asked']}",
            *("" if row[k] is None else str(row[k]) for k in ("baseline", "best", "file")),
        )
    return make_console().print(table)
