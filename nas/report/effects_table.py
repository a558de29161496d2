"""What ``nas effects`` prints."""

from __future__ import annotations

from rich.table import Table

from nas.ranking.effects import Effect, Effects, Interaction
from nas.ranking.verdict import LEVEL
from nas.report.console import make_console, make_table
from nas.training.scores import signed

_MOST_PAIRS = 10
"""Pairs that are shown; the surest are the first."""


def print_effects(found: Effects) -> None:
    """Print the effects of a study as tables, with what has to be said of them."""
    console = make_console()
    for kind in ("module", "slot", "swap"):
        console.print(_table(kind, found.of(kind)))
        console.print()
    if found.interactions:
        console.print(_pairs(found.interactions[:_MOST_PAIRS]))
        console.print()
    for line in _notes(found):
        console.print(line, markup=False)


def _table(kind: str, effects: list[Effect]) -> Table:
    right = ("variants", "Δ mAP50-95", "Δ GFLOPs")
    table = make_table(kind, *right[:2], "verdict", right[2], right=right, no_wrap=(*right, "verdict"))
    for e in effects:
        reach = (e.map_interval[1] - e.map_interval[0]) / 2, (e.gflops_interval[1] - e.gflops_interval[0]) / 2
        told = "mixed" if e.mixed_with else e.verdict
        numbers = f"{signed(e.map, 4)} ±{reach[0]:.4f}", told, f"{signed(e.gflops, 3)} ±{reach[1]:.3f}"
        table.add_row(e.name, str(e.variants), *numbers)
    return table


def _pairs(pairs: tuple[Interaction, ...]) -> Table:
    right = ("variants", "beyond its parts")
    table = make_table("pair", *right, "verdict", right=right, no_wrap=(*right, "verdict"))
    for p in pairs:
        reach = (p.interval[1] - p.interval[0]) / 2
        table.add_row("  ".join(p.swaps), str(p.variants), f"{signed(p.map, 4)} ±{reach:.4f}", p.verdict)
    return table


def _notes(found: Effects) -> list[str]:
    """Return what has to be said under the tables."""
    lines = [
        (
            f"{found.variants} variants. Effects against keeping a layer, the mean over a module's slots and a slot's "
            "choices; drawn towards zero where few or noisy scores speak, ± 95 %."
        ),
        (
            f"Verdicts: with a chance of at most {LEVEL:.0%} any of them is wrong where nothing has an effect (Holm's "
            f"correction over all {len(found.effects)}, and over all {len(found.interactions)} pairs)."
        ),
    ]
    told = [i for i in found.interactions if i.verdict != "cannot tell"]
    if not found.interactions:
        lines.append("No two swaps stand together in two variants or more: interactions cannot be told.")
    elif not told:
        lines.append(f"None of the {len(found.interactions)} pairs that stand together twice clearly interacts.")
    for effect in found.of("swap"):
        if effect.mixed_with:
            lines.append(f"{effect.name} cannot be told apart from {', '.join(effect.mixed_with)}: try it without.")
    if found.untried:
        lines.append(f"Not tried yet: {', '.join(found.untried)}")
    return lines
