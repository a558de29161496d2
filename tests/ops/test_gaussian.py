"""What activations make of normal variables, against draws and closed forms."""

import math

import pytest
import torch
from torch import nn

from nas.ops.gaussian import activated, again, predicted

BIAS = torch.tensor([-1.0, 0.0, 0.5, 2.0])
SPREAD = torch.tensor([1.0, 0.7, -1.5, 0.3])
"""A norm's weight may be below zero; the distribution is the same."""


@pytest.mark.parametrize("act", [nn.SiLU(), nn.ReLU(), nn.Tanh()], ids=str)
def test_moments_are_those_of_draws(act):
    z = BIAS.double() + SPREAD.double() * torch.randn(400_000, 4, dtype=torch.float64)
    y = act(z)
    mean, var, slope = activated(BIAS, SPREAD, act)
    expected = ((z - z.mean(0)) * (y - y.mean(0))).mean(0) / z.var(0)
    for found, drawn in ((mean, y.mean(0)), (var, y.var(0)), (slope, expected)):
        torch.testing.assert_close(found, drawn.float(), rtol=0.02, atol=0.004)


def test_relu_has_a_closed_form():
    mean, var, slope = activated(torch.zeros(1), torch.ones(1), nn.ReLU())
    torch.testing.assert_close(mean, torch.tensor([1 / math.sqrt(2 * math.pi)]), rtol=1e-3, atol=0)
    torch.testing.assert_close(var, torch.tensor([0.5 - 0.5 / math.pi]), rtol=1e-3, atol=0)
    torch.testing.assert_close(slope, torch.tensor([0.5]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.Identity()], ids=str)
def test_what_may_be_applied_twice_is_left_alone(act):
    slope, offset = again(act, BIAS, SPREAD)
    torch.testing.assert_close(slope, torch.ones(4), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(offset, torch.zeros(4), rtol=1e-3, atol=1e-3)


def test_silu_twice_comes_near_to_once():
    slope, offset = again(nn.SiLU(), BIAS, SPREAD)
    y = nn.functional.silu(BIAS + SPREAD * torch.randn(100_000, 4))
    error = (nn.functional.silu(slope * y + offset) - y).square().mean(0) / y.var(0)
    plain = (nn.functional.silu(y) - y).square().mean(0) / y.var(0)
    assert (error < 0.08).all()  # most where the half below zero has most of the draws
    assert (error < plain / 2).all()


def test_what_one_variable_says_of_another():
    """Nothing: the mean. All: the activation itself. Between them: nearer than the plain line through the means."""
    act, none, one = nn.SiLU(), torch.zeros(4), torch.ones(4)
    slope, offset = predicted(act, BIAS, SPREAD, none)
    assert slope.abs().max() < 0.02
    torch.testing.assert_close(act(offset), activated(BIAS, SPREAD, act)[0], rtol=0, atol=0.01)
    slope, offset = predicted(act, BIAS, SPREAD, one)
    torch.testing.assert_close(torch.stack((slope, offset)), torch.stack((SPREAD, BIAS)), rtol=1e-2, atol=1e-2)
    u, other = torch.randn(2, 200_000, 4)
    share = torch.tensor([0.3, -0.5, 0.7, 0.5])
    y = act(BIAS + SPREAD * (share * u + (1 - share**2).sqrt() * other))
    slope, offset = predicted(act, BIAS, SPREAD, share)
    found, plain = ((act(a * u + b) - y).square().mean(0) for a, b in ((slope, offset), (share * SPREAD, BIAS)))
    assert (found <= plain + 1e-4).all()
    assert (found[:3] < 0.98 * plain[:3]).all()


def test_a_dead_channel_stays_finite():
    zero = torch.zeros(2)
    for act in (nn.SiLU(), nn.ReLU()):
        assert all(t.isfinite().all() for t in (*activated(zero, zero, act), *again(act, zero, zero)))
