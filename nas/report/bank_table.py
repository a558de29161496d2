"""The table of ``nas bank``, and the notes under it."""

from __future__ import annotations

from rich.table import Table

from nas.bank.jobs import Distilled
from nas.report.console import make_table
from nas.search.bank_validation import BankValidation
from nas.training.scores import signed


def bank_table(found: BankValidation) -> Table:
    """Return a row for each candidate, by slot, the best first."""
    right = ("error at start", "error", "mAP50-95", "Δ baseline", "Δ control")
    table = make_table("slot", "swap", *right, "", right=right)
    by_slot: dict[str, list[Distilled]] = {}
    for c in found.bank.candidates.values():
        by_slot.setdefault(c.candidate.slot, []).append(c)
    for slot, candidates in by_slot.items():
        for c in sorted(candidates, key=lambda c: -found.maps.get((slot, c.candidate.label), -1.0)):
            swap = (slot, c.candidate.label)
            value, over = found.maps.get(swap), found.over_control(swap)
            table.add_row(
                slot,
                c.candidate.label,
                f"{c.start_error:.3f}",
                f"{c.error:.3f}",
                "" if value is None else f"{value:.3f}",
                "" if value is None else signed(value - found.base, 3),
                "" if over is None else signed(over, 3),
                c.failure or ("cannot matter here" if slot in found.bank.idle_slots else ""),
            )
    return table


def bank_notes(found: BankValidation) -> list[str]:
    """Return the notes under the table."""
    idle = found.bank.idle_slots
    lines = [
        "",
        f"Baseline: mAP50-95 {found.base:.3f}. Every row is validated right after distillation, without training.",
        "Error: mean squared error of the output on the validation images, over the variance of the layer's output.",
        (
            "A swap on a par with control (the layer's own module, re-initialised and distilled likewise) is "
            "not a worse module: its distillation has not converged."
        ),
    ]
    if idle:
        lines.append(f"No swap can matter on these data in: {', '.join(idle)}. Nothing is lost without them.")
    return lines
