"""A study with a baseline and two swaps on images of 64 px, and what trains its variants in full."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nas.data.dataset import load
from nas.full.arguments import FullOptions
from nas.full.session import FullTraining
from nas.model.cost import costed
from nas.space.space_file import read_space
from nas.study.location import locate
from nas.study.settings import Settings, current_versions
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.recipe import make_recipe
from nas.training.scores import EpochScore, Validation

SPACE = """
slots:
  neck.up_p4: [CARAFE]
  backbone.down_p5: [SPConv]
"""
SWAPS = ({}, {"neck.up_p4": "CARAFE"}, {"backbone.down_p5": "SPConv"})
TINY = ("batch=8", "plots=False", "warmup_epochs=0", "amp=False")


class Notes:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.epochs: list[int] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def epoch(self, run, last) -> None:
        self.epochs.append(last.epoch)


@pytest.fixture(scope="module")
def built():
    """Return the YAML and the cost of each variant of `SWAPS`, counted once."""
    space = read_space(SPACE, "small.yaml", "small")
    found = []
    for swaps in SWAPS:
        variant = space.variant({**space.baseline(), **swaps})
        files, cost = costed(variant)
        found.append((variant, files.yaml, cost))
    return space, found


@pytest.fixture
def full_study(tmp_path: Path, tiny_data: Path, built):
    """Return what makes a study; each variant has one seed."""

    def make(url: str = "", **changes) -> Study:
        space, variants = built
        dataset = load(changes.pop("data", tiny_data))
        recipe = make_recipe(init="scratch", epochs=1, imgsz=64, batch=8, base_epochs=None, device="cpu")
        settings = Settings(
            space, recipe, str(dataset.yaml), dataset.fingerprint, dataset.names,
            (len(dataset.train), len(dataset.val)), 0, 0.02, current_versions(),
        )  # fmt: skip
        study = Study.create(
            locate("s", url or f"sqlite:///{tmp_path / 's.db'}"), replace(settings, **changes), len(variants)
        )
        for k, (variant, yaml, cost) in enumerate(variants):
            assignment = {**space.baseline(), **SWAPS[k]}
            trial = Trial(
                -1, variant, assignment, "running", yaml=yaml, params=cost.params, gflops=cost.gflops,
                stock_gflops=cost.stock_gflops,
            )  # fmt: skip
            seen = Validation(0.6, 0.4 + 0.05 * k, 1.0)
            study.start(trial).end(status="done", curve=(EpochScore(1, 2.0, 0.1, seen),))
        return study

    return make


@pytest.fixture
def training(own_cache: Path):
    """Return what opens full trainings of a study; what it says is kept in `observer`."""

    def make(study: Study, **options) -> FullTraining:
        given = {"epochs": 1, "imgsz": 64, "device": "cpu", "arguments": TINY, **options}
        return FullTraining.open(own_cache, study, FullOptions(**given), Notes())

    return make
