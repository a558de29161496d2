"""The output of ``nas calibrate``: the best score of each proxy, and the next commands."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from nas.bank.store import IDLE
from nas.calibration.assessment import DIFFERENCE, Assessment
from nas.calibration.calibrator import CALIBRATION_SUFFIX
from nas.calibration.report import full_training_words, with_interval
from nas.report.console import make_table


def calibration_table(j: Assessment) -> Table:
    """Return the best score of each proxy."""
    right = ("CPU min", "spread/error", "resolves", f"CPU min for {DIFFERENCE:g}", "Spearman")
    table = make_table("proxy", "score", *right, right=right)
    for name, _ in j.calibration.proxies:
        m = j.best(name)
        table.add_row(
            m.proxy, m.score, f"{m.minutes:.2f}", f"{m.merit.ratio**0.5:.2f}", f"{m.merit.resolution():.4f}",
            f"{m.cost(DIFFERENCE):.3g}", with_interval(m.agreement.spearman, m.agreement.spearman_interval),
        )  # fmt: skip
    return table


def next_steps(j: Assessment, folder: Path, files: tuple[Path, ...]) -> list[str]:
    """Return the idle slots, the written files, and the command that uses them."""
    c = j.calibration
    idle = [slot for slot, drop in j.drops.items() if drop < IDLE]
    lines = [f"No swap can matter on these data in: {', '.join(idle)}."] if idle else []
    lines.append(full_training_words(j) or "Full training had one seed, so its agreement with itself is unknown.")
    lines.append("Written: " + ", ".join(str(f) for f in files))
    name = folder.name.removesuffix(CALIBRATION_SUFFIX)
    data = f" --data {c.data}" if c.data else ""
    return [*lines, f"Next:  nas search {c.space.name}{data} --proxy {name}"]
