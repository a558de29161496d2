"""What layers of the teacher see on training images, for candidates that start from it (`nas.ops.shrink`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from nas.bank.jobs import CONTROL, Candidate
from nas.ops import registry
from nas.ops.registry import Input
from nas.space.choice import AFTER, parse_choice

_PIXELS = 12_000
"""Pixels of a layer's input that are enough; of the smallest map where it has several."""
_BATCHES = 8
"""Most batches that are looked at: small maps have few pixels."""


def starts_from_images(candidate: Candidate) -> bool:
    """Return whether a candidate's module starts by what the layer sees."""
    if candidate.label == CONTROL or candidate.slot.startswith(AFTER):
        return False
    choice = parse_choice(candidate.label)
    if choice.share is not None:
        return True
    return choice.row is None and registry.get(choice.module).inherit is not None


def inputs_of(teacher: Any, rows: Iterable[int], batch: Callable[[int], Any]) -> dict[int, Input]:
    """Return the inputs of layers on training images.

    What a layer gets depends on the images alone, not on the other rows.

    Args:
        teacher: The trained baseline's model, in evaluation mode.
        rows: The layers' rows.
        batch: Returns the images of a step, (N, 3, H, W).

    Returns:
        Row to (N, C, H, W), or a list of such maps for a layer that takes several.
    """
    wanted = set(rows)
    found: dict[int, list[list[torch.Tensor]]] = {row: [] for row in wanted}

    def note(row: int) -> Any:
        def hook(_module: Any, inputs: tuple[Any, ...]) -> None:
            # A list of its own: Ultralytics' older heads write their outputs into the list that they are given.
            found[row].append(list(inputs[0]) if isinstance(inputs[0], list) else [inputs[0]])

        return hook

    several = {row for row in wanted if not isinstance(teacher.model[row].f, int)}
    for step in range(_BATCHES):
        lacking = [row for row in wanted if not _is_enough(found[row])]
        if not lacking:
            break
        handles = [teacher.model[row].register_forward_pre_hook(note(row)) for row in lacking]
        try:
            with torch.no_grad():
                teacher.predict(batch(step))
        finally:
            for handle in handles:
                handle.remove()
    joined = {row: [torch.cat(maps) for maps in zip(*parts, strict=True)] for row, parts in found.items()}
    return {row: maps if row in several else maps[0] for row, maps in joined.items()}


def _is_enough(parts: list[list[torch.Tensor]]) -> bool:
    """Return whether the smallest of a layer's maps have enough pixels together."""
    return (
        bool(parts) and min(sum(m.numel() // m.shape[1] for m in maps) for maps in zip(*parts, strict=True)) >= _PIXELS
    )
