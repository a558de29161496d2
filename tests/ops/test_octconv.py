"""OctConv against its formula, and what it costs."""

import pytest
import torch
from torch.nn import functional

from nas.ops.octconv import C2f_OctConv, OctaveBottleneck, OctaveConv, OctConv
from nas.ops.registry import get


def pooled(x):
    """Return means of 2x2 windows; at the border of what they hold."""
    h, w = x.shape[2:]
    y = [[x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for j in range(0, w, 2)] for i in range(0, h, 2)]
    return torch.stack([torch.stack(row, 2) for row in y], 2)


def up(x, h, w):
    return x[:, :, torch.arange(h) // 2][..., torch.arange(w) // 2]


def conv(layer, x):
    return functional.conv2d(x, layer.weight, None, 1, 1)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1), (1, 4)])
@pytest.mark.parametrize("shortcut", [True, False])
def test_bottleneck_equals_the_formula(perturb, size, shortcut):
    module = perturb(OctaveBottleneck(8, shortcut, 0.25)).double().eval()
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    one, two = module.cv1, module.cv2
    with torch.no_grad():
        high = functional.silu(one.bn_h(conv(one.conv_h2h, x)))
        low = functional.silu(one.bn_l(conv(one.conv_h2l, pooled(x))))
        assert (high.shape[1], low.shape[1]) == (6, 2)
        y = conv(two.conv_h2h, high) + up(conv(two.conv_l2h, low), *size)
        y = functional.silu(two.bn_h(y))
        torch.testing.assert_close(module(x), x + y if shortcut else y)


def test_a_pair_to_a_pair(perturb):
    module = perturb(OctaveConv(8, 12, 3, 4, 6)).double().eval()
    high, low = torch.randn(1, 4, 6, 8).double(), torch.randn(1, 4, 3, 4).double()
    with torch.no_grad():
        above = conv(module.conv_h2h, high) + up(conv(module.conv_l2h, low), 6, 8)
        below = conv(module.conv_l2l, low) + conv(module.conv_h2l, pooled(high))
        found = module(high, low)
        torch.testing.assert_close(found[0], functional.silu(module.bn_h(above)))
        torch.testing.assert_close(found[1], functional.silu(module.bn_l(below)))


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1), (2, 3)])
@pytest.mark.parametrize("s", [1, 2])
def test_from_one_map_to_one_equals_the_formula(perturb, size, s):
    module = perturb(OctConv(6, 8, 3, s, 0.25)).double().eval()
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    with torch.no_grad():
        seen = x if s == 1 else pooled(x)
        high = functional.silu(module.conv_h2h.bn(conv(module.conv_h2h.conv, seen)))
        low = functional.silu(module.conv_h2l.bn(conv(module.conv_h2l.conv, pooled(seen))))
        assert (high.shape[1], low.shape[1]) == (6, 2)
        torch.testing.assert_close(module(x), torch.cat((high, up(low, *seen.shape[2:])), 1))


def test_its_low_part_is_a_pair_to_the_next():
    """Pooled again, what came up is what it was: a chain of these computes low parts as pairs do."""
    low = torch.randn(1, 3, 4, 5)
    assert torch.equal(pooled(up(low, 8, 10)), low)


def test_macs_are_the_closed_form(macs):
    """A quarter of the pixels for every path to or from the low part."""
    image = torch.randn(1, 16, 20, 24)
    assert macs(OctConv(16, 24, 3, 1, 0.25), image) == 9 * 16 * (480 * 18 + 120 * 6)
    assert macs(OctConv(16, 24, 5, 2), image) == 25 * 16 * (120 * 12 + 30 * 12)
    x = torch.randn(1, 16, 10, 12)
    both = 9 * 12 * (9 + 3 / 4)  # 12 channels inside, 3 of them low
    assert macs(C2f_OctConv(16, 24, 2, True, 0.25), x) == 120 * (16 * 24 + 4 * 12 * 24 + 2 * 2 * both)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_refuses_a_part_without_channels(alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha} of 8 channels: expected 1 to 7"):
        C2f_OctConv(8, 16, alpha=alpha)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 2}, "OctConv: k=2, s=1: expected an odd kernel"),
        ({"s": 3}, "OctConv: s=3: expected stride 1 or 2"),
        ({"alpha": 0.05}, "OctConv: alpha=0.05 of 8 channels: expected 1 to 7"),
    ],
)
def test_one_map_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        OctConv(8, 8, **wrong)


def test_fits_odd_kernels_that_halve_at_most():
    fits = get("OctConv").fits
    assert [(k, s) for k in range(1, 6) for s in (1, 2, 4) if fits({"kernel": k, "stride": s})] == [
        *((3, 1), (3, 2), (5, 1), (5, 2))
    ]
