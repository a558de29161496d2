"""A trained layer as it is read for a start: kernels, gains and means of its inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from trained_layers import maps, train
from ultralytics.nn.modules.conv import Conv

from nas.ops.warm_start import CannotStart, trained


def test_grouped_convolutions_are_read_as_dense_ones():
    old = train(Conv(8, 12, 3, 1, g=4), 8, True)
    layer = trained(old, 8, 12, 3, 1)
    x = maps(8, True)
    dense = nn.functional.conv2d(x, layer.weight, None, 1, 1)
    y = layer.gain.view(-1, 1, 1) * (dense - layer.mean.view(-1, 1, 1)) + layer.bias.view(-1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(old.act(y), old(x), rtol=1e-4, atol=1e-5)


def test_the_means_of_the_input_are_found():
    """Where there are at least as many outputs as inputs; the borders' zeros cost a few hundredths."""
    old = train(Conv(8, 32, 3), 8, True)
    found = trained(old, 8, 32, 3, 1).inputs
    expected = maps(8, True, 64).mean((0, 2, 3))
    assert (found - expected).norm() < 0.15 * expected.norm()


def test_a_refusal_says_what_was_expected():
    with pytest.raises(CannotStart, match="expected a convolution without bias"):
        trained(nn.Identity(), 1, 1, 1, 1)
