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
    c2, width, inner = m.c2, m.c1 // m.groups, m.weight_orepa_1x1_kxk_conv2.shape[1]
    w = torch.zeros(c2, width, 3, 3, dtype=m.vector.dtype)
    for o in range(c2):
        group, within = divmod(o, c2 // m.groups)
        for i in range(width):
            for y in range(3):
                for x in range(3):
                    at = (o, i, y, x)
                    first, second = o < c2 / 2, o + 1 - c2 / 2
                    prior = math.cos(math.pi * ((y + 0.5) * (o + 1) if first else (x + 0.5) * second) / 3)
                    w[at] += m.vector[0, o] * m.weight_orepa_origin[at]
                    w[at] += m.vector[1, o] * m.weight_orepa_avg_conv[o, i, 0, 0] / 9
                    w[at] += m.vector[2, o] * m.weight_orepa_pfir_conv[o, i, 0, 0] * prior
                    for t in range(inner):
                        into = m.weight_orepa_1x1_kxk_idconv1.weight[group * inner + t, i] + (t % width == i)
                        w[at] += m.vector[3, o] * into * m.weight_orepa_1x1_kxk_conv2[o, t, y, x]
                    if y == x == 1:
                        w[at] += m.vector[4, o] * m.weight_orepa_1x1[o, i, 0, 0]
                    for t in range(8):
                        pointwise = m.weight_orepa_gconv_pw[within * m.groups + group, 8 * i + t, 0, 0]
                        depthwise = m.weight_orepa_gconv_dw[8 * (group * width + i) + t, 0, y, x]
                        w[at] += m.vector[5, o] * pointwise * depthwise
    return w


def single_group(x, kernel, groups):
    """Convolve the groups of channels one by one."""
    parts = zip(x.chunk(groups, 1), kernel.chunk(groups), strict=True)
    return torch.cat([functional.conv2d(part, weight, None, 1, 1) for part, weight in parts], 1)


@pytest.mark.parametrize(("c1", "c2", "groups"), [(4, 6, 1), (4, 5, 1), (4, 6, 2), (10, 5, 5)])
@pytest.mark.parametrize("s", [1, 2])
def test_kernel_and_layer_equal_the_formula(perturb, c1, c2, groups, s):
    """With their gradients; from five groups on the chain has twice as many inner channels."""
    module = perturb(OREPA(c1, c2, 3, s, groups)).double().eval()
    expected = branches(module)
    # The prior is a buffer in single precision.
    torch.testing.assert_close(module.kernel(), expected, rtol=1e-5, atol=1e-6)
    x = torch.randn(2, c1, 7, 6, dtype=torch.float64, requires_grad=True)
    y = functional.silu(module.bn(single_group(x, expected, groups)))[..., ::s, ::s]
    torch.testing.assert_close(module(x), y, rtol=1e-5, atol=1e-5)
    by, weight = [x, *module.parameters()], torch.randn_like(y)
    for found, wanted in zip(
        torch.autograd.grad((module(x) * weight).sum(), by), torch.autograd.grad((y * weight).sum(), by), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


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


def test_orepa_takes_the_authors_kernel_for_its_layer(perturb):
    """Their ``idconv1`` is a 1x1 kernel; shapes are theirs for groups."""
    module, other = perturb(OREPA(12, 6, groups=6)), OREPA(12, 6, groups=6)
    state = {f"layer.{name}": value for name, value in module.state_dict().items()}
    kernel = state.pop("layer.weight_orepa_1x1_kxk_idconv1.weight")[:, :, None, None]
    state["layer.weight_orepa_1x1_kxk_idconv1"] = kernel
    nn.ModuleDict({"layer": other}).load_state_dict(state, strict=True)
    assert all(map(torch.equal, other.state_dict().values(), module.state_dict().values()))
    assert kernel.shape == (24, 2, 1, 1)
    assert module.id_tensor.shape == (24, 2, 1, 1)
    assert module.weight_orepa_1x1_kxk_conv2.shape == (6, 4, 3, 3)
    assert module.weight_orepa_gconv_dw.shape == (8 * 12, 1, 3, 3)
    assert module.weight_orepa_gconv_pw.shape == (6, 8 * 2, 1, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: OREPA(8, 12, 3, 2),
        lambda: OREPA(8, 12, 3, 2, 4),
        lambda: RepVGG(8, 8),
        lambda: RepVGG(8, 12, 3, 2),
        lambda: RepVGG(8, 8, 3, 1, 4),
    ],
)
def test_fuse_leaves_one_convolution(perturb, fused, macs, make):
    module, x = perturb(make()).eval(), torch.randn(2, 8, 10, 12)
    after = fused(module)
    with torch.no_grad():
        torch.testing.assert_close(after(x), module(x), rtol=1e-4, atol=1e-5)
    assert [type(m) for m in after.modules() if next(m.parameters(recurse=False), None) is not None] == [nn.Conv2d]
    (conv,) = (m for m in after.modules() if isinstance(m, nn.Conv2d))
    plain = Conv(8, conv.out_channels, 3, conv.stride[0], g=conv.groups)
    assert macs(after, x[:1]) == macs(plain, x[:1]) < macs(module, x[:1])
    after.fuse_convs()
    with torch.no_grad():
        torch.testing.assert_close(after(x), module(x), rtol=1e-4, atol=1e-5)


def test_macs_are_the_closed_form(macs):
    x = torch.randn(1, 8, 10, 12)
    assert macs(OREPA(8, 12, 3, 2), x) == 9 * 8 * 12 * 5 * 6 + 9 * 8 * 12 * (8 + 8)
    assert macs(OREPA(8, 12, 3, 2, 2), x) == 9 * 4 * 12 * 5 * 6 + 9 * 4 * 12 * (4 + 8)
    assert macs(OREPA(10, 5, 3, 2, 5), torch.randn(1, 10, 10, 12)) == 9 * 2 * 5 * (5 * 6 + 4 + 8)
    assert macs(RepVGG(8, 12, 3, 2), x) == 10 * 8 * 12 * 5 * 6
    assert macs(RepVGG(8, 12, 3, 2, 4), x) == 10 * 2 * 12 * 5 * 6


@pytest.mark.parametrize(("c2", "groups"), [(8, 1), (6, 1), (8, 4), (6, 2)])
def test_repvgg_equals_the_formula(perturb, c2, groups):
    module = perturb(RepVGG(8, c2, groups=groups)).double().eval()
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    total = 0
    for conv in (module.conv1, module.conv2):
        gain, bias = folded(conv.bn)
        size = conv.conv.kernel_size[0]
        y = single_group(x, functional.pad(conv.conv.weight, (1 - size // 2,) * 4), groups)
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


@pytest.mark.parametrize("cls", [OREPA, RepVGG])
@pytest.mark.parametrize("groups", [0, 3])
def test_refuses_groups_that_do_not_divide(cls, groups):
    with pytest.raises(ValueError, match=rf"8 to 12 channels, groups={groups}: expected groups that divide"):
        cls(8, 12, groups=groups)


def test_a_fusible_module_has_to_say_how():
    with pytest.raises(TypeError, match=r"abstract.*fuse_convs"):
        Fusible()
