"""SPConv against its formula, one torch operation at a time."""

import math

import pytest
import torch
from torch.nn import functional

from nas.ops.registry import get
from nas.ops.spconv import SPConv


def means(x):
    """2x2 means with stride 2, pixel by pixel; what sticks out of the image does not count."""
    n, c, h, w = x.shape
    y = torch.zeros(n, c, math.ceil(h / 2), math.ceil(w / 2), dtype=x.dtype)
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            y[:, :, i, j] = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3))
    return y


def batch_norm(x, bn, training):
    mean = x.mean((0, 2, 3)) if training else bn.running_mean
    var = x.var((0, 2, 3), unbiased=False) if training else bn.running_var
    shape = (1, -1, 1, 1)
    return (x - mean.view(shape)) / (var.view(shape) + bn.eps).sqrt() * bn.weight.view(shape) + bn.bias.view(shape)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("s", [1, 2])
@pytest.mark.parametrize("size", [(6, 4), (5, 7), (4, 3)])
@pytest.mark.parametrize("ratio", [0.5, 0.25])
def test_equals_the_formula(perturb, training, s, size, ratio):
    module = perturb(SPConv(8, 6, 3, s, ratio)).double().train(training)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    heavy = int(8 * ratio)
    a, b = x[:, :heavy], x[:, heavy:]
    weight = module.gwc.weight
    half = heavy // 2
    grouped = torch.cat(
        [
            functional.conv2d(a[:, :half], weight[:3], None, s, 1),
            functional.conv2d(a[:, half:], weight[3:], None, s, 1),
        ],
        1,
    )
    pool = means if s == 2 else torch.clone
    point = torch.einsum("oc,nchw->nohw", module.pwc.weight[:, :, 0, 0], pool(a))
    rest = torch.einsum("oc,nchw->nohw", module.conv1x1.weight[:, :, 0, 0], pool(b))
    u = batch_norm(grouped + point, module.bn1, training)
    v = batch_norm(rest + module.conv1x1.bias.view(1, -1, 1, 1), module.bn2, training)
    gate = torch.stack((u.mean((2, 3)), v.mean((2, 3)))).softmax(0)[..., None, None]
    expected = functional.silu(gate[0] * u + gate[1] * v)
    torch.testing.assert_close(module(x), expected)


def test_state_keys():
    keys = {key.split(".")[0] for key in SPConv(8, 8).state_dict()}
    assert keys == {"gwc", "pwc", "conv1x1", "bn1", "bn2"}


@pytest.mark.parametrize("ratio", [0.05, 0.125, 0.25, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("c1", [3, 4, 5, 6, 8, 12, 16, 24, 40, 48, 80, 96, 160, 192, 288, 320, 576, 640])
def test_every_width_of_every_scale(c1, ratio):
    module = SPConv(c1, 4, 3, 1, ratio)
    assert module.heavy % 2 == 0
    assert 2 <= module.heavy < c1
    assert module.pwc.in_channels + module.conv1x1.in_channels == c1
    if int(c1 * ratio) % 2 == 0 and int(c1 * ratio) > 0:
        assert module.heavy == int(c1 * ratio), "the authors' split"


@pytest.mark.parametrize("s", [1, 2])
@pytest.mark.parametrize("size", [(5, 3), (1, 1), (1, 6)])
def test_shape_is_that_of_a_convolution(s, size):
    module = SPConv(3, 4, 3, s).eval()
    x = torch.randn(1, 3, *size)
    assert module(x).shape == torch.nn.Conv2d(3, 4, 3, s, 1)(x).shape


def test_macs_are_the_closed_form():
    from nas.ops.registry import macs_rules

    module, x = SPConv(8, 6, 3, 2), torch.randn(2, 8, 5, 7)
    assert macs_rules()[SPConv](module, (x,), module(x)) == 2 * 6 * 3 * 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((8, 8, 1), "kernel 3"),
        ((8, 8, 3, 3), "stride 1 or 2"),
        ((8, 8, 3, 1, 1.0), "less than 1"),
        ((2, 8), "at least 3 input"),
        ((8, 7), "even number of output"),
    ],
)
def test_refuses(args, message):
    with pytest.raises(ValueError, match=message):
        SPConv(*args)


def test_fits_only_what_it_can_build():
    fits = get("SPConv").fits
    assert fits({"kernel": 3, "stride": 1})
    assert fits({"kernel": 3, "stride": 2})
    assert not fits({"kernel": 1, "stride": 1})
    assert not fits({"kernel": 3, "stride": 4})
