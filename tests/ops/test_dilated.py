"""Convolutions with holes: MDCR group by group, the plain one tap by tap."""

import pytest
import torch
from torch.nn import functional

from nas.ops.dilated import MDCR, DilatedConv


def conv(x, layer):
    """Apply an Ultralytics Conv of stride 1, tap by tap and group by group."""
    weight, groups = layer.conv.weight, layer.conv.groups
    k, d = weight.shape[3], layer.conv.dilation[0]
    margin = d * (k // 2)
    padded = functional.pad(x, (margin,) * 4)
    n, _, h, w = x.shape
    y = torch.zeros(n, weight.shape[0], h, w, dtype=x.dtype)
    c1, c2 = x.shape[1] // groups, weight.shape[0] // groups
    for o in range(weight.shape[0]):
        for i in range(c1):
            for r in range(k):
                for s in range(k):
                    tap = padded[:, (o // c2) * c1 + i, r * d : r * d + h, s * d : s * d + w]
                    y[:, o] += weight[o, i, r, s] * tap
    return functional.silu(layer.bn(y))


@pytest.mark.parametrize(("k", "d"), [(3, 1), (3, 3), (5, 2)])
def test_dilated_conv(perturb, k, d):
    module = perturb(DilatedConv(4, 6, k, 1, d)).double().eval()
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), conv(x, module))


@pytest.mark.parametrize(("c1", "c2"), [(8, 16), (24, 16)])
def test_mdcr_equals_the_formula(perturb, c1, c2):
    module = perturb(MDCR(c1, c2)).double().eval()
    x = torch.randn(2, c1, 20, 21, dtype=torch.float64)
    with torch.no_grad():
        assert [b.conv.dilation[0] for b in module.blocks] == [1, 6, 12, 18]
        z = [conv(x[:, i * c1 // 4 : (i + 1) * c1 // 4], block) for i, block in enumerate(module.blocks)]
        groups = [torch.stack([z[i][:, j] for i in range(4)], 1) for j in range(c2 // 4)]
        expected = conv(torch.cat([conv(g, module.out_s) for g in groups], 1), module.out)
        torch.testing.assert_close(module(x), expected)


def test_mdcr_shares_the_statistics_of_all_groups():
    module, x = MDCR(8, 8).train(), torch.randn(2, 8, 5, 6)
    module.out_s.bn.momentum = 1.0
    seen = []
    module.out_s.conv.register_forward_hook(lambda m, i, o: seen.append(o))
    module(x)
    torch.testing.assert_close(module.out_s.bn.running_mean, seen[0].mean((0, 2, 3)))
    assert int(module.out_s.bn.num_batches_tracked) == 1


def test_macs_are_the_closed_form(macs):
    x = torch.randn(1, 16, 10, 12)
    assert macs(MDCR(16, 24), x) == 120 * (9 * 16 * 24 // (4 * 2) + 4 * 24 + 24 * 24)
    assert macs(DilatedConv(16, 24, 3, 2), x) == 30 * 9 * 16 * 24


@pytest.mark.parametrize("make", [lambda: MDCR(16, 24), lambda: DilatedConv(16, 24)])
def test_fuse_folds_every_norm(perturb, fused, make):
    module, x = perturb(make()).eval(), torch.randn(2, 16, 6, 7)
    after = fused(module)
    with torch.no_grad():
        torch.testing.assert_close(after(x), module(x), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in after.modules())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MDCR(18, 16), "MDCR: 18 to 16 channels: expected multiples of 4"),
        (lambda: MDCR(16, 6), "expected multiples of 4"),
        (lambda: MDCR(16, 16, 3, 2), "stride 1"),
        (lambda: DilatedConv(4, 4, 3, 1, 0), "dilation=0: expected 1 or more"),
        (lambda: DilatedConv(4, 4, 4), "odd kernel"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
