"""The output of ``nas effects``: effects of modules, slots and swaps, and interactions of pairs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from nas.ranking.effects import Effect, Effects, Interaction
from nas.ranking.verdict import LEVEL
from nas.report.console import make_console, make_table
from nas.task.task import DETECT, Task
from nas.training.scores import signed

_MOST_PAIRS = 10
"""Number of pairs that are shown, the most significant first."""
_MOST_SWAPS = 24
"""Number of swaps that a note lists; JSON has all."""


def print_effects(found: Effects, task: Task = DETECT) -> None:
    """Print the effects of a study of a task as tables, with notes."""
    console = make_console()
    for kind in ("module", "slot", "swap"):
        console.print(_table(kind, found.of(kind), task))
        console.print()
    if found.interactions:
        console.print(_pairs(found.interactions[:_MOST_PAIRS]))
        console.print()
    for line in _notes(found):
        console.print(task.said(line), markup=False)


def _table(kind: str, effects: list[Effect], task: Task) -> Table:
    right = ("variants", task.said("Δ mAP50-95"), "Δ GFLOPs")
    table = make_table(kind, *right[:2], "verdict", right[2], right=right, no_wrap=(*right, "verdict"))
    for e in effects:
        reach = (e.map_interval[1] - e.map_interval[0]) / 2, (e.gflops_interval[1] - e.gflops_interval[0]) / 2
        verdict = "mixed" if e.mixed_with else e.verdict
        numbers = f"{signed(e.map, 4)} ±{reach[0]:.4f}", verdict, f"{signed(e.gflops, 3)} ±{reach[1]:.3f}"
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
    """Return the notes under the tables."""
    lines = [
        (
            f"{found.variants} variants. Effects are relative to the kept layer, averaged over a module's slots or a "
            "slot's choices; shrunk towards zero where scores are few or noisy; ± 95 %."
        ),
        (
            f"Verdicts: family-wise error rate of at most {LEVEL:.0%} (Holm's correction over all "
            f"{len(found.effects)} effects, and over all {len(found.interactions)} pairs)."
        ),
    ]
    if len(found.interactions) < found.pairs:
        lines.append(f"Pairs: the {len(found.interactions)} most frequent of {found.pairs}; others widen intervals.")
    clear = [i for i in found.interactions if i.verdict != "cannot tell"]
    if not found.interactions:
        lines.append("No two swaps occur together in two or more variants: interactions cannot be estimated.")
    elif not clear:
        lines.append(f"None of the {len(found.interactions)} pairs that occur at least twice clearly interacts.")
    for group in found.confounded():
        lines.append(f"Confounded: {_some(group)}. Variants with some of them and without the others tell them apart.")
    if found.untried:
        lines.append(f"Not tried yet: {_some(found.untried)}")
    return lines


def _some(swaps: Sequence[str]) -> str:
    """Return swaps as a list, or the first of many and how many there are."""
    more = len(swaps) - _MOST_SWAPS
    return ", ".join(swaps[:_MOST_SWAPS]) + (f" and {more} others (--json)" if more > 0 else "")
