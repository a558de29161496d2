"""PConv and FasterNet's block."""

import pytest
import torch
from torch.nn import functional

from nas.ops.pconv import C2f_Faster, FasterBlock, PartialConv, PConv


def seen(x, weight, c):
    """Return the first channels convolved, sum by sum, and the others as they are."""
    k = weight.shape[3]
    padded = functional.pad(x, (k // 2,) * 4)
    y = x.clone()
    y[:, :c] = sum(
        torch.einsum("oi,nihw->nohw", weight[:, :, r, s], padded[:, :c, r : r + x.shape[2], s : s + x.shape[3]])
        for r in range(k)
        for s in range(k)
    )
    return y


@pytest.mark.parametrize(("c", "k", "n_div", "part"), [(8, 3, 4, 2), (9, 5, 2, 4), (3, 3, 4, 1)])
def test_pconv_equals_the_formula(perturb, c, k, n_div, part):
    module = perturb(PConv(c, 6, k, 1, n_div)).double().eval()
    x = torch.randn(2, c, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        mixed = seen(x, module.pconv.partial_conv3.weight, part)
        y = torch.einsum("oi,nihw->nohw", module.conv.conv.weight[:, :, 0, 0], mixed)
        torch.testing.assert_close(module(x), functional.silu(module.conv.bn(y)))


def test_faster_block_equals_the_formula(perturb):
    module = perturb(FasterBlock(8, 4, 1.5)).double().eval()
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        first, second = module.mlp[0], module.mlp[1]
        mixed = seen(x, module.spatial_mixing.partial_conv3.weight, 2)
        hidden = torch.einsum("oi,nihw->nohw", first.conv.weight[:, :, 0, 0], mixed)
        assert hidden.shape[1] == 12
        hidden = functional.silu(first.bn(hidden))
        y = x + torch.einsum("oi,nihw->nohw", second.weight[:, :, 0, 0], hidden)
        torch.testing.assert_close(module(x), y)


def test_block_holds_as_many_as_it_is_told():
    module = C2f_Faster(16, 32, 3, 2, 1.0)
    assert [type(m) for m in module.m] == [FasterBlock] * 3
    assert module.m[0].spatial_mixing.seen == 8
    assert module.m[0].mlp[1].in_channels == 16


def test_macs_are_the_closed_form(macs):
    x = torch.randn(1, 16, 10, 12)
    assert macs(PConv(16, 24, 3, 1, 4), x) == 120 * (9 * 4 * 4 + 16 * 24)
    inner = 9 * 3 * 3 + 2 * 2 * 12 * 12
    assert macs(C2f_Faster(16, 24, 2), x) == 120 * (16 * 24 + 4 * 12 * 24 + 2 * inner)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PConv(8, 8, 3, 2), "PConv: k=3, s=2: expected an odd kernel and stride 1"),
        (lambda: PConv(8, 8, 4), "odd kernel"),
        (lambda: PartialConv(8, 3, 0), "n_div=0: expected 1 or more"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
