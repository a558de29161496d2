"""Trainings that take no time: `ProxyWorker` and full trainings answer at once, and everything around them is real.

Their files are real too: tensors of untrained models by layer name, and checkpoints as the host writes them.
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nas.bank.jobs import Bank, DistilJob, Distilled, OutputScore, ScoreJob
from nas.full.run import FullEpoch, FullScores
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import named_state
from nas.space.variant import Variant
from nas.training.jobs import ProxyJob, ProxyResult
from nas.training.scores import EpochScore, Validation
from nas.yardstick.jobs import Pruned, PruneJob

SECONDS = 4.0
"""Time of an epoch, as it is reported: a budget of minutes then pays for few trials."""
CORES, MEMORY = 2, 64e9
"""What a machine has: `--workers auto`, and with it what a budget pays for, must not depend on what it has left."""


def lot(*what: object) -> float:
    """Return a number from 0 to 1 that is the same for the same things."""
    return zlib.crc32(repr(what).encode()) / 2**32


@cache
def stock_state(base: str, scale: str, nc: int) -> dict[str, torch.Tensor]:
    variant = Variant(base, scale)
    return named_state(build(render(variant).yaml, scale, nc).state_dict(), variant.graph())


def classes_of(data: Path) -> list[str]:
    """Return the class names of a data.yaml, or of a folder for classification."""
    if data.is_dir():
        return sorted(folder.name for folder in (data / "train").iterdir())
    names = yaml.safe_load(data.read_text(encoding="utf-8"))["names"]
    return [*names.values()] if isinstance(names, dict) else names


def train(job: ProxyJob, on_epoch: Any) -> ProxyResult:
    score = 0.4 + 0.01 * len(job.swaps) * (lot(*job.swaps) - 0.5) + 0.002 * lot(job.name, job.seed)
    curve = []
    for epoch in range(1, job.recipe.epochs + 1) or (0,):
        value = score * (1 - 0.5**epoch) if epoch else score
        curve.append(EpochScore(epoch, 2.0 + 1 / (epoch + 1), SECONDS * epoch, Validation(value + 0.2, value, 1.0)))
        if on_epoch:
            on_epoch(curve[-1])
    if job.save:
        torch.save(stock_state(job.base, job.scale, len(classes_of(Path(job.data)))), job.save)
    return ProxyResult(tuple(curve), curve[-1].validation, (355, 355), SECONDS, SECONDS)


def distil(job: DistilJob) -> Bank:
    found = []
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    for c in job.candidates:
        file = f"{zlib.crc32(repr(c).encode()):08x}.pt"
        torch.save({f"{c.slot}:none": torch.zeros(1)}, Path(job.folder) / file)
        found.append(Distilled(c, file, 1.0, 0.1 + 0.3 * lot(c)))
    drops = {c.slot: 0.0 if c.slot == "neck.down_n5" else 0.1 + 0.1 * lot(c.slot) for c in job.candidates}
    return Bank(0.4, tuple(drops.items()), tuple(found), 60.0, (("P3", 0.5), ("P4", 0.3), ("P5", 0.2)))


def score(job: ScoreJob) -> tuple[OutputScore, ...]:
    parts = [sum(0.5 + lot(swap) for swap in variant.swaps) for variant in job.variants]
    return tuple(OutputScore((p, p / 2, p / 4), (p, p, p), (p, p * 1.01)) for p in parts)


def prune(job: PruneJob) -> Pruned:
    variant = job.yardstick
    state = build(render(variant).yaml, variant.scale).state_dict()
    torch.save(named_state(state, variant.graph()), job.file)
    return Pruned(0.5, 0.2, 1.0) if job.distils else Pruned(None, None, 1.0)


def work(_worker: Any, job: Any, on_progress: Any = None) -> Any:
    """Do what a training process would, at once."""
    if isinstance(job, ProxyJob):
        return train(job, on_progress)
    if isinstance(job, DistilJob):
        return distil(job)
    if isinstance(job, ScoreJob):
        return score(job)
    assert isinstance(job, PruneJob), job
    return prune(job)


def train_in_full(job: Any, folder: Path, _stopped: Any, on_epoch: Any) -> FullScores:
    """Write the checkpoint that the host would write."""
    (file,) = folder.glob("*.yaml")
    names = classes_of(Path(job["arguments"]["data"]))
    model = build(file.read_text(encoding="utf-8"), "n", len(names))
    model.names = dict(enumerate(names))
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": -1, "model": model, "train_args": {}}, folder / "weights" / "best.pt")
    value = 0.5 + 0.05 * lot(file.name, job["arguments"]["seed"])
    on_epoch((FullEpoch(1, 0.5, 0.5, value + 0.1, value - 0.1), FullEpoch(2, 0.5, 0.5, value + 0.2, value)))
    return FullScores(0.5, 0.5, value + 0.2, value)


def be_instant(patch: pytest.MonkeyPatch) -> None:
    """Let all trainings of this process answer at once, as on a machine with two cores that are free."""
    import nas.full.handover
    import nas.full.session
    import nas.workers.count
    from nas.workers.process import ProxyWorker

    patch.setattr(nas.workers.count, "available_cores", lambda: CORES)
    patch.setattr(nas.workers.count, "available_memory", lambda: MEMORY)
    patch.setattr(ProxyWorker, "start", lambda self: None)
    patch.setattr(ProxyWorker, "work", work)
    patch.setattr(nas.full.session, "run_training", train_in_full)
    patch.setattr(nas.full.session.FullTraining, "latency", lambda self, run: (5.0, "a made-up processor"))
    patch.setattr(nas.full.handover, "_onnx", lambda run, made: (b"", "no ONNX is written"))


def stock_checkpoint(file: Path, nc: int) -> None:
    """Write a checkpoint of the stock model, untrained, as the host would."""
    model = build(render(Variant("yolov8", "n")).yaml, "n", nc)
    model.names = {k: f"class {k}" for k in range(nc)}
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": -1, "model": model, "train_args": {}}, file)
