"""A study that has learnt: a trained baseline, a bank distilled from it, and a winner that is assembled from both."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from nas.bank.store import SwapBank
from nas.model.cost import costed
from nas.study.location import locate
from nas.study.settings import Settings, current_versions
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.scores import EpochScore, Validation


def learnt_study(taught: Any, bank: SwapBank, folder: Path, swaps: dict[str, str]) -> Study:
    """Return a study in a folder, with copies of the weights; its winner has these swaps."""
    shutil.copytree(bank.folder.parent, folder / "weights")
    shutil.copytree(taught.weights.folder, folder / "weights", dirs_exist_ok=True)
    space = taught.weights.space
    settings = Settings(
        space, taught.recipe_of_bank, str(taught.yaml), taught.fingerprint, ("square", "disc"), (64, 32), 0, 0.02,
        current_versions(), objective="map",
    )  # fmt: skip
    return filled(Study.create(locate("s", f"sqlite:///{folder / 's.db'}"), settings, 2), bank, swaps)


def filled(study: Study, bank: SwapBank, swaps: dict[str, str]) -> Study:
    """Store a bank, the baseline and a winner with these swaps."""
    study.store_bank(bank)
    space = study.settings.space
    for k, changed in enumerate(({}, swaps)):
        assignment = {**space.baseline(), **changed}
        variant = space.variant(assignment)
        files, cost = costed(variant)
        trial = Trial(-1, variant, assignment, "running", yaml=files.yaml, params=cost.params, gflops=cost.gflops)
        curve = (EpochScore(1, 2.0, 0.1, Validation(0.6, 0.4 + 0.1 * k, 1.0)),)
        study.start(trial).end(status="done", curve=curve)
    return study
