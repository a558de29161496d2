"""What every registered module promises of its cost."""

from __future__ import annotations

import math

import pytest
import thop
import torch
from contract_cases import C1, C2, CASES, attended, counted, every_case
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas.ops.registry import macs_rules

CLOSED = {  # a pixel, and an image: defaults, C1 = 16 to C2 = 24 channels
    "CARAFE": (C1 * 64 + 64 * 9 * 5**2 * 2**2 + 5**2 * C1 * 2**2, 0),
    "DySample": (C1 * 2 * 4 * 2**2 + 4 * C1 * 2**2, 0),
    "DynamicConv": (C1 * C2 * 9, 4 * C1 * C2 * 9 + C1 * 4),
    "SPConv": (9 * 8 * C2 // 2 + 8 * C2 + 8 * C2 + C2, 0),
    "DCNv4": (C1 * C1 + C1 * C2 + C1 * 32 + 9 * (4 * C1 + 10), 0),
    # two 1x1 convolutions around two bottlenecks of C2 / 2 = 12 channels, a 3x3 convolution and the other one
    "C2f_SPConv": (C1 * 24 + 48 * C2 + 2 * (12 * 12 * 9 + 9 * 6 * 12 // 2 + 6 * 12 + 6 * 12 + 12), 0),
    "C2f_DynamicConv": (C1 * 24 + 48 * C2 + 2 * (12 * 12 * 9 * 2), 2 * (4 * 12 * 12 * 9 + 12 * 4)),
    "C2f_DCNv4": (C1 * 24 + 48 * C2 + 2 * (12 * 12 * 9 + 2 * 12 * 12 + 12 * 32 + 9 * (4 * 12 + 10)), 0),
}

NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.Upsample, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Softmax)
"""What thop charges for and nobody else does."""


@pytest.mark.parametrize("name", CLOSED)
def test_macs_are_the_closed_form(name):
    case = next(c for c in CASES if c.entry.name == name)
    pixel, whole = CLOSED[name]
    assert sum(counted(case.build().eval(), case.inputs(1, 20, 24))) == 20 * 24 * pixel + whole


@every_case
def test_macs_cover_all_that_torch_counts(case):
    """Torch counts convolutions and products, wherever they are; rules add what it does not see, such as sampling."""
    module, x = case.build().eval(), case.inputs(1, 20, 24)
    layers, stated = counted(module, x)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    seen = counter.get_total_flops() / 2
    assert layers + stated >= 0.99 * seen
    if stated == 0:
        assert layers == pytest.approx(seen, rel=0.01)
    else:
        assert layers <= 1.01 * seen


@every_case
def test_macs_grow_with_the_image_and_the_batch(case):
    module = case.build().eval()
    layers, stated = counted(module, case.inputs(1, 16, 16))
    assert counted(module, case.inputs(2, 16, 16)) == (2 * layers, 2 * stated)
    if stated:
        ratio = counted(module, case.inputs(1, 64, 32))[1] / stated
        assert 1 < ratio <= 8
        assert math.isclose(ratio, 8, rel_tol=0.6)


@every_case
def test_macs_of_the_hosts_counter(case):
    """With the rules in its table, thop's total is ours: products inside a module with a rule are not counted twice."""
    module, x = case.build().eval(), case.inputs(1, 16, 8)

    def hook(rule):
        def add(m, inputs, output):
            m.total_ops += rule(m, inputs, output)

        return add

    def nothing(m, inputs, output):
        pass

    rules = {cls: hook(rule) for cls, rule in macs_rules().items()} | dict.fromkeys(NORMS, nothing)
    rules[nn.MultiheadAttention] = hook(lambda m, inputs, output: attended(output[0]))  # thop's own adds the softmax
    total = thop.profile(module, (x,), custom_ops=rules, verbose=False)[0]
    assert total == sum(counted(module, x))
