"""CARAFE against loops over pixels, and against the form that upsamples first."""

import pytest
import torch
from torch.nn import functional

from nas.ops.carafe import CARAFE, carafe


def oracle(x, logits, k, s):
    """The equation, pixel by pixel, in Python floats."""
    n, c, h, w = x.shape
    y = torch.zeros(n, c, h * s, w * s, dtype=torch.float64)
    r = k // 2
    for b in range(n):
        for oy in range(h * s):
            for ox in range(w * s):
                i, j, sub = oy // s, ox // s, (oy % s) * s + ox % s
                raw = [float(logits[b, t * s * s + sub, i, j]) for t in range(k * k)]
                e = torch.tensor(raw, dtype=torch.float64).exp()
                e /= e.sum()
                for t in range(k * k):
                    yy, xx = i + t // k - r, j + t % k - r
                    if 0 <= yy < h and 0 <= xx < w:
                        y[b, :, oy, ox] += x[b, :, yy, xx].double() * e[t]
    return y


@pytest.mark.parametrize(("k", "s"), [(1, 2), (3, 2), (5, 2), (3, 3), (5, 1)])
@pytest.mark.parametrize("size", [(3, 5), (1, 1), (4, 2)])
def test_equals_the_equation(k, s, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    logits = torch.randn(2, (k * s) ** 2, *size, dtype=torch.float64)
    torch.testing.assert_close(carafe(x, logits, k, s), oracle(x, logits, k, s))


@pytest.mark.parametrize("size", [(7, 5), (2, 9)])
def test_equals_upsampling_first(size):
    k, s, (h, w) = 5, 2, size
    x, logits = torch.randn(2, 4, h, w), torch.randn(2, (k * s) ** 2, h, w)
    mask = functional.pixel_shuffle(logits, s).softmax(1)
    up = functional.interpolate(x, scale_factor=s, mode="nearest")
    taps = functional.unfold(up, k, dilation=s, padding=k // 2 * s).view(2, 4, k * k, h * s, w * s)
    torch.testing.assert_close(carafe(x, logits, k, s), torch.einsum("nkhw,nckhw->nchw", mask, taps))


def test_weights_outside_are_lost_not_redistributed():
    y = carafe(torch.ones(1, 1, 4, 4), torch.zeros(1, 9 * 4, 4, 4), 3, 2)
    assert y[0, 0, 3, 3].item() == pytest.approx(1)
    assert y[0, 0, 0, 0].item() == pytest.approx(4 / 9)
    assert y[0, 0, 0, 3].item() == pytest.approx(6 / 9)


def test_gradients():
    x = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 36, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: carafe(a, b, 3, 2), (x, logits))


@pytest.mark.parametrize(("k", "s"), [(3, 2), (5, 3)])
def test_exported_form_is_the_same(monkeypatch, k, s):
    x, logits = torch.randn(2, 3, 4, 5), torch.randn(2, (k * s) ** 2, 4, 5)
    eager = carafe(x, logits, k, s)
    monkeypatch.setattr("nas.ops.functional.carafe.exporting", lambda: True)
    torch.testing.assert_close(carafe(x, logits, k, s), eager)


def test_nothing_as_large_as_neighbourhood_times_channels():
    k, s, c, side = 5, 2, 32, 24
    x = torch.randn(1, c, side, side, requires_grad=True)
    logits = torch.randn(1, (k * s) ** 2, side, side, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        carafe(x, logits, k, s)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < x.numel() * k * k * 4, "one tensor of k_up**2 times the input"


def test_state_keys_are_those_of_the_yolo_form():
    keys = {key.rsplit(".", 1)[0] for key in CARAFE(8).state_dict()}
    assert keys == {"comp.conv", "comp.bn", "enc.conv", "enc.bn"}
    assert CARAFE(8, 3, 5, 16, 2).enc.conv.weight.shape == (100, 16, 3, 3)


def test_macs_are_the_closed_form():
    from nas.ops.registry import macs_rules

    module, x = CARAFE(8, k_up=3, scale=2), torch.randn(2, 8, 4, 5)
    assert macs_rules()[CARAFE](module, (x,), module(x)) == 2 * 4 * 5 * 3**2 * 8 * 2**2


def test_autocast_decides_the_dtype_of_the_features():
    module, x = CARAFE(8), torch.randn(1, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x.bfloat16()).dtype == torch.bfloat16
        assert module(x).dtype == torch.bfloat16
    assert module(x).dtype == torch.float32


def test_memory_format_is_kept():
    x = torch.randn(2, 8, 4, 5)
    assert CARAFE(8)(x).is_contiguous()
    y = CARAFE(8)(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("wrong", [{"k_up": 4}, {"k_enc": 2}, {"scale": 0}, {"c_mid": 0}])
def test_refuses(wrong):
    with pytest.raises(ValueError, match="expected odd kernels"):
        CARAFE(8, **wrong)


def test_refuses_logits_that_do_not_fit():
    with pytest.raises(ValueError, match=r"expected \(1, 100, 4, 4\)"):
        carafe(torch.zeros(1, 2, 4, 4), torch.zeros(1, 36, 4, 4), 5, 2)
