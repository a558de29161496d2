"""How far a head's predictions are from the trained one's: classes and the distributions of the sides.

Both parts are what the network's output loses by a candidate: the cross-entropy of the class logits with the trained
head's probabilities, less its least value, and the divergence of the distributions of the four sides from the trained
ones, weighted by the trained head's confidence, for only where there may be an object do the sides matter. An output
score is their sum; the distillation error of a head has each divided by what a constant would reach, as the error of a
layer is by the variance of its output: 0 is the same head, 1 one that says the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch.nn import functional

from nas.training.host_version import Level

HeadMaps: TypeAlias = "list[tuple[torch.Tensor, torch.Tensor]]"
"""For each level the distributions of the sides (N, 4 * reg_max, H, W) and the class logits (N, nc, H, W)."""
_TINY = 1e-9


def head_error(maps: HeadMaps, target: HeadMaps) -> torch.Tensor:
    """Return the mean of the relative errors of classes and sides, over all levels together.

    Args:
        maps: What the candidate predicts.
        target: What the trained head predicts from the same maps.
    """
    truth = [_level(*pair) for pair in target]
    found = divergence(truth, [_level(*pair) for pair in maps]).sum((0, 1))
    least = divergence(truth, _constant(truth)).sum((0, 1))
    return (found / least.clamp_min(_TINY)).mean()


def divergence(target: Sequence[Level], outputs: Sequence[Level]) -> torch.Tensor:
    """Return how far outputs are from a target's, for each image and level: classes, boxes; (images, levels, 2).

    Args:
        target: Of each level, the baseline's box logits, (images, 4, bins, anchors), and class logits, (images,
            classes, anchors).
        outputs: Those of a variant, of the same shapes. Where a head has no distributions (one bin), the box part is
            the absolute difference of the distances, in strides.
    """
    levels = []
    for (boxes, classes), (other_boxes, other_classes) in zip(target, outputs, strict=True):
        probability = classes.sigmoid()
        entropy = functional.binary_cross_entropy_with_logits(classes, probability, reduction="none")
        cross = functional.binary_cross_entropy_with_logits(other_classes, probability, reduction="none")
        if boxes.shape[2] == 1:
            apart = (other_boxes - boxes).abs().squeeze(2)
        else:
            log_target, log_other = boxes.log_softmax(2), other_boxes.log_softmax(2)
            apart = (log_target.exp() * (log_target - log_other)).sum(2)
        weight = probability.amax(1)
        levels.append(torch.stack([(cross - entropy).sum((1, 2)), (apart.mean(1) * weight).sum(1)], 1))
    return torch.stack(levels, 1)


def _level(sides: torch.Tensor, logits: torch.Tensor) -> Level:
    """Return a level's maps as `divergence` takes them, float32."""
    n, _, h, w = sides.shape
    return sides.reshape(n, 4, -1, h * w).float(), logits.flatten(2).float()


def _constant(target: Sequence[Level]) -> list[Level]:
    """Return the outputs of the best head that says the same everywhere: mean probabilities, mean distributions.

    Where there are no distributions, the mean distances.
    """
    boxes, classes = (torch.cat(parts, -1) for parts in zip(*target, strict=True))
    probability = classes.sigmoid()
    mean = probability.mean((0, 2))
    logits = mean.clamp_min(_TINY).log() - (1 - mean).clamp_min(_TINY).log()
    weight = probability.amax(1)[:, None, None]  # (images, 1, 1, anchors)
    bins = boxes.shape[2]
    sides = (boxes if bins == 1 else boxes.softmax(2)) * weight
    sides = sides.sum((0, 3)) / weight.sum().clamp_min(_TINY)
    sides = sides if bins == 1 else sides.clamp_min(_TINY).log()
    return [(sides[None, ..., None].expand_as(b), logits[None, :, None].expand_as(c)) for b, c in target]
