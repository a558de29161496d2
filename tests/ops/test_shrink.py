"""Smaller modules keep of the trained layer what matters on its inputs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from trained_layers import maps, train
from ultralytics.nn.modules.block import SPPF, C2f
from ultralytics.nn.modules.conv import Conv

import nas.ops  # noqa: F401  registers the modules
from nas.ops.csp import C3k2Block
from nas.ops.narrow import NarrowSPPF
from nas.ops.reconstruct import fitted_to, kept, kept_channels, sites
from nas.ops.warm_start import apply_start


def error(new: nn.Module, old: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        expected = old(x)
        return float((new.eval()(x) - expected).square().mean() / expected.var())


def block(n: int = 2, shortcut: bool = True, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return train(C2f(24, 32, n, shortcut), 24, True)


SMALLER = {
    "e": lambda s: C2f(24, 32, 2, s, e=0.375),
    "e and repeats": lambda s: C2f(24, 32, 1, s, e=0.25),
    "repeats": lambda s: C2f(24, 32, 1, s),
    "bottlenecks": lambda s: C3k2Block(24, 32, 2, s, c3k=False),
    "bottlenecks and e": lambda s: C3k2Block(24, 32, 1, s, c3k=False, e=0.375),
    "none": lambda s: Conv(24, 32),
    "none, 3x3": lambda s: Conv(24, 32, 3),
}


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("name", SMALLER)
def test_starts_nearer_than_by_itself(name, shortcut):
    old = block(shortcut=shortcut)
    new, x, other = SMALLER[name](shortcut), maps(24, True, 6, 20, 20), maps(24, True, 4, 15, 22)
    fresh = error(new, old, other)
    assert apply_start(new, old, x)
    begun = error(new, old, other)
    assert begun < 0.75, "the mean of the output alone is 1"
    assert begun < fresh
    blind = SMALLER[name](shortcut)
    assert apply_start(blind, old), "on maps that are made up"
    assert error(blind, old, other) < fresh


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_block_of_the_same_size_is_the_same(shortcut):
    old, x = block(shortcut=shortcut), maps(24, True)
    new = C2f(24, 32, 2, shortcut)
    assert apply_start(new, old, x)
    assert error(new, old, maps(24, True)) < 1e-6


@pytest.mark.parametrize("shortcut", [True, False])
def test_what_the_output_does_not_use_is_what_goes(shortcut):
    """Half of the channels and two of the repeats are dead: the smaller block is exact."""
    old = block(3, shortcut)
    with torch.no_grad():
        weight = old.cv2.conv.weight.view(32, 5, 16)
        weight[:, 0, 1::2] = 0
        weight[:, 1:, ::2] = 0
        weight[:, 3:] = 0  # the second and the third repeat
        for m in old.m:
            m.cv1.conv.weight[:, ::2] = 0
            m.cv2.conv.weight[:, ::2] = 0
    new = C2f(24, 32, 1, shortcut, e=0.25)
    assert apply_start(new, old, maps(24, True, 8, 20, 20))
    assert error(new, old, maps(24, True)) < 1e-6


def test_the_channels_matter():
    """Least squares on kept channels that were chosen beat the same on those that come first."""
    torch.manual_seed(0)
    mixed = torch.randn(4000, 16).double() @ torch.randn(16, 16).double()
    weight = torch.randn(8, 16).double() * torch.linspace(0.05, 2, 16).double()
    y = mixed @ weight.T
    chosen = kept_channels(mixed, weight.view(8, 16, 1, 1), 8)
    assert fitted_to(mixed[:, chosen], y).error < 0.5 * fitted_to(mixed[:, :8], y).error


def test_the_cost_of_a_removal_is_exact():
    """Of all that could be left out, the one is left out without which the others come nearest."""
    torch.manual_seed(0)
    x = torch.randn(3000, 6).double() @ torch.randn(6, 6).double()
    weight = torch.randn(3, 6).double()
    y = x @ weight.T
    errors = [fitted_to(x[:, [i for i in range(6) if i != j]], y).error for j in range(6)]
    (left,) = kept(x, weight, [(torch.arange(6)[:, None], 5)])
    assert set(range(6)) - set(left.tolist()) == {min(range(6), key=errors.__getitem__)}


def test_windows_are_what_a_convolution_sees():
    conv, x = nn.Conv2d(5, 4, 3, padding=1, bias=False), torch.randn(2, 5, 7, 6)
    places = sites(x, 45)
    seen = places.windows(x, 3) @ conv.weight.flatten(1).double().T
    torch.testing.assert_close(seen, places.values(conv(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "bound"),
    [(lambda: NarrowSPPF(24, 32), 0.6), (lambda: NarrowSPPF(24, 32, e=0.375), 0.3), (lambda: Conv(24, 32), 0.95)],
    ids=["quarter", "three eighths", "gone"],
)
def test_sppf(make, bound):
    torch.manual_seed(1)
    old = SPPF(24, 32)
    old.cv1.act = nn.SiLU()
    old = train(old, 24, True)
    new = make()
    fresh = error(new, old, maps(24, True))
    assert apply_start(new, old, maps(24, True, 6, 20, 20))
    assert error(new, old, maps(24, True)) < min(fresh, bound)


def test_nothing_else_changes():
    old, new = block(), C2f(24, 32, 1, True, e=0.25).train()
    kept_state, state = copy.deepcopy(old.state_dict()), torch.get_rng_state()
    old.train()
    assert apply_start(new, old, maps(24, True))
    first = copy.deepcopy(new.state_dict())
    torch.set_rng_state(state)
    assert apply_start(new, old)
    assert torch.equal(torch.get_rng_state(), state)
    assert new.training
    assert old.training
    assert all(torch.equal(old.state_dict()[k], v) for k, v in kept_state.items())
    assert not all(torch.equal(new.state_dict()[k], v) for k, v in first.items()), "other inputs, another start"


def test_a_start_fits_the_statistics_of_a_batch():
    old, new, x = block(), C2f(24, 32, 1, True, e=0.375), maps(24, True, 8, 20, 20)
    assert apply_start(new, old, x)
    running = error(new, old, x)
    with torch.no_grad():
        by_batch = float((new.train()(x) - old(x)).square().mean() / old(x).var())
    assert by_batch < 1.3 * running + 0.01


def foreign() -> list[nn.Module]:
    grouped = C2f(24, 32, 2, True, g=2)
    return [nn.Identity(), Conv(24, 32), C2f(24, 40, 2, True), C2f(24, 32, 2, True, e=0.125), grouped, SPPF(24, 40)]


@pytest.mark.parametrize("make", [lambda: C2f(24, 32, 1, True, e=0.25), lambda: NarrowSPPF(24, 32)])
def test_a_foreign_layer_is_refused_and_changes_nothing(make):
    new = make()
    before = copy.deepcopy(new.state_dict())
    for old in foreign():
        assert apply_start(new, old) is False
    assert all(torch.equal(new.state_dict()[k], v) for k, v in before.items())


def test_other_precision():
    old = block().half()
    new = C2f(24, 32, 1, True, e=0.25).bfloat16()
    assert apply_start(new, old)
    assert all(v.isfinite().all() for v in new.state_dict().values())
