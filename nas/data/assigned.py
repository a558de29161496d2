"""Which detection levels a trained baseline works at: the positives of its task-aligned assigner, by level.

The size of a box suggests a level (`nas.data.levels`); a YOLO detector learns where its assigner puts the positives:
for each object the ten anchors whose score and box fit best (Feng et al., "TOOD: Task-aligned One-stage Object
Detection", arXiv:2108.07755). An untrained network has no choice yet, so the baseline is asked after its training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.data.fidelity import Fidelity
from nas.data.levels import IDLE

_BATCHES = 8
"""Batches of training images on which positives are counted."""


@dataclass(frozen=True)
class Assigned:
    """The levels of a trained baseline that is stored.

    Attributes:
        base: Base and scale, such as ``yolov8n``.
        fidelity: What it was trained on.
        levels: Level to its share of the positives.
    """

    base: str
    fidelity: Fidelity
    levels: dict[str, float]

    @property
    def line(self) -> str:
        """Description."""
        return f"trained baseline, {self.base} on {self.fidelity.words}: {assigned_words(self.levels)}"


def assigned_words(levels: Mapping[str, float]) -> str:
    """Return shares of positives in words."""
    shares = ", ".join(f"{level} {share:.0%}" for level, share in levels.items())
    idle = [level for level, share in levels.items() if share < IDLE]
    unused = f"; it does not use {' and '.join(idle)}" if idle else ""
    return f"its assigner takes {shares} of the positives on training images{unused}"


def count_assigned(trainer: Any) -> dict[str, float]:
    """Return the share of each detection level in the positives of a baseline on training images.

    Args:
        trainer: A `nas.training.proxy_trainer.ProxyTrainer` that is set up, with the baseline's weights. Call it under
            `torch.no_grad`.

    Returns:
        Empty if the criterion has no assigner that is known, or there are no positives.
    """
    model = trainer.ema.ema
    criterion = getattr(model.criterion, "one2many", model.criterion)  # heads without NMS have two
    assigner = getattr(criterion, "assigner", None)
    strides = [int(s) for s in model.stride]
    counts = [0] * len(strides)
    seen: list[Any] = []
    if assigner is None:
        return {}
    handle = assigner.register_forward_hook(lambda _module, _inputs, output: seen.append(output[3]))
    try:
        for batch in trainer.sample(_BATCHES):
            seen.clear()
            model.loss(batch, model(batch["img"]))
            height, width = batch["img"].shape[2:]
            anchors = [(height // s) * (width // s) for s in strides]
            if len(seen) != 1 or seen[0].shape[-1] != sum(anchors):
                return {}
            for k, part in enumerate(seen[0].bool().split(anchors, dim=-1)):
                counts[k] += int(part.sum())
    finally:
        handle.remove()
    total = sum(counts)
    names = [f"P{round(math.log2(s))}" for s in strides]
    return {name: round(count / total, 4) for name, count in zip(names, counts, strict=True)} if total else {}


def stored_levels(weights: Path, fingerprint: str) -> list[Assigned]:
    """Return the levels of the trained baselines of a dataset, the newest first; one for each base and fidelity.

    Args:
        weights: Folder of baselines and banks.
        fingerprint: Of the dataset.
    """
    found: dict[tuple[str, Fidelity], Assigned] = {}
    files = [(file.stat().st_mtime, file) for file in weights.glob("bank-*/bank.json")]
    for _, file in sorted(files, reverse=True):
        try:
            body = json.loads(file.read_text(encoding="utf-8"))
            about, levels = body["about"], body.get("levels") or {}
            fidelity = Fidelity(int(about["recipe"]["imgsz"]), int(about["recipe"].get("windows_at", 0)))
            if about["data"] == fingerprint and levels:
                shares = {str(level): float(share) for level, share in levels.items()}
                found.setdefault((about["base"], fidelity), Assigned(str(about["base"]), fidelity, shares))
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ):  # a search that needs it says what is wrong
            continue
    return list(found.values())
