"""Ghost modules: Ultralytics' own convolution, and its bottleneck inside of a C2f."""

import pytest
import torch
from torch.nn import functional
from ultralytics.nn.modules.block import C2f
from ultralytics.nn.modules.conv import GhostConv

from nas.ops.ghost import C2f_Ghost
from nas.ops.registry import entries
from nas.ops.warm_start import apply_start


def half(x, conv):
    """Return a Ghost convolution of kernel 1 with its norms left out: they are as they were made."""
    own = functional.conv2d(x, conv.cv1.conv.weight) / (1 + conv.cv1.bn.eps) ** 0.5
    own = conv.cv1.act(own)
    cheap = functional.conv2d(own, conv.cv2.conv.weight, padding=2, groups=own.shape[1]) / (1 + conv.cv2.bn.eps) ** 0.5
    return torch.cat((own, conv.cv2.act(cheap)), 1)


def test_the_hosts_own_is_registered_as_it_is():
    assert entries()["GhostConv"].cls is GhostConv
    assert entries()["GhostConv"].native


def test_the_block_equals_the_formula():
    module = C2f_Ghost(8, 16, 2).double().eval()
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        parts = list(module.cv1(x).chunk(2, 1))
        for bottleneck in module.m:
            first, _, second = bottleneck.conv
            parts.append(parts[-1] + half(half(parts[-1], first), second))
        torch.testing.assert_close(module(x), module.cv2(torch.cat(parts, 1)))


def test_its_trunk_is_that_of_c2f():
    def trunk(module):
        return {key: value.shape for key, value in module.state_dict().items() if not key.startswith("m.")}

    assert trunk(C2f_Ghost(16, 32, 2)) == trunk(C2f(16, 32, 2))


def test_macs_are_the_closed_form(macs):
    c = 12  # inside; each Ghost convolution makes half of its output from its input, the other half 5x5 by itself
    bottleneck = (c * c // 4 + 25 * c // 4) + (c // 2 * c // 2 + 25 * c // 2)
    x = torch.randn(1, 16, 20, 24)
    assert macs(C2f_Ghost(16, 24, 2), x) == 20 * 24 * (16 * 24 + 4 * c * 24 + 2 * bottleneck)
    assert macs(GhostConv(16, 24, 3, 2), x) == 10 * 12 * (9 * 16 * 12 + 25 * 12)


@pytest.mark.parametrize("c2", [12, 20, 7])
def test_refuses_channels_that_it_cannot_halve(c2):
    with pytest.raises(ValueError, match=f"C2f_Ghost: {c2} output channels: expected a multiple of 8"):
        C2f_Ghost(16, c2)


def test_the_first_half_starts_as_the_replaced_layer():
    """Beside `test_start`, which measures all of the output."""
    from ultralytics.nn.modules.conv import Conv

    old, new, x = Conv(16, 24, 3, 2).train(), GhostConv(16, 24, 3, 2), torch.randn(4, 16, 12, 14)
    for _ in range(40):
        old(x)
    assert apply_start(new, old)
    torch.testing.assert_close(new.eval()(x)[:, :12], old.eval()(x)[:, :12], rtol=1e-4, atol=1e-5)
    halves = [y[:, 12:] for y in (new(x), old(x))]
    assert (halves[0].mean((0, 2, 3)) - halves[1].mean((0, 2, 3))).abs().max() < 0.15
