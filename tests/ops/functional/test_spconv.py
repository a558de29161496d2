"""SPConv's blend: the kernels against plain PyTorch, and the module with either."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas.ops.functional import spconv as spconv_file
from nas.ops.functional.spconv import spconv_blend, spconv_blend_backward, spconv_blend_operator
from nas.ops.kernels import runtime
from nas.ops.spconv import SPConv

LAST = torch.channels_last
# N, C, H, W: vectors of four and single channels, several parts of an image, more channels than a block
SHAPES = [(3, 12, 9, 7), (2, 8, 70, 66), (1, 7, 3, 5), (2, 136, 2, 3), (33, 4, 1, 2)]


def operands(shape, device="cpu", dtype=torch.float32, mean=0.0):
    n, c, h, w = shape
    maps = [(2 * torch.randn(n, c, h, w) + mean).contiguous(memory_format=LAST).to(device, dtype) for _ in range(3)]
    parameters = [t.to(device) for _ in range(2) for t in (torch.rand(c) + 0.5, torch.randn(c))]
    running = [t.to(device) for _ in range(2) for t in (torch.randn(c), torch.rand(c) + 0.5)]
    return [t.requires_grad_() for t in (*maps, *parameters)], running


def norms(parameters, running, training, eps=1e-3):
    modules = []
    for i in range(2):
        bn = nn.BatchNorm2d(len(parameters[0]), eps).to(parameters[0])
        with torch.no_grad():
            for to, value in zip(
                (bn.weight, bn.bias, bn.running_mean, bn.running_var),
                (*parameters[2 * i : 2 * i + 2], *running[2 * i : 2 * i + 2]),
                strict=True,
            ):
                to.copy_(value)
        modules.append(bn.train(training))
    return modules


def plain(tensors, running, training):
    """The formula by PyTorch's own batch norm, in float64; with gradients of maps and parameters."""
    g, q, v, *parameters = (t.detach().double().requires_grad_() for t in tensors)
    one, two = norms([p.detach() for p in parameters], [r.double() for r in running], training)
    u, w = one(g + q), two(v)
    p = torch.sigmoid(u.mean((2, 3), keepdim=True) - w.mean((2, 3), keepdim=True))
    y = p * u + (1 - p) * w
    return y, (g, q, v, one.weight, one.bias, two.weight, two.bias)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_formula_and_its_gradient(shape, training, kernels):
    tensors, running = operands(shape, kernels)
    y = spconv_blend_operator(*tensors, *running, training, 1e-3, 1e-3)[0]
    expected, variables = plain(tensors, running, training)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=2e-5)
    assert y.is_contiguous(memory_format=LAST)
    dy = torch.randn_like(y)
    for result, true in zip(
        torch.autograd.grad(y, tensors, dy), torch.autograd.grad(expected, variables, dy.double()), strict=True
    ):
        torch.testing.assert_close(result.double(), true, rtol=1e-4, atol=2e-6 * max(true.abs().max().item(), 1) + 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype, kernels):
    tensors, running = operands(SHAPES[0], kernels, dtype)
    y = spconv_blend_operator(*tensors, *running, True, 1e-3, 1e-3)[0]
    expected, variables = plain(tensors, running, True)
    rounding = {torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close(y.double(), expected, rtol=1.01 * rounding, atol=2e-5)
    dy = torch.randn_like(y)
    results = torch.autograd.grad(y, tensors, dy)
    assert [r.dtype for r in results] == [dtype] * 3 + [torch.float32] * 4
    for result, true in zip(results, torch.autograd.grad(expected, variables, dy.double()), strict=True):
        torch.testing.assert_close(result.double(), true, rtol=1.01 * rounding, atol=1e-4)


def test_no_digits_are_lost_where_the_mean_is_large(kernels):
    """Sums of squares of values around 1000 with a deviation of 2 would lose three of float32's seven digits."""
    tensors, running = operands(SHAPES[1], kernels, mean=1000.0)
    statistics = spconv_blend_operator(*tensors, *running, True, 1e-3, 1e-3)[3].double()
    a, v = (tensors[0].double() + tensors[1].double()), tensors[2].double()
    for found, values in ((statistics[1], a), (statistics[3], v)):
        torch.testing.assert_close(found, values.var((0, 2, 3), correction=0), rtol=1e-4, atol=0)


def test_opcheck(kernels):
    tensors, running = operands(SHAPES[0], kernels)
    torch.library.opcheck(spconv_blend_operator, (*tensors, *running, True, 1e-3, 1e-3))
    y, *kept = spconv_blend_operator(*tensors, *running, True, 1e-3, 1e-3)
    maps, parameters = [t.detach() for t in tensors[:3]], [t.detach() for t in tensors[3:]]
    arguments = (torch.randn_like(y), *maps, parameters, *(k.detach() for k in kept), True, 1e-3, 1e-3)
    torch.library.opcheck(spconv_blend_backward, arguments)


def test_the_operator_without_kernels():
    """On a device or dtype that has none."""
    tensors, running = operands(SHAPES[0])
    tensors = [t.detach().double().requires_grad_() for t in tensors]
    y = spconv_blend_operator(*tensors, *(r.double() for r in running), True, 1e-3, 1e-3)[0]
    expected, variables = plain(tensors, running, True)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    for result, true in zip(
        torch.autograd.grad(y, tensors, dy), torch.autograd.grad(expected, variables, dy), strict=True
    ):
        torch.testing.assert_close(result, true)


def test_double_backward_says_why_not(kernels):
    tensors, running = operands(SHAPES[0], kernels)
    y = spconv_blend_operator(*tensors, *running, True, 1e-3, 1e-3)[0]
    gradient = torch.autograd.grad(y.square().sum(), tensors[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="spconv_blend: the gradient of the gradient is not offered"):
        gradient.sum().backward()


def test_flops_are_counted(kernels):
    tensors, running = operands(SHAPES[0], kernels)
    with FlopCounterMode(display=False) as counter:
        y = spconv_blend_operator(*tensors, *running, True, 1e-3, 1e-3)[0]
    assert counter.get_total_flops() == 2 * y.numel()
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 4 * y.numel()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_the_module_is_the_same_with_and_without_kernels(stride, training, kernels, monkeypatch):
    """Output, gradients, and the norms' buffers after two steps."""
    module = SPConv(16, 24, s=stride).to(kernels).to(memory_format=LAST).train(training)
    other = copy.deepcopy(module)
    x = torch.randn(3, 16, 7, 9).contiguous(memory_format=LAST).to(kernels)
    ran = []
    operator = spconv_file.spconv_blend_operator
    monkeypatch.setattr(spconv_file, "spconv_blend_operator", lambda *a: ran.append(1) or operator(*a))
    ys = [module(x), module(x + 1)]
    assert len(ran) == 2
    sum(y.square().sum() for y in ys).backward()
    monkeypatch.setattr(runtime, "backend_for", lambda device_type, index=None: None)
    expected = [other(x), other(x + 1)]
    assert len(ran) == 2
    sum(y.square().sum() for y in expected).backward()
    for mine, true in zip(ys, expected, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-5)
    for (name, mine), true in zip(module.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, true.grad, rtol=1e-3, atol=1e-3, msg=(name + ": {}").format)
    for (name, mine), true in zip(module.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-6, msg=(name + ": {}").format)


def test_what_the_kernels_do_not_take_goes_the_plain_way(kernels, monkeypatch, launched):
    launched.append("none, which is what is tested")
    monkeypatch.setattr(spconv_file, "spconv_blend_operator", lambda *_: pytest.fail("launched"))
    tensors, running = operands((2, 4, 3, 3), kernels)
    g, q, v = (t.detach() for t in tensors[:3])
    one, two = norms([t.detach() for t in tensors[3:]], running, True)
    spconv_blend(g.contiguous(), q, v, one, two)  # channels first
    spconv_blend(g.double(), q.double(), v.double(), one.double(), two.double())
    one.float(), two.float()
    one.momentum = None  # a cumulative mean
    spconv_blend(g, q, v, one, two)
    spconv_blend(g, q, v, nn.Identity(), two)  # fused away
