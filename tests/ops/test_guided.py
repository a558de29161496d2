"""Guided upsamplers against their formulas, tap by tap."""

from __future__ import annotations

import pytest
import torch
from contract_cases import counted
from torch import nn
from torch.nn import functional

from nas.ops.guided import FADE, SAPA
from nas.ops.warm_start import apply_start

C, G = 6, 4


def pair(scale=2, h=3, w=5, n=2):
    x = torch.randn(n, C, h, w, dtype=torch.float64)
    return [x, torch.randn(n, G, scale * h, scale * w, dtype=torch.float64)]


def nearest(x, scale):
    return x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def taps(x, k, scale):
    """Return what each output pixel sees of x, in rows: (N, C, k * k, scale * H, scale * W); 0 outside."""
    h, w = x.shape[2:]
    padded = functional.pad(x, (k // 2,) * 4)
    return torch.stack([nearest(padded[..., i : i + h, j : j + w], scale) for i in range(k) for j in range(k)], 2)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("k", "scale"), [(5, 2), (3, 3)])
def test_fade_equals_the_formula(perturb, k, scale, gated):
    module = perturb(FADE(C, G, k, 8, gated, scale), 0.3).double()
    x, guide = pair(scale)
    e = functional.conv2d(guide, module.compress_guide.weight, module.compress_guide.bias)
    q = functional.conv2d(x, module.compress.weight)
    logits = module.encoder(e) + nearest(module.encoder(q), scale)
    expected = (taps(x, k, scale) * logits.softmax(1).unsqueeze(1)).sum(2)
    if gated:
        gate = nearest(module.gate(x).sigmoid(), scale)
        expected = gate * module.align(guide) + (1 - gate) * expected
    torch.testing.assert_close(module([x, guide]), expected)


@pytest.mark.parametrize(("k", "scale"), [(5, 2), (3, 3)])
def test_sapa_equals_the_formula(perturb, k, scale):
    module = perturb(SAPA(C, G, k, 8, scale), 0.3).double()
    x, guide = pair(scale)

    def normed(t, norm):
        mean, var = t.mean(1, keepdim=True), t.var(1, unbiased=False, keepdim=True)
        return (t - mean) / (var + norm.eps).sqrt() * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)

    def linear(t, layer):
        return torch.einsum("oc,nchw->nohw", layer.weight, t) + layer.bias.view(1, -1, 1, 1)

    query = linear(normed(guide, module.norm_y), module.q)
    key = linear(normed(x, module.norm_x), module.k)
    logits = (query.unsqueeze(2) * taps(key, k, scale)).sum(1)
    expected = (taps(x, k, scale) * logits.softmax(1).unsqueeze(1)).sum(2)
    torch.testing.assert_close(module([x, guide]), expected)


def test_a_guide_of_the_same_width_is_not_projected():
    assert FADE(C, C).align is None
    assert FADE(C, G).align.out_channels == C
    assert FADE(C, G, gated=False).align is None


@pytest.mark.parametrize("cls", [FADE, SAPA])
def test_refuses(cls):
    module = cls(C, G).double()
    x, guide = pair()
    with pytest.raises(ValueError, match=r"a map of 3x5 pixels and a guide of 6x9: expected a guide of 6x10"):
        module([x, guide[..., :-1]])
    for inputs in (x, [x], [x, guide, guide]):
        with pytest.raises(ValueError, match=r"expected two inputs, the map to upsample and its guide"):
            module(inputs)
    with pytest.raises(ValueError, match=rf"{cls.__name__}: k_up=4.*odd kernel"):
        cls(C, G, 4)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("scale", [2, 3])
def test_fade_starts_near_nearest_upsampling(scale, gated):
    module = FADE(32, 24, gated=gated, scale=scale)
    old = nn.Upsample(scale_factor=scale)
    x = functional.silu(torch.randn(2, 32, 12, 15))
    guide = functional.silu(torch.randn(2, 24, 12 * scale, 15 * scale))
    fresh = (module([x, guide]) - old(x)).square().mean() / old(x).var()
    assert apply_start(module, old)
    begun = (module([x, guide]) - old(x)).square().mean() / old(x).var()
    assert begun < 0.03
    assert begun < fresh / 10
    assert not apply_start(module, nn.Upsample(scale_factor=5))


def test_macs_are_the_closed_form():
    h, w, e, k = 10, 12, 64, 25
    inputs = [torch.randn(1, C, h, w), torch.randn(1, G, 2 * h, 2 * w)]
    fade = e * (4 * G + C) + 45 * e * k + 4 * k * C + C + 4 * G * C
    assert sum(counted(FADE(C, G), inputs)) == h * w * fade
    sapa = 4 * G * e + C * e + 4 * k * e + 4 * k * C
    assert sum(counted(SAPA(C, G), inputs)) == h * w * sapa
