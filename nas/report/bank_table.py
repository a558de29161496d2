"""The table of ``nas bank``, the notes under it, and what a slot that idles says of the data or of the proxy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from nas.bank.jobs import Distilled
from nas.bank.store import IDLE
from nas.data.assigned import assigned_words
from nas.data.fidelity import ADEQUATE, Fidelity
from nas.data.levels import LEVELS, USED, Shares
from nas.report.console import make_table
from nas.space.bases import shown_task
from nas.task.task import DETECT, Task
from nas.training.scores import signed

if TYPE_CHECKING:  # the notes under a ranking, which trains nothing, need only the words about slots
    from nas.search.bank_validation import BankValidation
    from nas.study.settings import Settings


def bank_table(found: BankValidation, task: Task = DETECT) -> Table:
    """Return a row for each candidate, by slot, the best first."""
    right = ("error at start", "error", task.said("mAP50-95"), "Δ baseline", "Δ control")
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


def idle_words(idle: Sequence[str], settings: Settings) -> list[str]:
    """Return what follows from slots that idle: the data do not need them, or the proxy does not show what they do.

    They are told apart by the shares of the detection levels (`nas.data.levels`) at the target and in the proxy. The
    level of a slot is that of its layer's stride; layers above P3 work for all levels.
    """
    if not idle or not settings.levels:
        return []
    target, proxy = (Shares(of, 0) for of in settings.levels)
    missing, near = proxy.idle_for(target), proxy.distance(target) <= ADEQUATE
    by_cause: dict[str, list[str]] = {"proxy": [], "data": [], "unclear": []}
    for slot in idle:
        level = _level_of(slot)
        unused = target.by_level[level] < USED
        by_cause["proxy" if level in missing else "data" if near or unused else "unclear"].append(slot)
    fidelity = Fidelity(settings.recipe.imgsz, settings.recipe.windows_at)
    used = " and ".join(f"{level} {target.by_level[level]:.0%}" for level in missing)
    words = {
        "data": (
            f"Idle on these data at {settings.target} px: {{}}. The baseline loses less than {IDLE:g} mAP50-95 when "
            "these layers put out only their channel means, though the proxy shows objects at the target's sizes: no "
            "swap can matter there, and the layers may be removed."
        ),
        "proxy": (
            f"Idle because of the proxy ({fidelity.words}): {{}}. At {settings.target} px boxes fall on their level "
            f"({used}), in the proxy none do: nothing is known of swaps there. `nas data` shows which proxy would do."
        ),
        "unclear": (
            f"Idle in this proxy ({fidelity.words}): {{}}. It may be the proxy's fault: the boxes fall on other levels "
            f"than at {settings.target} px (total variation {proxy.distance(target):.2f})."
        ),
    }
    return [text.format(", ".join(by_cause[cause])) for cause, text in words.items() if by_cause[cause]]


def _level_of(slot: str) -> str:
    """Return the detection level of a slot by its name, which ends in the level of its stride."""
    found = re.search(r"[pn](\d)(?:_\d+)?(?:\+.*)?$", slot)
    number = int(found[1]) if found else 0
    return LEVELS[min(max(number - 3, 0), len(LEVELS) - 1)]


def bank_notes(found: BankValidation, settings: Settings | None = None) -> list[str]:
    """Return the notes under the table; `settings` are those of the bank's study."""
    idle = found.bank.idle_slots
    lines = [
        "",
        f"Baseline: mAP50-95 {found.base:.3f}. Every row is validated right after distillation, without training.",
        *([f"Levels of the baseline: {assigned_words(found.bank.levels)}."] if found.bank.levels else []),
        "Error: mean squared error of the output on the validation images, over the variance of the layer's output.",
        (
            "A swap on a par with control (the layer's own module, re-initialised and distilled likewise) is "
            "not a worse module: its distillation has not converged."
        ),
    ]
    if settings and settings.levels:
        lines += idle_words(idle, settings)
    elif idle:
        lines.append(f"No swap can matter on these data in: {', '.join(idle)}. Nothing is lost without them.")
    task = shown_task(settings.space.base) if settings else DETECT
    return [task.said(line) for line in lines]
