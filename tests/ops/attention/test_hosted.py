"""Self-attentions of Ultralytics, inserted: its own modules, and what they cost."""

import pytest
import torch
from contract_cases import counted
from torch import nn

from nas.ops.attention.hosted import AIFIInsert, C2PSAInsert
from nas.ops.registry import entries

H, W = 5, 7


def attend(query, key, value, heads):
    """Return the attention of (N, L, c), one head and one query at a time."""
    length, c = value.shape[1:]
    out = torch.zeros_like(value)
    width, deep = c // heads, query.shape[2] // heads
    for h in range(heads):
        q, k = (t[..., h * deep : (h + 1) * deep] for t in (query, key))
        for i in range(length):
            weight = (q[:, i : i + 1] * k).sum(2).div(deep**0.5).softmax(1)
            out[:, i, h * width : (h + 1) * width] = (
                weight.unsqueeze(2) * value[..., h * width : (h + 1) * width]
            ).sum(1)
    return out


def test_aifi_equals_the_formula(perturb):
    c, heads = 16, 4
    module = perturb(AIFIInsert(c, 2.0, heads)).double().eval()
    inner, x = module.inner, torch.randn(2, c, H, W, dtype=torch.float64)
    assert inner.fc1.out_features == 2 * c
    rate = 10000 ** -(torch.arange(c // 4) / (c // 4))
    rows, columns = (torch.arange(size).unsqueeze(1) * rate for size in (H, W))
    place = torch.cat(
        [part.unsqueeze(1).expand(H, W, -1) for part in (rows.sin(), rows.cos())]
        + [part.unsqueeze(0).expand(H, W, -1) for part in (columns.sin(), columns.cos())],
        2,
    ).flatten(0, 1)
    with torch.no_grad():
        pixels = x.flatten(2).mT
        weight, bias = inner.ma.in_proj_weight.chunk(3), inner.ma.in_proj_bias.chunk(3)
        query, key = ((pixels + place) @ weight[i].T + bias[i] for i in (0, 1))
        u = attend(query, key, pixels @ weight[2].T + bias[2], heads)
        u = inner.norm1(pixels + u @ inner.ma.out_proj.weight.T + inner.ma.out_proj.bias)
        y = inner.norm2(u + inner.fc2(nn.functional.gelu(inner.fc1(u)))).mT.view_as(x)
        torch.testing.assert_close(module(x), x + module.residual_scale * (y - x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("c", "heads"), [(32, 1), (256, 2)])
def test_c2psa_equals_the_formula(perturb, c, heads):
    module = perturb(C2PSAInsert(c, 2)).double().eval()
    inner, x = module.inner, torch.randn(2, c, H, W, dtype=torch.float64)
    part = c // 2
    wide, deep = part // heads, part // heads // 2
    with torch.no_grad():
        passed, b = inner.cv1(x).chunk(2, 1)
        for block in inner.m:
            by_head = block.attn.qkv(b).flatten(2).view(2, heads, 2 * deep + wide, -1)
            query, key, value = (t.flatten(1, 2) for t in by_head.split((deep, deep, wide), 2))
            seen = attend(query.mT, key.mT, value.mT, heads).mT.view_as(b) + block.attn.pe(value.view_as(b))
            b = b + block.attn.proj(seen)
            b = b + block.ffn(b)
        y = inner.cv2(torch.cat((passed, b), 1))
        torch.testing.assert_close(module(x), x + module.residual_scale * (y - x), rtol=1e-5, atol=1e-6)


def test_macs_are_the_closed_form():
    c, n = 64, 20 * 24
    x, half = torch.randn(1, c, 20, 24), c // 2
    aifi = 4 * c * c * n + 2 * n * n * c + 2 * 3 * c * c * n + n * c // 2
    assert sum(counted(AIFIInsert(c, 3.0).eval(), x)) == aifi
    block = n * (half * 2 * half + half * half + 9 * half + 4 * half * half) + n * n * (half // 2 + half)
    assert sum(counted(C2PSAInsert(c, 3).eval(), x)) == n * 2 * c * c + 3 * block


def test_the_hosts_counter_knows_that_cost_grows_with_the_square():
    """It counts on small images and concludes to large ones."""
    import thop

    for module in (AIFIInsert(16), C2PSAInsert(16)):
        model, image = nn.Sequential(nn.Conv2d(3, 16, 3, 32, 1), module), torch.empty(1, 3, 640, 640)
        direct = thop.profile(model, inputs=[image], verbose=False)[0]
        assert thop.profile(model, inputs=[image], stride=32, verbose=False)[0] == direct


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AIFIInsert(18, num_heads=2), "AIFIInsert: 18 channels, num_heads=2: expected channels that 4 and"),
        (lambda: AIFIInsert(20, num_heads=8), "AIFIInsert: 20 channels, num_heads=8: expected channels that 4 and"),
        (lambda: C2PSAInsert(4, e=0.25), "C2PSAInsert: 4 channels, e=0.25: 1 heads of 1 channels: expected two"),
        (lambda: C2PSAInsert(258, e=0.5), "2 heads of 129 channels: expected two channels or more, that the heads"),
    ],
)
def test_refuses_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_they_are_no_classes_of_the_hosts():
    """A model YAML that names AIFI or C2PSA means Ultralytics' own, with other arguments."""
    for name in ("AIFIInsert", "C2PSAInsert"):
        assert not entries()[name].native
