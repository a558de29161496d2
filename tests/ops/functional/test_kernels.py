"""The kernels against the references in float64, on the host under AddressSanitizer and on a GPU where there is one."""

from __future__ import annotations

import math

import pytest
import torch
from host_backend import COMPILER, Host

from nas.ops.functional import tiles
from nas.ops.functional.carafe import carafe_operator, carafe_reference
from nas.ops.functional.dcnv4 import dcnv4_operator, dcnv4_reference
from nas.ops.functional.dysample import dysample_operator, dysample_reference
from nas.ops.kernels import runtime

LAST, FIRST = torch.channels_last, torch.contiguous_format
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ROUNDING = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
"""Of one result, relative; sums are float32 whatever the dtype, and in another order than the reference's."""


def gradients(op, tensors, arguments, dy):
    tensors = [t.detach().requires_grad_() for t in tensors]  # no copy, which would be dense
    y = op(*tensors, *arguments)
    y = y[0] if isinstance(y, tuple) else y
    return (y.detach(), *torch.autograd.grad(y, tensors, dy(y)))


def agree(operator, reference, tensors, arguments, device, dy_like=torch.randn_like):
    """Check output and gradients, which must be the float64 reference's but for one rounding and float32 sums."""
    tensors = [t if t.device.type == device else t.to(device) for t in tensors]
    kept = []

    def random_like(y):
        kept.append(dy_like(y))
        return kept[0]

    results = gradients(operator, tensors, arguments, random_like)
    doubles = [t.double() for t in tensors]
    expected = gradients(reference, doubles, arguments, lambda _: kept[0].double())
    for name, result, true, like in zip(
        ("output", "first gradient", "second gradient"), results, expected, (tensors[0], *tensors), strict=True
    ):
        assert result.shape == true.shape
        assert result.dtype == like.dtype
        scale = true.abs().max().item() if true.numel() else 0
        rtol, atol = 1.01 * ROUNDING[result.dtype], 5e-6 * max(scale, 1)
        torch.testing.assert_close(result.double(), true, rtol=rtol, atol=atol, msg=(name + ": {}").format)
    return results


# ---- DCNv4 ----------------------------------------------------------------------------------------------------------

# x (N, H, W, C), then kernel, stride, pad, dilation, groups, offset_scale, remove_center
DCN = {
    "3x3": ((2, 5, 7, 32), [3, 3], [1, 1], [1, 1], [1, 1], 2, 1.0, False),
    "width of 7": ((1, 6, 5, 21), [3, 3], [1, 1], [1, 1], [1, 1], 3, 1.0, False),
    "width of 24": ((2, 4, 5, 48), [3, 3], [1, 1], [1, 1], [1, 1], 2, 1.0, False),
    "stride 2, no centre": ((3, 9, 6, 16), [3, 3], [2, 2], [1, 1], [1, 1], 1, 1.0, True),
    "rectangular, dilated, scaled": ((1, 8, 7, 12), [3, 2], [2, 1], [2, 0], [2, 1], 1, 1.7, False),
    "5x5": ((1, 5, 6, 8), [5, 5], [1, 1], [2, 2], [1, 1], 2, 0.5, True),
    "a group wider than a warp": ((1, 3, 2, 136), [3, 3], [1, 1], [1, 1], [1, 1], 1, 1.0, False),
    "more groups than a block": ((1, 3, 3, 320), [3, 3], [1, 1], [1, 1], [1, 1], 20, 1.0, False),
    "one pixel": ((3, 1, 1, 8), [3, 3], [1, 1], [1, 1], [1, 1], 1, 1.0, False),
    "no padding": ((1, 3, 5, 4), [3, 3], [1, 1], [0, 0], [1, 1], 4, 1.0, False),
}


def points(shape, kernel, stride, pad, dilation, groups, remove_center, spread=1.0, tail=5):
    n, h, w, _ = shape
    ho, wo = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip((h, w), kernel, stride, pad, dilation, strict=True)
    )
    taps = kernel[0] * kernel[1] - remove_center
    om = torch.randn(n, ho, wo, groups * 3 * taps + tail)
    om[..., : groups * 3 * taps].view(n, ho, wo, groups, 3 * taps)[..., : 2 * taps] *= spread
    return om


@pytest.mark.parametrize("case", DCN)
def test_dcnv4(case, kernels):
    shape, *arguments = DCN[case]
    kernel, stride, pad, dilation, groups, _, remove = arguments
    om = points(shape, kernel, stride, pad, dilation, groups, remove)
    agree(dcnv4_operator, dcnv4_reference, (torch.randn(shape), om), arguments, kernels)


@pytest.mark.parametrize("case", ["3x3", "width of 24"])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_dcnv4_in_half_precision(case, dtype, kernels):
    shape, *arguments = DCN[case]
    kernel, stride, pad, dilation, groups, _, remove = arguments
    om = points(shape, kernel, stride, pad, dilation, groups, remove, tail=-(groups * 27) % 8).to(dtype)
    agree(dcnv4_operator, dcnv4_reference, (torch.randn(shape).to(dtype), om), arguments, kernels)


def test_dcnv4_with_points_in_float32(kernels):
    shape, *arguments = DCN["3x3"]
    om = points(shape, *arguments[:5], arguments[6])
    agree(dcnv4_operator, dcnv4_reference, (torch.randn(shape).half(), om), arguments, kernels)


@pytest.mark.parametrize("spread", [0.0, 6.0])
def test_dcnv4_on_whole_pixels_and_far_outside(spread, kernels):
    shape, *arguments = DCN["3x3"]
    om = points(shape, *arguments[:5], arguments[6], spread)
    agree(dcnv4_operator, dcnv4_reference, (torch.randn(shape), om), arguments, kernels)


def sparse_like(y):
    """Return random values of y's shape that lie apart in memory, in another order than y's."""
    return torch.randn(*y.shape[::-1], 2, dtype=y.dtype, device=y.device)[..., 0].permute(*range(y.dim() - 1, -1, -1))


def test_dcnv4_of_layouts(kernels):
    """Neither operand is dense: one is seen through a permutation, the other through a slice."""
    shape, *arguments = DCN["3x3"]
    x = torch.randn(2, 32, 5, 7).permute(0, 2, 3, 1)
    om = points(shape, *arguments[:5], arguments[6]).repeat(1, 1, 1, 2)[..., 3:58]
    agree(dcnv4_operator, dcnv4_reference, (x, om), arguments, kernels, sparse_like)
    x = torch.randn(2, 5, 7, 1).expand(shape)
    agree(dcnv4_operator, dcnv4_reference, (x, om[:1].expand(2, -1, -1, -1)), arguments, kernels)


# ---- CARAFE ---------------------------------------------------------------------------------------------------------

# N, C, H, W, k_up, scale
CARAFE = {
    "k5 s2": (2, 24, 5, 7, 5, 2),
    "7 channels": (1, 7, 4, 5, 5, 2),
    "k3 s3": (2, 8, 3, 4, 3, 3),
    "k1 s1": (1, 4, 3, 2, 1, 1),
    "k3 s4": (1, 12, 3, 5, 3, 4),
    "k3 s5": (1, 4, 2, 3, 3, 5),
    "more channels than a warp": (1, 136, 2, 3, 3, 2),
    "one pixel": (3, 8, 1, 1, 5, 2),
}


@pytest.mark.parametrize("layout", [LAST, FIRST], ids=["last", "first"])
@pytest.mark.parametrize("case", CARAFE)
def test_carafe(case, layout, kernels):
    n, c, h, w, k, s = CARAFE[case]
    x = torch.randn(n, c, h, w).contiguous(memory_format=layout)
    logits = (2 * torch.randn(n, (k * s) ** 2, h, w)).contiguous(memory_format=layout)
    y, dx, dlogits = agree(carafe_operator, carafe_reference, (x, logits), (k, s), kernels)
    for result in (y, dx, dlogits):
        assert result.is_contiguous(memory_format=layout) or h * w == 1


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("layout", [LAST, FIRST], ids=["last", "first"])
def test_carafe_in_half_precision(dtype, layout, kernels):
    x = torch.randn(2, 24, 5, 7).contiguous(memory_format=layout).to(dtype)
    agree(carafe_operator, carafe_reference, (x, torch.randn(2, 100, 5, 7).to(dtype)), (5, 2), kernels)


def test_carafe_of_layouts(kernels):
    """The operands differ in layout, and neither is dense."""
    x = torch.randn(2, 5, 7, 48).permute(0, 3, 1, 2)[:, ::2]
    logits = torch.randn(2, 100, 5, 14)[..., ::2]
    agree(carafe_operator, carafe_reference, (x, logits), (5, 2), kernels, sparse_like)
    agree(carafe_operator, carafe_reference, (x[:1].expand_as(x), logits[..., :1].expand_as(logits)), (5, 2), kernels)


def test_carafe_of_logits_with_a_large_offset(kernels):
    """A softmax does not see it, so training is free to let it grow."""
    x, logits = torch.randn(1, 8, 4, 5), torch.randn(1, 36, 4, 5)
    y, true = (carafe_operator(x.to(kernels), (logits + o).to(kernels), 3, 2)[0] for o in (1024, 0))
    torch.testing.assert_close(y, true, rtol=0, atol=5e-4)  # what rounding the logits does
    agree(carafe_operator, carafe_reference, (x, logits + 3e4), (3, 2), kernels)


# ---- DySample -------------------------------------------------------------------------------------------------------

# N, C, H, W, scale, groups, factor, initial
DYSAMPLE = {
    "s2 g4": (2, 32, 5, 7, 2, 4, 0.25, True),
    "groups of 6": (1, 18, 4, 5, 2, 3, 1.0, False),
    "s3": (2, 4, 3, 4, 3, 1, 0.5, True),
    "a group wider than a warp": (1, 136, 2, 3, 2, 1, 1.0, True),
    "more groups than a block": (1, 40, 3, 3, 2, 40, 1.0, True),
    "one pixel": (3, 8, 1, 1, 2, 4, 1.0, True),
}


@pytest.mark.parametrize("layout", [LAST, FIRST], ids=["last", "first"])
@pytest.mark.parametrize("case", DYSAMPLE)
def test_dysample(case, layout, kernels):
    n, c, h, w, s, g, *rest = DYSAMPLE[case]
    x = torch.randn(n, c, h, w).contiguous(memory_format=layout)
    offset = (2 * torch.randn(n, 2 * g * s**2, h, w)).contiguous(memory_format=layout)
    y, dx, doffset = agree(dysample_operator, dysample_reference, (x, offset), (s, g, *rest), kernels)
    for result in (y, dx, doffset):
        assert result.is_contiguous(memory_format=layout) or h * w == 1


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("layout", [LAST, FIRST], ids=["last", "first"])
def test_dysample_in_half_precision(dtype, layout, kernels):
    x = torch.randn(2, 32, 5, 7).contiguous(memory_format=layout).to(dtype)
    offset = torch.randn(2, 32, 5, 7).to(dtype)
    agree(dysample_operator, dysample_reference, (x, offset), (2, 4, 0.25, True), kernels)


def test_dysample_with_offsets_in_float32(kernels):
    x = torch.randn(1, 32, 5, 7).half()
    agree(dysample_operator, dysample_reference, (x, torch.randn(1, 32, 5, 7)), (2, 4, 1.0, True), kernels)


def test_dysample_of_layouts(kernels):
    x = torch.randn(2, 5, 7, 32).permute(0, 3, 1, 2)
    offset = torch.randn(2, 32, 5, 14)[..., ::2]
    agree(dysample_operator, dysample_reference, (x, offset), (2, 4, 0.25, True), kernels, sparse_like)
    offset = torch.randn(2, 32, 1, 1).expand(2, 32, 5, 7)
    agree(dysample_operator, dysample_reference, (x[:, :1].expand_as(x), offset), (2, 4, 0.25, True), kernels)


@pytest.mark.parametrize("width", [9, 20, 40])
def test_dysample_on_whole_pixels_and_edges(width, kernels):
    """Where the pieces meet: the gradient is that of the piece above, and none at the edge."""
    x, offset = torch.randn(1, 8, 5, width), torch.randint(-3, 4, (1, 8, 5, width)).float()
    agree(dysample_operator, dysample_reference, (x, offset), (2, 1, 1.0, False), kernels)
    agree(dysample_operator, dysample_reference, (x, offset.bfloat16()), (2, 1, 0.25, False), kernels)


# ---- all of them ----------------------------------------------------------------------------------------------------


def small(name, dtype=torch.float32, n=2):
    """Return an operator, its reference, tensors and arguments."""
    if name == "dcnv4":
        shape, *arguments = DCN["3x3"]
        shape = (n, *shape[1:])
        tensors = torch.randn(shape), points(shape, *arguments[:5], arguments[6])
        return dcnv4_operator, dcnv4_reference, [t.to(dtype) for t in tensors], arguments
    if name == "carafe":
        tensors = torch.randn(n, 24, 5, 7).contiguous(memory_format=LAST), torch.randn(n, 100, 5, 7)
        return carafe_operator, carafe_reference, [t.to(dtype) for t in tensors], (5, 2)
    tensors = torch.randn(n, 32, 5, 7).contiguous(memory_format=LAST), torch.randn(n, 32, 5, 7)
    return dysample_operator, dysample_reference, [t.to(dtype) for t in tensors], (2, 4, 0.25, True)


every_op = pytest.mark.parametrize("name", ["dcnv4", "carafe", "dysample"])


@every_op
@pytest.mark.parametrize("which", ["operator", "reference"])
def test_an_empty_batch(name, which, kernels, launched):
    operator, reference, tensors, arguments = small(name, n=0)
    op = operator if which == "operator" else reference
    y, *grads = gradients(op, [t.to(kernels) for t in tensors], arguments, torch.randn_like)
    assert y.shape == reference(*small(name, n=1)[2], *arguments)[:0].shape
    assert [g.shape for g in grads] == [t.shape for t in tensors]
    launched.append("none: the reference was asked for as well")


@pytest.mark.parametrize("name", ["dcnv4", "dysample"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -3e9], ids=str)
def test_offsets_that_are_no_place(name, value, kernels):
    """No access out of bounds, no effect on other pixels, and what the reference makes of them."""
    operator, reference, (x, offset), arguments = small(name)
    wrong = offset.clone()
    # All offsets of one pixel: last come DCNv4's weights, and what pads them.
    if name == "dcnv4":
        wrong[0, 1, 2].view(-1)[:54].view(2, 27)[:, :18] = value
    else:
        wrong[0, :, 1, 2] = value
    (y, dx, doffset), (true, *_) = (
        gradients(operator, [t.to(kernels) for t in (x, o)], arguments, torch.ones_like) for o in (wrong, offset)
    )
    expected = gradients(reference, (x, wrong), arguments, torch.ones_like)
    for result, other in zip((y, dx, doffset), expected, strict=True):
        torch.testing.assert_close(result.cpu(), other, rtol=1e-4, atol=1e-4)
    same = (y == true).all(-1) if name == "dcnv4" else (y == true).all(1)
    places = torch.zeros_like(same)
    places[(0, 1, 2) if name == "dcnv4" else (0, slice(2, 4), slice(4, 6))] = True
    assert (same | places).all()


@pytest.mark.parametrize("name", ["dcnv4", "carafe", "dysample"])
def test_only_what_is_wanted_is_computed(name, kernels, launched):
    """With a frozen input, its gradient costs nothing, and nothing is added in an order that varies."""
    operator, reference, (x, second), arguments = small(name)
    x, second = x.to(kernels), second.to(kernels).requires_grad_()
    try:
        torch.use_deterministic_algorithms(True)
        y = operator(x, second, *arguments)
        y = y[0] if isinstance(y, tuple) else y
        (gradient,) = torch.autograd.grad(y.sum(), second)
    finally:
        torch.use_deterministic_algorithms(False)
    (expected,) = torch.autograd.grad(reference(x, second, *arguments).sum(), second)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
    assert "carafe_backward_input" not in launched
    x, second = x.requires_grad_(), second.detach()
    y = operator(x, second, *arguments)
    y = y[0] if isinstance(y, tuple) else y
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(reference(x, second, *arguments).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


@every_op
def test_a_grid_that_goes_round_and_indices_of_64_bits(name, kernels, monkeypatch):
    monkeypatch.setattr(tiles, "GRID", 2)
    monkeypatch.setattr(tiles, "WIDE", 1)
    operator, reference, tensors, arguments = small(name, n=5)
    agree(operator, reference, tensors, arguments, kernels)


@every_op
def test_tensors_that_are_not_aligned(name, kernels):
    """Every operand starts 4 bytes after a multiple of 16; results are aligned."""
    operator, reference, tensors, arguments = small(name)
    tensors = [torch.randn(t.numel() + 5)[1:][: t.numel()].view(t.shape) for t in tensors]
    assert all(t.data_ptr() % 16 for t in tensors)
    agree(operator, reference, tensors, arguments, kernels)


@every_op
def test_operands_of_two_half_precisions(name, kernels):
    operator, reference, (x, second), arguments = small(name)
    agree(operator, reference, (x.half(), second.bfloat16()), arguments, kernels)


@every_op
def test_the_order_of_threads_does_not_matter(name, host_programs, monkeypatch):
    """A missing barrier would show: blocks, and threads between barriers, run in other orders."""
    if COMPILER is None:
        pytest.skip("no g++ to compile the kernels for the host with")
    operator, _, tensors, arguments = small(name)
    results = []
    for seed in range(4):
        monkeypatch.setattr(
            runtime, "backend_for", lambda device_type, index=None, seed=seed: Host(host_programs, seed)
        )
        results.append(gradients(operator, tensors, arguments, torch.ones_like))
    for other in results[1:]:
        for first, again, deterministic in zip(results[0], other, (True, name == "carafe", True), strict=True):
            if deterministic:
                assert torch.equal(first, again)
            else:
                torch.testing.assert_close(first, again, rtol=1e-5, atol=1e-5)
