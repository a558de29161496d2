"""What ``nas ops``, ``nas space``, ``nas cost`` and ``nas studies`` print."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.table import Table

from nas.console import make_console
from nas.errors import BuildError


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def print_modules(module: str | None, *, as_json: bool) -> None:
    """Print the registry, or one module in full.

    Raises:
        SpaceError: There is no such module.
    """
    from nas.errors import SpaceError
    from nas.ops import registry

    try:
        entries = [registry.get(module)] if module else list(registry.entries().values())
    except ValueError as error:
        raise SpaceError(str(error)) from None
    if as_json:
        body = [
            {
                "name": e.name,
                "fits": sorted(e.kinds),
                "channels": e.rule,
                "paper": e.paper,
                "summary": e.summary,
                "requires": e.requires,
                "starts": e.starts,
                "arguments": {
                    a.name: {"default": a.default, "accepts": a.accepts, "help": a.help} for a in e.args.values()
                },
            }
            for e in entries
        ]
        return click.echo(json.dumps(body, indent=2))
    console = make_console()
    table = _table("module", "fits", "arguments", "what it is", "paper")
    for e in entries:
        table.add_row(e.name, ", ".join(sorted(e.kinds)), ", ".join(e.args), e.summary, e.paper)
    console.print(table)
    if module:
        (entry,) = entries
        console.print()
        arguments = _table("argument", "default", "accepts", "what it does")
        for a in entry.args.values():
            arguments.add_row(a.name, str(a.default), a.accepts, a.help)
        console.print(arguments)
        if entry.requires:
            console.print(f"\nneeds: {entry.requires}", markup=False)
        if entry.starts:
            console.print(f"\nstarts, in a trained layer's place: {entry.starts}", markup=False)
        slot = {"up": "neck.up_p4", "down": "backbone.down_p3", "block": "neck.c2f_p3"}
        kind = next((k for k in ("up", "down", "block") if k in entry.kinds), None)
        if kind:
            console.print(f"\nnas emit-yaml --swap {slot[kind]}={entry.name} -o out/", markup=False)
    return None


def print_spaces() -> None:
    """Print the spaces that ship with the tool."""
    from nas.space_file import load_space, shipped

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
    from nas.space_file import load_space

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
    from nas.check import check_space
    from nas.space_file import load_space

    s = load_space(name)
    chosen = tuple(s.graph.scales) if all_scales else tuple(s.with_scale(scale).scale for scale in scales) or (s.scale,)
    started = time.monotonic()
    proved = check_space(s, chosen)
    click.echo(
        f"{s.name}: {proved} choices build, run at two sizes and keep their layer's shape"
        f" (scale {', '.join(chosen)}; {time.monotonic() - started:.0f} s)"
    )


def print_cost(path: Path, *, as_json: bool) -> None:
    """Print what a model YAML costs.

    Raises:
        BuildError: It is no model YAML, or cannot be built.
    """
    from nas.cost import IMGSZ, model_cost
    from nas.host import build, scale_of

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"cannot read {path}: {error}") from None
    cost = model_cost(build(text, scale_of(path, text)))
    if as_json:
        return click.echo(json.dumps({"model": str(path), "imgsz": IMGSZ, **cost.to_json()}, indent=2))
    click.echo(f"parameters      {cost.params:,}")
    click.echo(f"GFLOPs          {cost.gflops:.2f}   (one image of {IMGSZ} px, Ultralytics' convention)")
    missed = cost.gflops - cost.stock_gflops
    share = f"it misses {missed / cost.gflops:.0%}" if abs(missed) > 0.005 * cost.gflops else "the same"
    click.echo(f"stock counter   {cost.stock_gflops:.2f}   ({share})")
    listed = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in cost.uncounted if count >= 50_000)
    click.echo(f"not counted     {listed}   (elements written)")
    return None


def print_studies(storage: str | None, *, as_json: bool) -> None:
    """Print the studies that there are."""
    from nas.rank import baseline_of, ranking_of
    from nas.seeds import together, variants_spent
    from nas.study import list_studies

    found, problems = list_studies(storage)
    body = []
    for study in found:
        trials = study.trials()
        rows = ranking_of(study)
        base = baseline_of(together(trials))
        body.append(
            {
                "study": study.place.name,
                "file": str(study.place.file),
                "space": study.settings.space.name,
                "data": study.settings.data or "demo",
                "trials": variants_spent(trials),
                "runs": sum(t.status == "done" for t in trials),
                "asked": study.target,
                "baseline": round(base.map, 4) if base else None,
                "best": rows[0].trial.describe() if rows else None,
            }
        )
    for problem in problems:
        click.echo(f"warning: {problem}", err=True)
    if as_json:
        return click.echo(json.dumps(body, indent=2))
    if not body:
        return click.echo("no studies here; `nas search` begins one")
    table = _table("study", "space", "data", "trials", "baseline mAP50-95", "first of the ranking", "file")
    for row in body:
        table.add_row(
            *(str(row[k]) for k in ("study", "space", "data")),
            f"{row['trials']}/{row['asked']}",
            *("" if row[k] is None else str(row[k]) for k in ("baseline", "best", "file")),
        )
    return make_console().print(table)
