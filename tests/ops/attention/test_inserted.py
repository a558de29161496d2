"""Attentions behind a trained layer: near the identity at first, and able to learn."""

from __future__ import annotations

import copy

import pytest
import torch
from contract_cases import CASES, REDUNDANT
from torch import nn

from nas.ops.registry import entries
from nas.ops.warm_start import apply_start

EXACT = {"LSKA", "ContextAggregation"}
"""Start as the identity, bit for bit."""
C = 64
"""Channels: with few of them a hidden layer is one unit, which may have no gradient."""
ATTENTIONS = [case for case in CASES if "attention" in case.entry.kinds]
every_attention = pytest.mark.parametrize("case", ATTENTIONS, ids=str)


def maps() -> torch.Tensor:
    """Return feature maps as a SiLU leaves them, with channels of different means."""
    return nn.functional.silu(torch.randn(4, C, 9, 11) + torch.linspace(-1, 1, C).view(-1, 1, 1))


@every_attention
@pytest.mark.parametrize("training", [False, True])
def test_starts_near_the_identity(case, training):
    new, x = case.build(C).train(training), maps()
    assert apply_start(new, nn.Identity())
    with torch.no_grad():
        y = new(x)
    if case.entry.name in EXACT:
        assert torch.equal(y, x)
    else:
        error = float((y - x).square().mean() / x.var())
        assert 0 < error < 0.02


@every_attention
def test_every_parameter_learns_behind_a_trained_layer(case):
    new, x = case.build(C).double().train(), maps().double()
    assert apply_start(new, nn.Identity())
    target = torch.randn_like(x)
    before = {name: p.detach().clone() for name, p in new.named_parameters()}
    optimizer = torch.optim.SGD(new.parameters(), 0.05)
    for step in range(2):
        optimizer.zero_grad()
        (new(x) - target).square().mean().backward()
        if step == 0 and case.entry.name not in EXACT:
            awake = {name for name, p in new.named_parameters() if p.grad.abs().max() > 1e-12}
            assert {n for n in before if not n.endswith(REDUNDANT)} <= awake, "from the first step on"
        optimizer.step()
    kept = {name for name, p in new.named_parameters() if torch.equal(p, before[name])}
    assert not any(not name.endswith(REDUNDANT) for name in kept)


@every_attention
def test_begins_the_same_again_and_without_chance(case):
    new = case.build(C)
    state = torch.get_rng_state()
    assert apply_start(new, nn.Identity())
    first = copy.deepcopy(new.state_dict())
    assert apply_start(new, nn.Identity())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(new.state_dict()[key], value) for key, value in first.items())


@every_attention
def test_replaces_nothing(case):
    new = case.build(C)
    before = copy.deepcopy(new.state_dict())
    for old in (nn.Upsample(scale_factor=2), nn.Conv2d(C, C, 1)):
        assert apply_start(new, old) is False
    assert all(torch.equal(new.state_dict()[key], value) for key, value in before.items())


def test_every_attention_has_a_start():
    assert all(e.start for e in entries().values() if "attention" in e.kinds)
