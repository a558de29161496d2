"""OREPA and RepVGG: the kernel of many branches, and what fuse() leaves of them."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from ultralytics.nn.modules.conv import Conv

from nas.ops.orepa import OREPA
from nas.ops.reparam import Fusible, RepVGG, folded


def branches(m):
    """Return OREPA's kernel, entry by entry where a branch has a formula of its own."""
    c2, c1 = m.c2, m.c1
    w = torch.zeros(c2, c1, 3, 3, dtype=m.vector.dtype)
    for o in range(c2):
        for i in range(c1):
            for y in range(3):
                for x in range(3):
                    at = (o, i, y, x)
                    first, second = o < c2 / 2, o + 1 - c2 / 2
                    prior = math.cos(math.pi * ((y + 0.5) * (o + 1) if first else (x + 0.5) * second) / 3)
                    w[at] += m.vector[0, o] * m.weight_orepa_origin[at]
                    w[at] += m.vector[1, o] * m.weight_orepa_avg_conv[o, i, 0, 0] / 9
                    w[at] += m.vector[2, o] * m.weight_orepa_pfir_conv[o, i, 0, 0] * prior
                    for t in range(c1):
                        into = m.weight_orepa_1x1_kxk_idconv1.weight[t, i] + (t == i)
                        w[at] += m.vector[3, o] * into * m.weight_orepa_1x1_kxk_conv2[o, t, y, x]
                    if y == x == 1:
                        w[at] += m.vector[4, o] * m.weight_orepa_1x1[o, i, 0, 0]
                    for t in range(8):
                        pointwise = m.weight_orepa_gconv_pw[o, 8 * i + t, 0, 0]
                        w[at] += m.vector[5, o] * pointwise * m.weight_orepa_gconv_dw[8 * i + t, 0, y, x]
    return w


@pytest.mark.parametrize("c2", [6, 5])
@pytest.mark.parametrize("s", [1, 2])
def test_kernel_and_layer_equal_the_formula(perturb, c2, s):
    module = perturb(OREPA(4, c2, 3, s)).double().eval()
    with torch.no_grad():
        expected = branches(module)
        # The prior is a buffer in single precision.
        torch.testing.assert_close(module.kernel(), expected, rtol=1e-5, atol=1e-6)
        x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
        y = functional.silu(module.bn(functional.conv2d(x, expected, None, s, 1)))
        torch.testing.assert_close(module(x), y, rtol=1e-5, atol=1e-5)


def test_orepa_starts_as_the_authors():
    rows = OREPA(8, 8).vector
    assert rows[:, 0].tolist() == [0.25, 0.25, 0, 0.5, 1, 0.5]
    assert not OREPA(8, 8).weight_orepa_1x1_kxk_idconv1.weight.any()


def test_orepa_state_keys():
    weights = {
        "origin",
        "avg_conv",
        "pfir_conv",
        "1x1_kxk_idconv1.weight",
        "1x1_kxk_conv2",
        "1x1",
        "gconv_dw",
        "gconv_pw",
    }
    expected = {f"weight_orepa_{w}" for w in weights} | {"weight_orepa_avg_avg", "weight_orepa_prior"}
    assert {k for k in OREPA(4, 4).state_dict() if not k.startswith("bn.")} == expected | {"vector", "id_tensor"}


@pytest.mark.parametrize("make", [lambda: OREPA(8, 12, 3, 2), lambda: RepVGG(8, 8), lambda: RepVGG(8, 12, 3, 2)])
def test_fuse_leaves_one_convolution(perturb, fused, macs, make):
    module, x = perturb(make()).eval(), torch.randn(2, 8, 10, 12)
    after = fused(module)
    with torch.no_grad():
        torch.testing.assert_close(after(x), module(x), rtol=1e-4, atol=1e-5)
    assert [type(m) for m in after.modules() if next(m.parameters(recurse=False), None) is not None] == [nn.Conv2d]
    (conv,) = (m for m in after.modules() if isinstance(m, nn.Conv2d))
    assert macs(after, x[:1]) == macs(Conv(8, conv.out_channels, 3, conv.stride[0]), x[:1]) < macs(module, x[:1])
    after.fuse_convs()
    with torch.no_grad():
        torch.testing.assert_close(after(x), module(x), rtol=1e-4, atol=1e-5)


def test_macs_are_the_closed_form(macs):
    x = torch.randn(1, 8, 10, 12)
    assert macs(OREPA(8, 12, 3, 2), x) == 9 * 8 * 12 * 5 * 6 + 9 * 8 * 12 * (8 + 8)
    assert macs(RepVGG(8, 12, 3, 2), x) == 10 * 8 * 12 * 5 * 6


@pytest.mark.parametrize("c2", [8, 6])
def test_repvgg_equals_the_formula(perturb, c2):
    module = perturb(RepVGG(8, c2)).double().eval()
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    total = 0
    for conv in (module.conv1, module.conv2):
        gain, bias = folded(conv.bn)
        y = functional.conv2d(x, conv.conv.weight, None, 1, conv.conv.padding)
        total = total + y * gain.view(-1, 1, 1) + bias.view(-1, 1, 1)
    assert (module.bn is not None) == (c2 == 8)
    if module.bn is not None:
        total = total + (x - module.bn.running_mean.view(-1, 1, 1)) * folded(module.bn)[0].view(-1, 1, 1)
        total = total + module.bn.bias.view(-1, 1, 1)
    torch.testing.assert_close(module(x), functional.silu(total))


@pytest.mark.parametrize("cls", [OREPA, RepVGG])
@pytest.mark.parametrize(("k", "s"), [(1, 1), (5, 2), (3, 0)])
def test_refuses(cls, k, s):
    with pytest.raises(ValueError, match="expected kernel 3 and a stride of 1 or more"):
        cls(8, 8, k, s)


def test_a_fusible_module_has_to_say_how():
    with pytest.raises(TypeError, match=r"abstract.*fuse_convs"):
        Fusible()
