"""ContextAggregation and ACmix against their formulas, one plain operation at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from contract_cases import counted
from torch.nn import functional

from nas.ops.attention.acmix import ACmix
from nas.ops.attention.context import ContextAggregation


@pytest.mark.parametrize("reduction", [1, 4])
def test_context_equals_the_formula(perturb, reduction):
    """The mean of the values, as the paper has it, where the module takes the value of the mean."""
    module = perturb(ContextAggregation(8, reduction), 0.3).double()
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    weights = functional.conv2d(x, module.k.weight).flatten(2).softmax(2)
    values = functional.conv2d(x, module.v.weight, module.v.bias).flatten(2)
    context = (values * weights).sum(2)[:, :, None, None]
    asked = functional.conv2d(x, module.a.weight, module.a.bias).sigmoid()
    expected = x + asked * functional.conv2d(context, module.m.weight, module.m.bias)
    torch.testing.assert_close(module(x), expected)


def test_context_starts_as_the_identity():
    x = torch.randn(1, 8, 3, 4)
    assert torch.equal(ContextAggregation(8)(x), x)


def acmix(module: ACmix, x: torch.Tensor) -> torch.Tensor:
    """Return attention and convolution of the paper, pixel by pixel and window by window."""
    n, c, h, w = x.shape
    d, reach = c // module.head, module.kernel // 2
    q, k, v = (conv(x) for conv in (module.conv1, module.conv2, module.conv3))
    place = torch.stack((torch.linspace(-1, 1, w).expand(h, w), torch.linspace(-1, 1, h).unsqueeze(1).expand(h, w))).to(
        x
    )
    pe = torch.einsum("dp,phw->dhw", module.conv_p.weight[:, :, 0, 0], place)
    pad = (reach,) * 4
    windows = {
        name: functional.pad(t, pad, mode="reflect") for name, t in (("k", k), ("v", v), ("pe", pe.unsqueeze(0)))
    }
    attention = torch.zeros_like(x)
    for head in range(module.head):
        own = slice(head * d, (head + 1) * d)
        for i in range(h):
            for j in range(w):
                keys = windows["k"][:, own, i : i + module.kernel, j : j + module.kernel].flatten(2)
                far = windows["pe"][0, :, i : i + module.kernel, j : j + module.kernel].flatten(1)
                near = pe[:, i, j].unsqueeze(1)
                logits = torch.einsum("nd,ndt->nt", q[:, own, i, j] * d**-0.5, keys + near - far)
                values = windows["v"][:, own, i : i + module.kernel, j : j + module.kernel].flatten(2)
                attention[:, own, i, j] = torch.einsum("nt,ndt->nd", logits.softmax(1), values)

    maps = torch.zeros(n, 9 * d, h, w, dtype=x.dtype)
    for j in range(d):
        heads = torch.cat([t[:, j::d] for t in (q, k, v)], 1)  # channel j of every head of q, then of k, then of v
        maps[:, 9 * j : 9 * (j + 1)] = torch.einsum("ts,nshw->nthw", module.fc.weight[:, :, 0, 0], heads)
    convolution = functional.conv2d(maps, module.dep_conv.weight, padding=1, groups=d)
    return module.rate1 * attention + module.rate2 * convolution


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize(("kernel", "head"), [(7, 4), (3, 2), (5, 1)])
def test_acmix_equals_the_formula(perturb, kernel, head, scale):
    module = perturb(ACmix(8, kernel, head), 0.3).double()
    module.residual_scale.data.fill_(scale)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(module(x), x + scale * (acmix(module, x) - x))


def test_acmix_starts_as_the_convolution_of_its_taps():
    """Map t of a channel, moved by tap t of the kernel, for every output."""
    module = ACmix(8).double()
    maps = torch.randn(1, 9 * 2, 4, 5, dtype=torch.float64)
    padded = functional.pad(maps, (1, 1, 1, 1))
    moved = [padded[:, t::9, t // 3 : t // 3 + 4, t % 3 : t % 3 + 5] for t in range(9)]
    torch.testing.assert_close(module.dep_conv(maps), sum(moved).repeat_interleave(4, 1))


def test_acmix_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match=r"ACmix: 10 channels, head=4: expected heads that divide"):
        ACmix(10)


def test_macs_are_the_closed_form():
    n, c, d = 20 * 24, 32, 8
    x = torch.randn(1, c, 20, 24)
    assert sum(counted(ContextAggregation(c, 2), x)) == n * 3 * c + 2 * c * c // 2
    projections = 3 * c * c + 2 * d + 3 * 4 * 9 * d
    assert sum(counted(ACmix(c), x)) == n * (projections + 81 * c + 2 * 49 * c)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_acmix_in_half_precision_takes_maps_in_the_hundreds(scale):
    """Whose products pass 65504, the largest number of float16."""
    module, x = ACmix(16).eval(), scale * torch.randn(1, 16, 12, 12).half().float()
    with torch.no_grad():
        expected, found = module(x), copy.deepcopy(module).half()(x.half())
    assert found.isfinite().all()
    if scale == 1:
        assert (found.float() - expected).square().mean() / expected.var() < 1e-4
