"""What a study's bank says: how near each distilled swap comes to its layer, and what it does to mAP as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from nas.bank.artifacts import ArtifactObserver
from nas.bank.jobs import CONTROL, Distilled
from nas.bank.store import SwapBank
from nas.data.dataset import load_or_demo, write_resolved
from nas.errors import ProxyFailure, StudyError
from nas.search.inheritance import weights_of
from nas.space.variant import Variant, make_variant
from nas.study.study import Study
from nas.training.scores import signed
from nas.workers.process import ProxyWorker


@dataclass(frozen=True)
class BankReport:
    """A bank, and the mAP50-95 of the baseline with one layer from it.

    Attributes:
        bank: The bank.
        base: mAP50-95 of the baseline itself, validated in the same way.
        maps: Slot and label to the mAP50-95 with it; what failed is missing.
    """

    bank: SwapBank
    base: float
    maps: Mapping[tuple[str, str], float]

    def over_control(self, swap: tuple[str, str]) -> float | None:
        """Return what a swap does beyond its layer's own module distilled anew; None without one."""
        control = self.maps.get((swap[0], CONTROL))
        return None if control is None or swap not in self.maps or swap[1] == CONTROL else self.maps[swap] - control

    def notes(self) -> list[str]:
        """Return what has to be said under the table."""
        idle = self.bank.idle_slots
        lines = [
            "",
            f"Baseline as it is: mAP50-95 {self.base:.3f}. Nothing was trained after the distillation.",
            "Error: of the output on the validation images, in variances of the layer's output.",
            "A swap on a par with control (the layer's own module, re-initialised and distilled in the same way) is "
            "not a worse module: its distillation has not converged.",
        ]
        if idle:
            lines.append(f"No swap can matter on these data in: {', '.join(idle)}. Nothing is lost without them.")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        rows = []
        for swap, c in self.bank.candidates.items():
            rows.append(
                {
                    "slot": swap[0],
                    "label": swap[1],
                    "start_error": c.start_error if math.isfinite(c.start_error) else None,
                    "error": c.error if math.isfinite(c.error) else None,
                    "map50_95": self.maps.get(swap),
                    "over_baseline": self.maps[swap] - self.base if swap in self.maps else None,
                    "over_control": self.over_control(swap),
                    "failure": c.failure,
                }
            )
        return {
            "folder": str(self.bank.folder),
            "baseline": self.base,
            "drops": self.bank.drops,
            "idle_slots": self.bank.idle_slots,
            "candidates": rows,
        }


def bank_report(study: Study, cache: Path, observer: ArtifactObserver) -> BankReport:
    """Validate the baseline with each candidate of a study's bank in its layer's place.

    Raises:
        StudyError: The study has no bank, or the baseline cannot be validated.
    """
    s = study.settings
    if s.recipe.init != "bank":
        raise StudyError(f"the study {study.location.name!r} has no bank: its variants start from {s.recipe.init}")
    dataset = load_or_demo(s.data)
    if dataset.fingerprint != s.fingerprint:
        raise StudyError(f"the data of the study {study.location.name!r} have changed since its bank was distilled")
    recipe = replace(s.recipe, epochs=0)
    with ProxyWorker(cache) as worker:
        weights = weights_of(study, write_resolved(dataset, study.location.folder), worker, observer)
        bank = weights.bank(s.recipe, s.seed)
        baseline = Variant(s.space.base, s.space.scale)

        def score(swaps: tuple[tuple[str, str], ...]) -> float:
            labels = {slot: label for slot, label in swaps if label != CONTROL}
            variant = make_variant(baseline.base, baseline.scale, labels) if labels else baseline
            job = replace(weights.job(variant, recipe, s.seed), **weights.initial_files(recipe, swaps, bank))
            seen = worker.run(job).curve[-1].validation
            return seen.map if seen else 0.0

        try:
            base = score(())
        except ProxyFailure as failure:
            raise StudyError(f"the baseline cannot be validated: {failure}") from None
        maps: dict[tuple[str, str], float] = {}
        usable = [swap for swap, c in bank.candidates.items() if not c.failure]
        observer.note(f"validating {len(usable)} swaps as they are")
        for swap in usable:
            try:
                maps[swap] = score((swap,))
            except ProxyFailure as failure:
                observer.note(f"{swap[0]}={swap[1]}: {failure}")
    return BankReport(bank, base, maps)


def bank_table(report: BankReport) -> Table:
    """Return a row for each candidate, by slot, the best first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("slot", "swap", "error at start", "error", "mAP50-95", "Δ baseline", "Δ control", ""):
        table.add_column(name, justify="left" if name in ("slot", "swap", "") else "right")
    by_slot: dict[str, list[Distilled]] = {}
    for c in report.bank.candidates.values():
        by_slot.setdefault(c.candidate.slot, []).append(c)
    for slot, found in by_slot.items():
        for c in sorted(found, key=lambda c: -report.maps.get((slot, c.candidate.label), -1.0)):
            swap = (slot, c.candidate.label)
            value, over = report.maps.get(swap), report.over_control(swap)
            table.add_row(
                slot,
                c.candidate.label,
                f"{c.start_error:.3f}",
                f"{c.error:.3f}",
                "" if value is None else f"{value:.3f}",
                "" if value is None else signed(value - report.base, 3),
                "" if over is None else signed(over, 3),
                c.failure or ("cannot matter here" if slot in report.bank.idle_slots else ""),
            )
    return table
