"""GELAN, C3k2, MSBlock and RCS-OSA: against Ultralytics, or layer by layer."""

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.block import C3k2, RepNCSPELAN4

from nas.ops.csp import GELAN, C3k2Block
from nas.ops.msblock import C2f_MSBlock, MSBlock
from nas.ops.rcsosa import RCSOSA, ShuffledRep


def same(module, plain, x):
    plain.load_state_dict(module.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(module.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(("c2", "e", "c3"), [(32, 0.5, 16), (32, 1.0, 32), (24, 0.25, 8), (8, 0.25, 4), (40, 0.75, 32)])
def test_gelan_is_ultralytics(perturb, c2, e, c3):
    module = perturb(GELAN(16, c2, 2, e))
    same(module, RepNCSPELAN4(16, c2, c3, c3 // 2, 2), torch.randn(2, 16, 5, 6))


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("c3k", [True, False])
def test_c3k2_is_ultralytics(perturb, shortcut, c3k):
    module = perturb(C3k2Block(16, 32, 2, shortcut, c3k))
    same(module, C3k2(16, 32, 2, c3k, shortcut=shortcut), torch.randn(2, 16, 5, 6))


@pytest.mark.parametrize(("c1", "e", "width"), [(16, 3.0, 16), (16, 1.5, 8), (12, 1.5, 6), (5, 1.0, 1), (2, 0.5, 1)])
def test_msblock_equals_the_formula(perturb, c1, e, width):
    module = perturb(MSBlock(c1, 10, 2, 5, e)).double().eval()
    x = torch.randn(2, c1, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        z = module.in_conv(x)
        assert z.shape[1] == 3 * width
        out = [z[:, :width]]
        for i in (1, 2):
            u = z[:, i * width : (i + 1) * width] + out[-1]
            for layer in module.mid_convs[i - 1]:
                widen, depthwise, narrow = layer
                assert widen.conv.out_channels == depthwise.conv.groups == 2 * width
                assert depthwise.conv.kernel_size == (5, 5)
                u = narrow(depthwise(widen(u)))
            out.append(u)
        torch.testing.assert_close(module(x), module.out_conv(torch.cat(out, 1)))


@pytest.mark.parametrize(("n", "chain"), [(1, 1), (3, 1), (4, 2)])
def test_rcsosa_equals_the_formula(perturb, n, chain):
    module = perturb(RCSOSA(20, 12, n, True)).double().eval()
    x = torch.randn(2, 20, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        a = module.conv1(x)
        assert a.shape[1] == 16, "half of the input, rounded up to a multiple of 8"
        stages = [a]
        for chains in (module.sr1, module.sr2):
            assert len(chains) == chain
            y = stages[-1]
            for sr in chains:
                first, second = y[:, :8], sr.repconv(y[:, 8:])
                y = torch.empty_like(y)
                y[:, ::2], y[:, 1::2] = first, second
            stages.append(y)
        y = module.conv3(torch.cat(stages, 1))
        squeezed = y.mean((2, 3))
        hidden = (squeezed @ module.se.down.weight[:, :, 0, 0].T + module.se.down.bias).relu()
        gate = (hidden @ module.se.up.weight[:, :, 0, 0].T + module.se.up.bias).sigmoid()
        torch.testing.assert_close(module(x), y * gate[:, :, None, None])


@pytest.mark.parametrize("make", [lambda: RCSOSA(16, 24, 2), lambda: GELAN(16, 24, 2)])
def test_fuse_costs_less(perturb, fused, macs, make):
    module, x = perturb(make()).eval(), torch.randn(1, 16, 10, 12)
    after = fused(module)
    with torch.no_grad():
        torch.testing.assert_close(after(x), module(x), rtol=1e-4, atol=1e-4)
    assert macs(after, x) < macs(module, x)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in after.modules())


def test_macs_are_the_closed_form(macs, fused):
    x = torch.randn(1, 16, 10, 12)

    def csp(ci, co):
        return co * ci + 2 * 19 * (co // 2) ** 2 + co * co

    # c3 = 12, c4 = 6
    gelan = 16 * 12 + csp(6, 6) + csp(6, 6) + 18 * 36 + (12 + 12) * 24
    assert macs(GELAN(16, 24, 2), x) == 120 * gelan
    # 24 channels in three slices of 8; two chains of two layers
    msblock = 16 * 24 + 24 * 24 + 2 * 2 * (2 * 8 * 16 + 9 * 16)
    assert macs(MSBlock(16, 24, 2), x) == 120 * msblock
    inner = 12 * 18 + 18 * 12 + 2 * (2 * 6 * 12 + 9 * 12)
    assert macs(C2f_MSBlock(16, 24, 2), x) == 120 * (16 * 24 + 4 * 12 * 24 + 2 * inner)
    # 8 channels inside, of which 4 go through a convolution at either stage
    rcsosa = 16 * 8 + 3 * 8 * 24 + 2 * 4 * 4
    assert macs(RCSOSA(16, 24, 2), x) == 120 * 10 * rcsosa
    assert macs(fused(RCSOSA(16, 24, 2)), x) == 120 * 9 * rcsosa


def test_a_shuffle_interleaves(perturb):
    module, x = perturb(ShuffledRep(6)).eval(), torch.randn(1, 6, 3, 3)
    with torch.no_grad():
        assert torch.equal(module(x)[:, ::2], x[:, :3])


def test_msblock_refuses_even_kernels():
    with pytest.raises(ValueError, match="k=4: expected an odd kernel"):
        MSBlock(16, 16, 1, 4)
