"""DualConv and HetConv as dense kernels, filter by filter."""

import pytest
import torch
from torch.nn import functional

from nas.ops.dualconv import DualConv, HetConv


def dense(m, hetero):
    """Return the one k x k kernel that the two convolutions are."""
    c2, c1 = m.pwc.weight.shape[:2]
    k, groups = m.gc.kernel_size[0], m.gc.groups
    w = torch.zeros(c2, c1, k, k, dtype=m.pwc.weight.dtype)
    for o in range(c2):
        for i in range(c1):
            same = i // (c1 // groups) == o // (c2 // groups)
            if same:
                w[o, i] += m.gc.weight[o, i % (c1 // groups)]
            if not (same and hetero):
                w[o, i, k // 2, k // 2] += m.pwc.weight[o, i, 0, 0]
    return w


@pytest.mark.parametrize("cls", [DualConv, HetConv])
@pytest.mark.parametrize(("k", "s", "g"), [(3, 1, 4), (3, 2, 2), (5, 2, 8)])
def test_equals_a_dense_kernel(perturb, cls, k, s, g):
    module = perturb(cls(8, 16, k, s, g)).double().eval()
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        y = functional.conv2d(x, dense(module, cls is HetConv), None, s, k // 2)
        torch.testing.assert_close(module(x), functional.silu(module.bn(y)))


@pytest.mark.parametrize("cls", [DualConv, HetConv])
def test_fuse_folds_the_norm(perturb, fused, macs, cls):
    module, x = perturb(cls(8, 12, 3, 2)).eval(), torch.randn(2, 8, 5, 6)
    after = fused(module)
    with torch.no_grad():
        torch.testing.assert_close(after(x), module(x), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in after.modules())
    assert macs(after, x) == macs(module, x)
    after.fuse_convs()
    with torch.no_grad():
        torch.testing.assert_close(after(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", [DualConv, HetConv])
def test_macs_are_the_closed_form(macs, cls):
    assert macs(cls(16, 24, 3, 2, 4), torch.randn(1, 16, 10, 12)) == 5 * 6 * 16 * 24 * (9 / 4 + 1)


@pytest.mark.parametrize(("c1", "c2", "g"), [(16, 24, 4), (80, 40, 8), (12, 30, 3), (3, 16, 1), (640, 320, 4)])
def test_groups_divide_every_width(c1, c2, g):
    module = DualConv(c1, c2, g=max(g, 4))
    assert module.gc.groups == g


def test_hetconv_learns_nothing_where_it_sees_nothing():
    module = HetConv(8, 8, 3, 1, 4)
    module(torch.randn(2, 8, 4, 4)).square().sum().backward()
    own = torch.block_diag(*[torch.ones(2, 2)] * 4).bool()
    assert not module.pwc.weight.grad[own].any()
    assert module.pwc.weight.grad[~own].all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DualConv(8, 8, 2), "odd kernel"),
        (lambda: DualConv(8, 8, 3, 0), "stride of 1 or more"),
        (lambda: HetConv(8, 8, p=0), "HetConv: p=0: expected 1 or more"),
        (lambda: HetConv(3, 16), "3 to 16 channels, p=4: expected a common divisor"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
