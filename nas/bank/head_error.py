"""How far a head's predictions are from the trained one's: classes and the distributions of the sides.

Both parts are what the network's output loses by a candidate: the cross-entropy of the class logits with the trained
head's probabilities, less its least value, and the divergence of the distributions of the four sides from the trained
ones, weighted by the trained head's confidence, for only where there may be an object do the sides matter. Each is
divided by what a constant would reach, as the error of a layer is by the variance of its output: 0 is the same head, 1
one that says the same everywhere.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch.nn import functional

HeadMaps: TypeAlias = "list[tuple[torch.Tensor, torch.Tensor]]"
"""For each level the distributions of the sides (N, 4 * reg_max, H, W) and the class logits (N, nc, H, W)."""
_TINY = 1e-9


def head_error(maps: HeadMaps, target: HeadMaps) -> torch.Tensor:
    """Return the mean of the relative errors of classes and sides, over all levels together.

    Args:
        maps: What the candidate predicts.
        target: What the trained head predicts from the same maps.
    """
    sides, logits = _joined(maps)
    true_sides, true_logits = _joined(target)
    truth = true_logits.sigmoid()
    classes = functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    least = _entropy(truth).sum()
    spread = (_entropy(truth.mean(0)) * len(truth)).sum() - least

    weight = truth.amax(1)  # (anchors,)
    log_true = true_sides.log_softmax(2)
    true = log_true.exp()
    apart = (true * (log_true - sides.log_softmax(2))).sum(2).mean(1)
    mean = (true * weight[:, None, None]).sum(0) / weight.sum().clamp_min(_TINY)
    constant = (true * (log_true - mean.clamp_min(_TINY).log())).sum(2).mean(1)
    boxes = (apart * weight).sum() / (constant * weight).sum().clamp_min(_TINY)
    return ((classes - least) / spread.clamp_min(_TINY) + boxes) / 2


def _entropy(p: torch.Tensor) -> torch.Tensor:
    """Return the entropy of yes or no with these probabilities, in nats."""
    found: torch.Tensor = -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p))
    return found


def _joined(maps: HeadMaps) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sides (anchors, 4, reg_max) and the class logits (anchors, nc) of all levels, float32."""
    sides = torch.cat([s.permute(0, 2, 3, 1).flatten(0, 2) for s, _ in maps]).float()
    logits = torch.cat([c.permute(0, 2, 3, 1).flatten(0, 2) for _, c in maps]).float()
    return sides.view(len(sides), 4, -1), logits
