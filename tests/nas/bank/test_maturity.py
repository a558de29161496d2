"""The length of a baseline's training: it goes on while it gains, up to a limit, and survives being killed between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nas.bank.artifacts import ArtifactStore
from nas.bank.maturity import FLAT, join, maturity_words, needs_more, part_recipe
from nas.space.space_file import read_space
from nas.training.jobs import ProxyResult
from nas.training.recipe import FINE_TUNE_LR0, SCRATCH_LR0, Recipe
from nas.training.scores import EpochScore, Validation

RECIPE = Recipe(init="bank", base_epochs=2, base_until=6)


def part(value: float) -> tuple[EpochScore, ...]:
    return EpochScore(1, 2.0, 1.0), EpochScore(2, 1.0, 1.0, Validation(2 * value, value, 1.0))


@pytest.mark.parametrize(
    ("maps", "expected", "words"),
    [
        ((0.2,), True, "its limit of 6 epochs allows no more"),
        ((0.2, 0.3), True, "still rising at its limit of 6 epochs: +0.100 mAP50-95 over its last 2 epochs"),
        ((0.2, 0.2 + FLAT / 2), False, "flat: +0.005 mAP50-95 over its last 2 epochs"),
        ((0.2, 0.1), False, "flat: -0.100 mAP50-95 over its last 2 epochs"),
        ((0.2, 0.3, 0.4), False, "still rising at its limit of 6 epochs: +0.100 mAP50-95 over its last 2 epochs"),
    ],
)
def test_it_needs_more_while_it_gains(maps, expected, words):
    parts = [part(value) for value in maps]
    assert needs_more(RECIPE, parts) == expected
    curve = join(parts)
    assert [score.epoch for score in curve] == list(range(1, 2 * len(parts) + 1))
    assert maturity_words(RECIPE, curve) == words


def test_a_given_length_is_one_part():
    fixed = replace(RECIPE, base_until=0)
    assert not needs_more(fixed, [part(0.2)])
    assert join([part(0.2)]) == part(0.2)
    assert not maturity_words(fixed, part(0.2))


def test_further_parts_are_fine_tuned():
    first, later = part_recipe(RECIPE, 0, ""), part_recipe(RECIPE, 1, __file__)
    assert (first.init, first.lr0, first.epochs) == ("scratch", SCRATCH_LR0, 2)
    assert (later.init, later.lr0, later.warmup_bias_lr, later.epochs) == (__file__, FINE_TUNE_LR0, 0.0, 2)
    assert len(later.init_digest) == 64
    assert replace(later, weights="", weights_digest="", base_lr0=SCRATCH_LR0) == replace(
        first, init=later.init, init_digest=later.init_digest, lr0=FINE_TUNE_LR0, warmup_epochs=0.5, warmup_bias_lr=0.0
    )


# ---- parts that are trained ------------------------------------------------------------------------------------------


class Learner:
    """A worker that reaches these mAP50-95, one a training, and is killed after some trainings."""

    def __init__(self, *maps: float, killed_after: int = 99) -> None:
        self.maps, self.killed_after = maps, killed_after
        self.jobs = []

    def run(self, job, on_epoch=None):
        if len(self.jobs) == self.killed_after:
            raise KeyboardInterrupt
        reached = Validation(0.5, self.maps[len(self.jobs)], 2.0)
        self.jobs.append(job)
        Path(job.save).write_bytes(f"baseline {job.seed}".encode())
        curve = tuple(EpochScore(e + 1, 3.0, 1.0, reached) for e in range(job.recipe.epochs))
        return ProxyResult(curve, None, (355, 355), 60.0)


@pytest.fixture
def make(tmp_path, recorder):
    def make(worker, folder: str = "weights") -> ArtifactStore:
        return ArtifactStore(
            folder=tmp_path / folder, space=read_space("slots: {neck.up_p3: [CARAFE]}", "s.yaml", "s"),
            data=Path("data.yaml"), fingerprint="f" * 16, versions=(("torch", "2"),), seed=0, worker=worker,
            observer=recorder, scratch=tmp_path / "run",
        )  # fmt: skip

    return make


UNTIL = Recipe(init="bank", base_epochs=3, base_until=12)


def test_a_baseline_is_trained_until_it_is_flat(make, recorder, tmp_path):
    worker = Learner(0.2, 0.3, 0.305)
    made = make(worker).baseline(UNTIL)
    assert [job.recipe.epochs for job in worker.jobs] == [3, 3, 3]
    assert [Path(job.init or "").name for job in worker.jobs] == [
        "", f"{made.file.stem}.part1.pt", f"{made.file.stem}.part2.pt",
    ]  # fmt: skip
    assert len({job.seed for job in worker.jobs}) == len({job.checkpoint for job in worker.jobs}) == 3
    assert made.file.read_bytes() == f"baseline {worker.jobs[-1].seed}".encode()
    assert (made.map, [s.epoch for s in made.curve], made.cpu_seconds) == (0.305, list(range(1, 10)), 180.0)
    assert recorder.said[-1] == (
        "baseline: mAP50-95 0.305 after 9 epochs, flat: +0.005 mAP50-95 over its last 3 epochs"
    )
    assert sorted(file.suffix for file in (tmp_path / "weights").glob("baseline-*")) == [".json", ".lock", ".pt"]
    assert make(Learner()).baseline(UNTIL) == made
    keys = {make(Learner()).baseline_key(replace(UNTIL, base_until=until)) for until in (0, 9, 12)}
    assert len(keys) == 3


def test_a_limit_ends_a_baseline(make, recorder):
    worker = Learner(0.1, 0.2, 0.3, 0.4, 0.5)
    make(worker).baseline(UNTIL)
    assert len(worker.jobs) == 4
    assert "still rising at its limit of 12 epochs" in recorder.said[-1]


def test_a_killed_baseline_resumes_with_its_last_part(make):
    worker = Learner(0.2, 0.3, killed_after=2)
    with pytest.raises(KeyboardInterrupt):
        make(worker).baseline(UNTIL)
    again = Learner(0.3)
    made = make(again).baseline(UNTIL)
    assert len(again.jobs) == 1
    assert (made.map, len(made.curve)) == (0.3, 9)
    whole = make(Learner(0.2, 0.3, 0.3), folder="other").baseline(UNTIL)
    assert (made.curve, made.file.read_bytes()) == (whole.curve, whole.file.read_bytes())
