"""Validates the bank of a study: the mAP50-95 of the baseline with each distilled swap in its layer's place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.bank.artifacts import ArtifactObserver
from nas.bank.jobs import CONTROL
from nas.bank.store import SwapBank
from nas.data.dataset import load_or_demo, write_resolved
from nas.errors import ProxyError, ProxyFailure, StudyError
from nas.own.trust import check_trusted
from nas.search.inheritance import weights_of
from nas.space.bases import task_of_base
from nas.space.variant import Variant, make_variant
from nas.study.study import Study
from nas.workers.process import ProxyWorker


@dataclass(frozen=True)
class BankValidation:
    """A bank, and the mAP50-95 of the baseline with one layer replaced by each candidate.

    Attributes:
        bank: The bank.
        base: mAP50-95 of the baseline, validated in the same way.
        maps: mAP50-95 by slot and label; candidates that failed are missing.
    """

    bank: SwapBank
    base: float
    maps: Mapping[tuple[str, str], float]

    def over_control(self, swap: tuple[str, str]) -> float | None:
        """Return a swap's gain in mAP50-95 over its control (`nas.bank.jobs.CONTROL`); None without one."""
        control = self.maps.get((swap[0], CONTROL))
        return None if control is None or swap not in self.maps or swap[1] == CONTROL else self.maps[swap] - control

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


def validate_bank(study: Study, cache: Path, observer: ArtifactObserver) -> BankValidation:
    """Validate the baseline with each candidate of a study's bank in its layer's place.

    Raises:
        StudyError: The study has no bank, or its data have changed.
        TrustError: It brings own modules that the user has not trusted.
        ProxyError: The baseline cannot be validated.
    """
    s = study.settings
    if s.recipe.init != "bank":
        raise StudyError(f"the study {study.location.name!r} has no bank: its variants start from {s.recipe.init}")
    check_trusted(s.space.modules, study.shown)
    dataset = load_or_demo(s.data, task_of_base(s.space.base).name)
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
            raise ProxyError(f"the baseline cannot be validated: {failure}") from None
        maps: dict[tuple[str, str], float] = {}
        usable = [swap for swap, c in bank.candidates.items() if not c.failure]
        observer.note(f"validating {len(usable)} swaps without training")
        for swap in usable:
            try:
                maps[swap] = score((swap,))
            except ProxyFailure as failure:
                observer.note(f"{swap[0]}={swap[1]}: {failure}")
    return BankValidation(bank, base, maps)
