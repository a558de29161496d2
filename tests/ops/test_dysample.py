"""DySample against loops over pixels, and against bilinear interpolation where the offset is zero."""

import math

import pytest
import torch
from torch.nn import functional

from nas.ops.dysample import DySample, dysample


def oracle(x, offset, s, groups):
    """The definition, pixel by pixel: clamp the coordinate, blend the four neighbours."""
    n, c, h, w = x.shape
    y = torch.zeros(n, c, h * s, w * s, dtype=torch.float64)
    for b in range(n):
        for ch in range(c):
            g = ch // (c // groups)
            for oy in range(h * s):
                for ox in range(w * s):
                    i, j, a, d = oy // s, ox // s, oy % s, ox % s
                    at = g * s * s + a * s + d
                    px = min(max(j + float(offset[b, at, i, j]), 0), w - 1)
                    py = min(max(i + float(offset[b, groups * s * s + at, i, j]), 0), h - 1)
                    x0, y0 = math.floor(px), math.floor(py)
                    x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
                    fx, fy = px - x0, py - y0
                    v = x[b, ch].double()
                    top = (1 - fx) * v[y0, x0] + fx * v[y0, x1]
                    bottom = (1 - fx) * v[y1, x0] + fx * v[y1, x1]
                    y[b, ch, oy, ox] = (1 - fy) * top + fy * bottom
    return y


@pytest.mark.parametrize(("s", "groups"), [(2, 1), (2, 3), (3, 2), (1, 6)])
@pytest.mark.parametrize("size", [(3, 5), (1, 1), (4, 2)])
def test_equals_the_definition(s, groups, size):
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    offset = torch.randn(2, 2 * groups * s * s, *size, dtype=torch.float64) * 3  # many points leave the image
    torch.testing.assert_close(dysample(x, offset, s, groups), oracle(x, offset, s, groups))


@pytest.mark.parametrize("style", ["lp", "pl"])
@pytest.mark.parametrize("dyscope", [False, True])
@pytest.mark.parametrize("s", [2, 3])
def test_module_equals_its_formula(perturb, style, dyscope, s):
    module = perturb(DySample(18 if s == 3 else 8, s, style, 2, dyscope), 0.5).double()
    x = torch.randn(2, 18 if s == 3 else 8, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        source = x if style == "lp" else functional.pixel_shuffle(x, s)
        offset = functional.conv2d(source, module.offset.weight, module.offset.bias)
        scope = functional.conv2d(source, module.scope.weight).sigmoid() * 0.5 if dyscope else 0.25
        offset = offset * scope
        if style == "pl":
            offset = functional.pixel_unshuffle(offset, s)
        sub = (torch.arange(s, dtype=torch.float64) - (s - 1) / 2) / s
        position = torch.stack((sub.view(1, s).expand(s, s), sub.view(s, 1).expand(s, s)))  # component, row, column
        position = position.view(2, 1, s, s).expand(2, 2, s, s).reshape(1, -1, 1, 1)  # component, group, row, column
        torch.testing.assert_close(module(x), oracle(x, offset + position, s, 2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("s", [2, 3, 4])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (8, 3)])
def test_without_offsets_it_is_bilinear_interpolation(s, size):
    module = DySample(8, s)
    torch.nn.init.zeros_(module.offset.weight)
    x = torch.randn(2, 8, *size)
    expected = functional.interpolate(x, scale_factor=s, mode="bilinear", align_corners=False)
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=2e-6)


def test_initial_positions_and_state_keys():
    module = DySample(8, 2, groups=1, dyscope=True)
    expected = [-0.25, 0.25, -0.25, 0.25, -0.25, -0.25, 0.25, 0.25]
    assert module.init_pos.flatten().tolist() == expected
    assert set(module.state_dict()) == {"offset.weight", "offset.bias", "scope.weight", "init_pos"}
    assert set(DySample(8).state_dict()) == {"offset.weight", "offset.bias", "init_pos"}
    assert DySample(8).init_pos.shape == (1, 32, 1, 1)


def test_gradients():
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    # Away from whole coordinates, where the function has a kink.
    offset = torch.rand(1, 16, 2, 3, dtype=torch.float64) * 0.8 + 0.1 - torch.randint(0, 2, (1, 16, 2, 3))
    offset.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: dysample(a, b, 2, 2), (x, offset))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
def test_half_precision_does_not_shift_the_points(dtype, limit):
    """White noise, 80 pixels wide: coordinates in half precision would cost 3 and 26 per cent (limits: rounding x)."""
    module = DySample(8).eval()
    x = torch.randn(1, 8, 80, 80)
    with torch.no_grad():
        expected = module(x)
        y = module.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    error = (y.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < limit


def test_autocast_keeps_the_dtype_of_the_features():
    module, x = DySample(8), torch.randn(1, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x.bfloat16()).dtype == torch.bfloat16


def test_macs_are_the_closed_form():
    from nas.ops.registry import macs_rules

    module, x = DySample(8, 3), torch.randn(2, 8, 4, 5)
    assert macs_rules()[DySample](module, (x,), module(x)) == 2 * 4 * 5 * 4 * 8 * 3**2


def test_points_at_infinity_or_nan_do_not_crash():
    offset = torch.zeros(1, 8, 4, 4)
    offset[0, 0, 0, 0], offset[0, 1, 1, 1], offset[0, 4, 2, 2] = math.nan, math.inf, -math.inf
    y = dysample(torch.randn(1, 2, 4, 4), offset, 2, 1)
    assert y.shape == (1, 2, 8, 8)
    assert y[..., 6:, 6:].isfinite().all()


@pytest.mark.parametrize(
    ("args", "message"),
    [((8, 2, "xx"), "'lp' or 'pl'"), ((6, 2, "lp", 4), "divide the channels"), ((6, 2, "pl", 2), "a multiple of 4")],
)
def test_refuses(args, message):
    with pytest.raises(ValueError, match=message):
        DySample(*args)


def test_refuses_offsets_that_do_not_fit():
    with pytest.raises(ValueError, match=r"expected \(1, 32, 4, 4\)"):
        dysample(torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 4, 4), 2, 4)
    with pytest.raises(ValueError, match="expected a multiple"):
        dysample(torch.zeros(1, 6, 4, 4), torch.zeros(1, 32, 4, 4), 2, 4)
