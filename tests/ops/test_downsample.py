"""Halving: pixel by pixel, and against Ultralytics where sizes are even."""

import math

import pytest
import torch
from torch.nn import functional
from ultralytics.nn.modules.block import ADown, SCDown

from nas.ops.downsample import HWD, ADownCeil, SPDConv
from nas.ops.registry import get


def pixel(x, i, j):
    """Return pixel (i, j) of all images and channels; zeros beyond the image."""
    h, w = x.shape[2:]
    return x[:, :, i, j] if i < h and j < w else torch.zeros_like(x[:, :, 0, 0])


def cells(x, function):
    """Return what `function` makes of the four pixels of every cell."""
    n, _, h, w = x.shape
    rows = []
    for i in range(math.ceil(h / 2)):
        row = []
        for j in range(math.ceil(w / 2)):
            row.append(function(*(pixel(x, 2 * i + r, 2 * j + s) for r in (0, 1) for s in (0, 1))))
        rows.append(torch.stack(row, 2))
    return torch.stack(rows, 2).view(n, -1, math.ceil(h / 2), math.ceil(w / 2))


SIZES = pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 4), (1, 1)])


@SIZES
def test_hwd_equals_the_formula(perturb, size):
    module = perturb(HWD(3, 5)).double().eval()
    x = torch.randn(2, 3, *size, dtype=torch.float64)

    def bands(a, b, c, d):
        return torch.cat(((a + b + c + d) / 2, (a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2), 1)

    with torch.no_grad():
        z = cells(x, bands)
        torch.testing.assert_close(z.square().sum(), x.square().sum(), msg="it keeps the energy")
        y = torch.einsum("oi,nihw->nohw", module.conv.conv.weight[:, :, 0, 0], z)
        torch.testing.assert_close(module(x), functional.silu(module.conv.bn(y)))


@SIZES
def test_spd_equals_the_formula(perturb, size):
    module = perturb(SPDConv(3, 5)).double().eval()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        z = cells(x, lambda a, b, c, d: torch.cat((a, c, b, d), 1))  # rows first
        torch.testing.assert_close(module(x), module.conv(z))
    assert module.conv.conv.kernel_size == (3, 3)


@pytest.mark.parametrize("size", [(6, 8), (2, 2)])
def test_adown_is_ultralytics_on_even_sizes(perturb, size):
    module, plain = perturb(ADownCeil(8, 12)).eval(), ADown(8, 12).eval()
    plain.load_state_dict(module.state_dict(), strict=True)
    x = torch.randn(2, 8, *size)
    with torch.no_grad():
        assert torch.equal(module(x), plain(x))


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (1, 1)])
def test_adown_repeats_the_border_of_odd_sizes(perturb, size):
    module, plain = perturb(ADownCeil(8, 12)).eval(), ADown(8, 12).eval()
    plain.load_state_dict(module.state_dict(), strict=True)
    h, w = size
    x = torch.randn(2, 8, h, w)
    rows = [*range(h), *[h - 1] * (h % 2)]
    columns = [*range(w), *[w - 1] * (w % 2)]
    with torch.no_grad():
        assert torch.equal(module(x), plain(x[:, :, rows][..., columns]))


def test_scdown_is_ultralytics():
    assert get("SCDown").cls is SCDown


def test_macs_are_the_closed_form(macs):
    x = torch.randn(1, 16, 10, 12)
    assert macs(HWD(16, 24), x) == 30 * 4 * 16 * 24
    assert macs(SPDConv(16, 24), x) == 30 * 9 * 4 * 16 * 24
    assert macs(ADownCeil(16, 24), x) == 30 * 10 * 16 * 24 // 4
    assert macs(SCDown(16, 24, 3, 2), x) == 120 * 16 * 24 + 30 * 9 * 24


@pytest.mark.parametrize("cls", [HWD, SPDConv, ADownCeil])
@pytest.mark.parametrize(("k", "s"), [(3, 1), (2, 2), (1, 2), (3, 4)])
def test_refuses(cls, k, s):
    with pytest.raises(ValueError, match=f"{cls.__name__}: k={k}, s={s}: expected an odd kernel of 3 or more, and"):
        cls(8, 8, k, s)


@pytest.mark.parametrize("channels", [(3, 16), (16, 7)])
def test_adown_refuses_odd_channels(channels):
    with pytest.raises(ValueError, match="expected even numbers"):
        ADownCeil(*channels)


def test_fits_only_halving():
    for name in ("HWD", "SPDConv", "ADownCeil", "SCDown"):
        fits = get(name).fits
        assert fits({"kernel": 3, "stride": 2})
        assert not fits({"kernel": 3, "stride": 1})
        assert not fits({"kernel": 2, "stride": 2})
