"""A trainer that answers at once, and what searches with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import nas.search.runner
from nas.bank.jobs import Bank, DistilJob, Distilled
from nas.errors import ProxyFailure
from nas.model.cost import Cost
from nas.model.render import render
from nas.search.loop import plan, run_search
from nas.search.runner import Runner
from nas.space.search_space import SearchSpace
from nas.space.space_file import read_space
from nas.study.location import locate
from nas.study.settings import Settings, current_versions
from nas.study.study import Study
from nas.training.jobs import ProxyJob, ProxyResult
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation
from nas.yardstick.jobs import Pruned, PruneJob

SPACE = """
slots:
  neck.up_p4: [CARAFE, DySample]
  neck.up_p3: [CARAFE, DySample]
"""


class FakeTrainer:
    """Answers with a score that depends on the variant alone; fails or stops where configured."""

    def __init__(
        self, fails: dict[str, str] | None = None, stop_at: int | None = None, diverge: tuple[str, ...] = ()
    ) -> None:
        self.jobs: list[ProxyJob] = []
        self.distillations: list[DistilJob] = []
        self.prunings: list[PruneJob] = []
        self.fails = fails or {}
        self.stop_at = stop_at
        self.diverge = diverge

    def run(self, job: ProxyJob, on_epoch: Callable[[EpochScore], None] | None = None) -> ProxyResult:
        self.jobs.append(job)
        if self.stop_at == len(self.jobs):
            raise KeyboardInterrupt
        for _, label in job.swaps:
            if label in self.fails:
                raise ProxyFailure("nan", self.fails[label])
        if job.save:
            Path(job.save).parent.mkdir(parents=True, exist_ok=True)
            Path(job.save).write_bytes(b"weights")
        score = 0.375 + 0.015625 * sum(label == "DySample" for _, label in job.swaps)
        last, seen = job.recipe.epochs, Validation(score + 0.25, score, 2.0)
        first = last - job.recipe.validations + 1
        curve = tuple(EpochScore(e, 2.0, 0.1, seen if e >= first else None) for e in range(1, last + 1))
        curve = curve or (EpochScore(0, 2.0, 0.1, seen),)
        for epoch in curve:
            if on_epoch:
                on_epoch(epoch)
        average = Validation(score + 0.25, score + 0.03125, 1.9) if job.average else None
        return ProxyResult(curve, average, (355, 355), cpu_seconds=3.0, seconds=1.0)

    def work(self, job, on_progress: Callable[[tuple[int, int]], None] | None = None):
        if isinstance(job, PruneJob):
            self.prunings.append(job)
            Path(job.file).write_bytes(b"pruned")
            return Pruned(0.5, 0.4, 2.0)
        self.distillations.append(job)
        made = []
        for c in job.candidates:
            if f"{c.slot}={c.label}" in self.diverge:
                made.append(Distilled(c, "", 1.0, float("nan"), "its distillation diverged"))
                continue
            made.append(Distilled(c, f"{c.slot}={c.label}.pt", 1.0, 0.3 if c.slot == "neck.up_p4" else 0.5))
            file = Path(job.folder) / made[-1].file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{c.slot}={c.label}")
        if on_progress:
            on_progress((1, 1))
        drops = tuple((slot, 0.2) for slot in dict.fromkeys(c.slot for c in job.candidates))
        return Bank(0.4, drops, tuple(made), cpu_seconds=5.0)


class WeightsObserver:
    def __init__(self) -> None:
        self.said: list[str] = []

    def baseline_training(self, recipe, seed) -> None:
        self.said.append(f"baseline training of {recipe.epochs}")

    def distilling(self, count) -> None:
        self.said.append(f"distilling {count}")

    def scoring(self, count) -> None:
        self.said.append(f"scoring {count}")

    def steps(self, done, total) -> None:
        self.said.append(f"step {done} of {total}")

    def trial_started(self, trial, position, target) -> None:
        self.said.append(f"{position}/{target} {trial.variant.describe()}")

    def epoch(self, score, epochs) -> None:
        pass

    def trial_ended(self, trial) -> None:
        self.said.append(f"{trial.status} {trial.variant.describe()}")

    def note(self, text) -> None:
        self.said.append(text)

    def for_worker(self, number) -> WeightsObserver:
        return self


def fake_costed(variant):
    gflops = 8.0 + len(variant.swaps)
    return render(variant, {variant.scale: "cost"}), Cost(
        3_000_000 + len(variant.swaps), gflops, gflops, (("silu", 5),)
    )


@pytest.fixture(autouse=True)
def _quick_costs(monkeypatch):
    monkeypatch.setattr(nas.search.runner, "costed", fake_costed)


@pytest.fixture
def fake_trainer() -> type[FakeTrainer]:
    """Return what trains in place of a process."""
    return FakeTrainer


@pytest.fixture
def space() -> SearchSpace:
    """Return the space of nine variants that is searched unless another is given."""
    return read_space(SPACE, "s.yaml", "s")


@pytest.fixture
def make_study(space: SearchSpace, tmp_path: Path):
    """Return what creates a study, all in one folder: its space, its name, changed settings, and a recipe."""

    def make(of: SearchSpace = space, name: str = "s", changes: dict | None = None, **recipe) -> Study:
        settings = Settings(
            space=of,
            recipe=Recipe(**{"epochs": 2, "init": "scratch", **recipe}),
            data="",
            fingerprint="f" * 16,
            classes=("a", "b"),
            images=(4, 2),
            seed=0,
            floor=0.02,
            versions=current_versions(),
        )
        where = locate(name, f"sqlite:///{tmp_path / f'{name}.db'}")
        return Study.create(where, replace(settings, **(changes or {})), 0)

    return make


@pytest.fixture
def run():
    """Return what searches: a study, how many trials, and a trainer unless a new one will do."""

    def search_in(
        study: Study, trials: int | None, trainer: FakeTrainer | None = None
    ) -> tuple[list, WeightsObserver, FakeTrainer]:
        observer, trainer = WeightsObserver(), trainer or FakeTrainer()
        with study.locked():
            plan(study, trials)
            result = run_search(study, [Runner(study, Path("data.yaml"), trainer, observer)])
        return result, observer, trainer

    return search_in
