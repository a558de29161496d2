"""How far the outputs of a variant's head are apart in what tasks have besides boxes and classes.

Masks: the Kullback-Leibler divergence of each pixel of the mask of an anchor, the mean over the pixels. Key points:
the distance in strides, the mean over the values. Rotated boxes: the sine of the angle between them. Each is weighted
by the baseline's largest class probability and summed over anchors, as boxes are (`nas.bank.scoring`).

Classification: the Kullback-Leibler divergence of the class probabilities, and nothing of boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

_MOST_MASKS = 64
"""Anchors of an image whose masks are compared: the most probable ones, of which others are copies."""


def further_divergence(
    target: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor], weight: torch.Tensor, sizes: Sequence[int]
) -> torch.Tensor | None:
    """Return how far outputs are from a target's, for each image and level, (images, levels); None without any.

    Args:
        target: As `nas.training.host_version.further_of` returns it, of the baseline.
        outputs: The same of a variant.
        weight: The baseline's largest class probability, (images, anchors).
        sizes: Number of anchors of each level.
    """
    if "proto" in target:
        apart = _masks_apart(target, outputs, weight)
    elif "angle" in target:
        apart = torch.sin(target["angle"] - outputs["angle"]).abs().mean(1)
    elif "kpts" in target:
        apart = 2 * (target["kpts"] - outputs["kpts"]).abs().mean(1)  # Ultralytics doubles them, in strides
    else:
        return None
    return torch.stack([part.sum(1) for part in torch.split(apart * weight, list(sizes), 1)], 1)


def classes_apart(target: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Return how far class logits, (images, classes), are from a target's: (images, 1, 2), the second part zero."""
    wanted, given = (logits.float().log_softmax(1) for logits in (target, outputs))
    apart = (wanted.exp() * (wanted - given)).sum(1)
    return torch.stack([apart, torch.zeros_like(apart)], 1)[:, None]


def _masks_apart(
    target: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor], weight: torch.Tensor
) -> torch.Tensor:
    """Return the divergence of the masks of anchors, (images, anchors); 0 of those that are not compared."""
    chosen = weight.topk(min(_MOST_MASKS, weight.shape[1])).indices
    logits, others = (
        torch.einsum("nca,nchw->nahw", part["mask_coefficient"].gather(2, _rows(chosen, part)), part["proto"])
        for part in (target, outputs)
    )
    truth = logits.sigmoid()
    cross, entropy = (
        functional.binary_cross_entropy_with_logits(given, truth, reduction="none") for given in (others, logits)
    )
    return torch.zeros_like(weight).scatter(1, chosen, (cross - entropy).mean((2, 3)))


def _rows(chosen: torch.Tensor, part: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return chosen[:, None].expand(-1, part["mask_coefficient"].shape[1], -1)
