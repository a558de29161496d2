"""The output of ``nas space list``, ``show`` and ``check``."""

from __future__ import annotations

import json
import time

import click

from nas.report.console import make_console, make_table
from nas.space.space_file import load_space, shipped_spaces


def print_spaces() -> None:
    """Print the spaces that ship with the tool."""
    table = make_table("space", "base", "slots", "swaps", "variants", right=("slots", "swaps", "variants"))
    for name in shipped_spaces():
        s = load_space(name)
        table.add_row(name, s.stock, str(len(s.active)), str(len(s.single_swaps())), f"{s.size:.3g}")
    make_console().print(table)


def print_space(name: str, *, as_json: bool) -> None:
    """Print a space's slots and choices.

    Raises:
        SpaceError: It cannot be read.
    """
    s = load_space(name)
    if as_json:
        return click.echo(json.dumps(json.loads(s.to_json()), indent=2))
    console = make_console()
    console.print(f"{s.name}: {s.stock}, {len(s.active)} slots, {s.size:.3g} variants", markup=False)
    table = make_table("slot", "kind", "layers", "choices")
    for slot in s.slots:
        layer = s.graph[slot.layers[0].removeprefix("after ")]
        tied = str(len(slot.layers)) if len(slot.layers) > 1 else ""
        kind = "insertion" if slot.layers[0].startswith("after ") else str(layer.kind)
        table.add_row(slot.key, kind + ("" if slot.enabled else " (off)"), tied, "  ".join(slot.choices))
    console.print(table, markup=False)
    for line in s.left_out:
        console.print(line, markup=False)
    for file in s.modules:
        console.print(f"own modules: {file.name} ({file.digest})", markup=False)
    for rule in s.forbid:
        console.print("forbidden: " + ", ".join(f"{k}={v}" for k, v in rule), markup=False)
    for key, value in s.limits:
        console.print(f"{key}: {value:g}", markup=False)
    return None


def print_check(name: str, scales: tuple[str, ...], *, all_scales: bool) -> None:
    """Check a space, and print the number of choices that passed.

    Raises:
        SpaceError: It cannot be read, or a choice fails.
    """
    from nas.model.check_space import check_space

    s = load_space(name)
    chosen = tuple(s.graph.scales) if all_scales else tuple(s.with_scale(scale).scale for scale in scales) or (s.scale,)
    started = time.monotonic()
    passed = check_space(s, chosen)
    click.echo(
        f"{s.name}: {passed} choices build, run at two sizes and keep their layer's shape"
        f" (scale {', '.join(chosen)}; {time.monotonic() - started:.0f} s)"
    )
    for line in s.left_out:
        click.echo(line)
