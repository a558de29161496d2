"""Pooling blocks: those of Ultralytics as registered, and SPPF with LSKA against its formula."""

from __future__ import annotations

import pytest
import torch
from contract_cases import counted
from torch import nn
from torch.nn import functional
from ultralytics.nn.modules.block import SPP, SPPELAN, SPPF
from ultralytics.nn.modules.conv import Conv

from nas.ops.pooling import SPPF_LSKA
from nas.ops.registry import entries
from nas.ops.warm_start import apply_start


def trained(c1: int = 16, c2: int = 12, k: int = 5) -> SPPF:
    old = SPPF(c1, c2, k)
    old.cv1.act = Conv.default_act  # as parse_model does
    return old.eval()


def test_the_hosts_own_are_registered_as_they_are():
    for cls in (SPP, SPPF, SPPELAN):
        assert entries()[cls.__name__].cls is cls
        assert entries()[cls.__name__].native
    assert not entries()["SPPF_LSKA"].native


def test_sppf_lska_equals_the_formula(perturb):
    module = perturb(SPPF_LSKA(8, 6, 3, 7)).double().eval()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    maps = [module.cv1(x)]
    for window in (3, 5, 7):  # chained maxima of 3 reach as far as these
        maps.append(functional.max_pool2d(maps[0], window, 1, window // 2))
    y = torch.cat(maps, 1)
    z = y
    for conv in (module.lska.conv0h, module.lska.conv0v, module.lska.conv_spatial_h, module.lska.conv_spatial_v):
        z = conv(z)
    torch.testing.assert_close(module(x), module.cv2(y * module.lska.conv1(z)))


@pytest.mark.parametrize(
    "new", [SPP(16, 12), SPPF(16, 12), SPPELAN(16, 12, 8), SPPF_LSKA(16, 12)], ids=lambda m: type(m).__name__
)
def test_starts_as_the_replaced_block(perturb, new):
    old, x = perturb(trained()).eval(), torch.randn(2, 16, 9, 7)
    if isinstance(new, SPPF):
        new.cv1.act = Conv.default_act
    assert apply_start(new, old)
    torch.testing.assert_close(new.eval()(x), old(x))


def test_what_it_does_not_understand_changes_nothing():
    for new, old in (
        (SPPELAN(16, 12, 6), trained()),
        (SPP(16, 12), trained(16, 14)),
        (SPP(16, 12), nn.Identity()),
        (SPPF_LSKA(16, 12), SPPF(16, 12, 5, 2)),
        (SPP(12, 12), SPPF(12, 12, 5, 3, True)),
    ):
        before = {key: value.clone() for key, value in new.state_dict().items()}
        assert apply_start(new, old) is False
        assert all(torch.equal(new.state_dict()[key], value) for key, value in before.items())


def test_macs_are_the_closed_form():
    n, x = 20 * 24, torch.randn(1, 16, 20, 24)
    both = 16 * 8 + 4 * 8 * 12
    assert sum(counted(SPP(16, 12).eval(), x)) == n * both
    assert sum(counted(SPPF(16, 12).eval(), x)) == n * both
    assert sum(counted(SPPELAN(16, 12, 10).eval(), x)) == n * (16 * 10 + 40 * 12)
    assert sum(counted(SPPF_LSKA(16, 12).eval(), x)) == n * (both + 32 * 32 + 2 * 32 * (3 + 5))
