"""Plain upsamplers against their formulas."""

from __future__ import annotations

import pytest
import torch
from contract_cases import counted

from nas.ops.upsampling import BilinearUp, PixelShuffleUp, TransposedUp


@pytest.mark.parametrize("scale", [2, 3])
def test_bilinear_equals_the_formula(scale):
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    y = BilinearUp(2, scale)(x)
    for row in range(3 * scale):
        for column in range(4 * scale):
            place = [max((p + 0.5) / scale - 0.5, 0) for p in (row, column)]
            (i, a), (j, b) = ((int(p), p - int(p)) for p in place)
            below, right = min(i + 1, 2), min(j + 1, 3)
            expected = (
                (1 - a) * ((1 - b) * x[..., i, j] + b * x[..., i, right])
                + a * ((1 - b) * x[..., below, j] + b * x[..., below, right])
            )  # fmt: skip
            torch.testing.assert_close(y[..., row, column], expected)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("scale", [2, 3])
def test_transposed_equals_the_formula(scale, depthwise):
    module = TransposedUp(4, depthwise, scale).double()
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    weight = torch.diag_embed(module.weight[:, 0].permute(1, 2, 0)).permute(2, 3, 0, 1) if depthwise else module.weight
    expected = torch.einsum("coab,ncij->noiajb", weight, x).reshape(2, 4, 3 * scale, 5 * scale)
    torch.testing.assert_close(module(x), expected + module.bias.view(1, -1, 1, 1))


@pytest.mark.parametrize("scale", [2, 3])
def test_pixel_shuffle_equals_the_formula(perturb, scale):
    module = perturb(PixelShuffleUp(4, scale)).double()
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    weight = module.conv.weight.view(4, scale, scale, 4)
    expected = torch.einsum("oabc,ncij->noiajb", weight, x).reshape(2, 4, 3 * scale, 5 * scale)
    bias = module.conv.bias.view(4, 1, scale, 1, scale).expand(-1, 3, -1, 5, -1).reshape(4, 3 * scale, 5 * scale)
    torch.testing.assert_close(module(x), expected + bias)


def test_pixel_shuffle_has_no_checkerboard_at_first():
    y = PixelShuffleUp(4)(torch.randn(1, 4, 3, 5))
    assert torch.equal(y, y[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_macs_are_the_closed_form():
    x = torch.randn(1, 8, 10, 12)
    assert sum(counted(BilinearUp(8), x)) == 120 * 4 * 4 * 8
    assert sum(counted(TransposedUp(8), x)) == 120 * 4 * 8 * 8
    assert sum(counted(TransposedUp(8, True), x)) == 120 * 4 * 8
    assert sum(counted(PixelShuffleUp(8), x)) == 120 * 4 * 8 * 8
