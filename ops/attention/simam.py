"""SimAM: attention without layers.

Paper: Yang et al., "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks", ICML 2021,
https://proceedings.mlr.press/v139/yang21o.html.
Origin: written from the formula.

Deliberate differences:
    - Weighed against its input by a residual scale, 1 unless inserted into a trained network; see
      `nas.ops.attention.gate`. It is the one parameter here.
    - Means and variances are taken in float32 at least: the sum of squares of a large map overflows float16, and the
      gate is then the same everywhere.
    - A map of one pixel has the variance 0; the usual versions divide by zero.
"""

from __future__ import annotations

import torch

from nas.ops.attention.gate import STARTS, Gate, begin_inserted, channel_means, wide
from nas.ops.registry import Arg, register


@register(
    rule="same",
    kinds={"attention"},
    params=(Arg("e_lambda", 1e-4, "added to the variance", low=1e-8, high=1.0),),
    paper="SimAM, ICML 2021, PMLR v139",
    summary="attention: a factor for each element, by how far it is from the mean of its channel; no layers",
    start=begin_inserted,
    starts=STARTS,
)
class SimAM(Gate):
    """Attention without layers; (N, c, H, W) to the same.

    With the mean and the (unbiased) variance of each channel of an image::

        y = x * sigmoid((x - mean)**2 / (4 * (variance + e_lambda)) + 1/2)

    Args:
        c: Channels; it does not matter how many.
        e_lambda: Added to the variance.
    """

    def __init__(self, c: int, e_lambda: float = 1e-4) -> None:  # noqa: ARG002  every attention takes its channels
        super().__init__()
        self.e_lambda = e_lambda

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, c, H, W)."""
        values = wide(x)
        square = (values - channel_means(values)).square()
        pixels = x.shape[2] * x.shape[3]
        # One pixel has no others; `max` would be decided when the module is recorded, and hold for one size.
        variance = channel_means(square) * (pixels / (pixels - 1 + (pixels == 1)))
        return (square / (4 * (variance + self.e_lambda)) + 0.5).sigmoid().to(x.dtype)
