"""The distillation error of a head: 0 for the same head, 1 for a constant, and sides without distributions count."""

from __future__ import annotations

import pytest
import torch

from nas.bank.head_error import head_error


def _maps(bins: int, classes: int, seed: int = 0):
    made = torch.Generator().manual_seed(seed)
    sizes = ((8, 6), (4, 3))
    return [
        (torch.randn(2, 4 * bins, *s, generator=made), 3 * torch.randn(2, classes, *s, generator=made)) for s in sizes
    ]


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("bins", [1, 16])
def test_the_same_head_has_no_error_and_both_parts_count(bins: int, classes: int) -> None:
    target, other = _maps(bins, classes), _maps(bins, classes, 1)
    assert float(head_error(target, target)) < 1e-5
    sides = [(s, logits) for (s, _), (_, logits) in zip(other, target, strict=True)]
    logits = [(s, logits) for (s, _), (_, logits) in zip(target, other, strict=True)]
    parts = float(head_error(sides, target)), float(head_error(logits, target))
    assert min(parts) > 0.5
    assert float(head_error(other, target)) == pytest.approx(sum(parts), rel=1e-4)


def test_a_head_that_says_the_same_everywhere_has_the_error_one() -> None:
    target = _maps(16, 3)
    every = torch.cat([logits.flatten(2) for _, logits in target], 2).sigmoid()
    sides = torch.cat([s.flatten(2).unflatten(1, (4, -1)) for s, _ in target], 3).softmax(2)
    weight = every.amax(1)[:, None, None]
    mean = ((sides * weight).sum((0, 3)) / weight.sum()).log().flatten()
    logits = every.mean((0, 2)).logit()
    constant = [(mean[None, :, None, None].expand_as(s), logits[None, :, None, None].expand_as(c)) for s, c in target]
    assert float(head_error(constant, target)) == pytest.approx(1, rel=1e-4)


def test_certain_classes_and_half_precision_give_numbers() -> None:
    target = [(sides.half(), torch.full_like(logits, 60.0).half()) for sides, logits in _maps(16, 1)]
    maps = [(sides.half(), logits.half()) for sides, logits in _maps(16, 1, 1)]
    assert head_error(maps, target).isfinite()
    assert head_error(target, target) == 0
