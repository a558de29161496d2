"""Layers with fewer output channels: what they start as, and that their readers take the decoder over exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from trained_layers import maps, train
from ultralytics.nn.modules.block import C3, SPPF, C2f
from ultralytics.nn.modules.conv import Conv

from nas.ops.stages import INPUT_CONVS, Decoded, Decoder, folded, own_state, reading_weights, start_narrow
from nas.ops.warm_start import CannotStart
from nas.space.choice import NARROWED, TAKE_BY_CONV

WIDE, NARROW = 32, 16
LAYERS = {
    "Conv": lambda c: Conv(24, c, 3, 2),
    "C2f": lambda c: C2f(24, c, 2, True),
    "SPPF": lambda c: SPPF(24, c),
}
READERS = {
    "Conv": lambda c: Conv(c, 20, 3, 2),
    "C2f": lambda c: C2f(c, 32, 1),
    "C3": lambda c: C3(c, 32, 1),
}


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).square().mean() / expected.var())


def of_host(reader: nn.Module) -> nn.Module:
    """Return a reader in evaluation mode, whose norms have the host's constant, as `train` sets it."""
    for m in reader.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eps = 1e-3
    return reader.eval()


def trained(name: str) -> nn.Module:
    torch.manual_seed(1)
    return train(LAYERS[name](WIDE), 24, True)


def test_every_layer_that_can_be_narrower_is_tested():
    assert tuple(LAYERS) == NARROWED
    assert set(READERS) <= set(TAKE_BY_CONV) == set(INPUT_CONVS)


@pytest.mark.parametrize("name", LAYERS)
def test_it_starts_nearer_than_by_itself(name):
    old, x, other = trained(name), maps(24, True, 6, 20, 20), maps(24, True, 4, 15, 22)
    new = Decoded(LAYERS[name](NARROW), NARROW, WIDE).eval()
    readers = torch.randn(64, WIDE)
    with torch.no_grad():
        fresh = error(new(other), old(other))
        assert start_narrow(new, old, x, readers)
        assert error(new(other), old(other)) < min(0.75, fresh), "the mean of the output alone is 1"
    blind = Decoded(LAYERS[name](NARROW), NARROW, WIDE).eval()
    assert start_narrow(blind, old, None, readers), "on maps that are made up"


@pytest.mark.parametrize("name", ["Conv", "SPPF"])
def test_what_no_reader_takes_is_what_goes(name):
    """Of a convolution's channels those that are read are kept as they are; so is what it computes of them."""
    old, x, other = trained(name), maps(24, True, 6, 20, 20), maps(24, True)
    readers = torch.randn(64, WIDE)
    readers[:, 1::2] = 0
    new = of_host(Decoded(LAYERS[name](NARROW), NARROW, WIDE))
    assert start_narrow(new, old, x, readers)
    with torch.no_grad():
        assert torch.allclose(new.layer(other), old(other)[:, ::2], atol=1e-5)
        assert torch.allclose(new(other)[:, ::2], old(other)[:, ::2], atol=1e-4)


def test_a_block_is_narrower_inside_too_and_keeps_what_is_read():
    old = trained("C2f")
    with torch.no_grad():  # half of the channels inside are dead
        weight = old.cv2.conv.weight.view(WIDE, 4, 16)
        weight[:, :, 1::2] = 0
        for m in old.m:
            m.cv1.conv.weight[:, 1::2] = 0
            m.cv2.conv.weight[:, 1::2] = 0
            m.cv2.conv.weight[1::2] = 0
    readers = torch.randn(64, WIDE)
    readers[:, ::2] = 0
    new = Decoded(LAYERS["C2f"](NARROW), NARROW, WIDE).eval()
    assert start_narrow(new, old, maps(24, True, 8, 20, 20), readers)
    other = maps(24, True)
    with torch.no_grad():
        assert error(new(other)[:, 1::2], old(other)[:, 1::2]) < 1e-3


def test_files_have_the_names_of_the_layer_itself():
    conv = LAYERS["Conv"](NARROW)
    assert own_state(Decoded(conv, NARROW, WIDE)).keys() == conv.state_dict().keys() | {"wide.weight", "wide.bias"}
    other = nn.ModuleDict({"layer": nn.Conv2d(1, 1, 1)})
    assert own_state(other).keys() == {"layer.weight", "layer.bias"}, "a module may have a part of that name"


def test_other_layers_stay_as_they_are():
    new = Decoded(LAYERS["Conv"](NARROW), NARROW, WIDE)
    before = {k: v.clone() for k, v in new.state_dict().items()}
    assert not start_narrow(new, trained("C2f"), None, torch.randn(8, WIDE))
    assert all(torch.equal(before[k], v) for k, v in new.state_dict().items())


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_the_decoder_over(name):
    torch.manual_seed(0)
    wide = train(READERS[name](WIDE), WIDE, True)
    decoder = nn.Conv2d(NARROW, WIDE, 1)
    nn.init.zeros_(decoder.bias) if name == "Conv" else nn.init.normal_(decoder.bias)
    narrow = of_host(READERS[name](NARROW))
    state = wide.state_dict()
    made = folded(narrow.state_dict(), state, Decoder(decoder.weight.flatten(1), decoder.bias))
    narrow.load_state_dict(
        {k: made.get(k, state[k]) for k in narrow.state_dict()},
    )
    x = torch.randn(2, NARROW, 12, 10)
    with torch.no_grad():
        assert torch.allclose(narrow(x), wide(decoder(x)), atol=1e-4)


def test_a_bias_is_exact_but_in_the_padding():
    wide = train(Conv(WIDE, 20, 3), WIDE, True)
    decoder = nn.Conv2d(NARROW, WIDE, 1)
    nn.init.normal_(decoder.bias)
    narrow = of_host(Conv(NARROW, 20, 3))
    made = folded(narrow.state_dict(), wide.state_dict(), Decoder(decoder.weight.flatten(1), decoder.bias))
    narrow.load_state_dict({**wide.state_dict(), **made})
    x = torch.randn(2, NARROW, 12, 10)
    with torch.no_grad():
        found, expected = narrow(x), wide(decoder(x))
    assert torch.allclose(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-4)
    assert not torch.allclose(found, expected, atol=1e-2)


def test_maps_that_are_concatenated_are_joined_in_their_order():
    torch.manual_seed(0)
    one = Decoder(torch.randn(WIDE, NARROW), torch.randn(WIDE))
    joined = Decoder.joined([Decoder.same(8), one])
    a, b = torch.randn(8, 5), torch.randn(NARROW, 5)
    expected = torch.cat([a, one.weight @ b + one.bias[:, None]])
    assert torch.allclose(joined.weight @ torch.cat([a, b]) + joined.bias[:, None], expected, atol=1e-5)


def test_the_weights_with_which_a_reader_takes_channels():
    reader = train(C2f(WIDE, 32, 1), WIDE, True)
    found = reading_weights(reader, 8, 16)
    assert found.shape == (32, 16)
    x, bn = maps(WIDE, True), reader.cv1.bn
    x[:, :8] = x[:, 24:] = 0
    with torch.no_grad():
        sums = (
            bn(reader.cv1.conv(x))
            - (bn.bias - bn.running_mean * bn.weight / (bn.running_var + bn.eps).sqrt())[:, None, None]
        )
    assert torch.allclose(torch.einsum("sc,nchw->nshw", found, x[:, 8:24]), sums, atol=1e-4)
    assert reading_weights(Conv(WIDE, 20, 3), 0, WIDE).shape == (9 * 20, WIDE)
    with pytest.raises(CannotStart, match="SPPF: expected one of Conv, C3, C2f"):
        reading_weights(SPPF(WIDE, 32), 0, WIDE)
