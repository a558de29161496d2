"""ACmix: self-attention and convolution that share their projections.

Paper: Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022, https://arxiv.org/abs/2111.14556.
Origin: written from the formulas; state keys are those of LeapLabTHU/ACmix, which carries no licence (none of it is
here).

Deliberate differences:
    - Weighed against its input by a residual scale, 1 unless inserted into a trained network; see
      `nas.ops.attention.gate`.
    - Channels stay as they are and the stride is 1: it is inserted here, not swapped in for a convolution. The authors'
      ``out_planes`` and ``stride`` are no arguments; nor are ``kernel_conv`` and ``dilation``, for which theirs works
      with 3 and 1 alone.
    - The window is walked row by row: the usual form lays all of it out, 49 times the map.
    - Maps smaller than the window reaches are reflected as far as they go, then repeated; the usual form fails below
      4 pixels a side. Larger maps are reflected as usual.
    - The bias of the position's layer cancels and is not here.
"""

from __future__ import annotations

import torch
from torch import nn

from nas.ops.attention.gate import STARTS, Attention, begin_inserted
from nas.ops.registry import Arg, counts_macs, register

_TAPS = 9
"""Of the convolution's 3x3 kernel."""


def _macs(module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Count both products over the window, and the layer of the positions."""
    assert isinstance(module, ACmix)
    pixels = output.numel() // output.shape[1]
    return 2 * module.kernel**2 * output.numel() + 2 * pixels * output.shape[1] // module.head


@register(
    rule="same",
    kinds={"attention"},
    params=(
        Arg("kernel", 7, "window that a pixel attends to", low=3, high=15, odd=True),
        Arg("head", 4, "heads; they divide the channels", low=1, high=16),
    ),
    paper="ACmix, CVPR 2022, arXiv:2111.14556",
    summary="attention: self-attention in a window plus a convolution, from the same projections",
    requires="channels that the heads divide",
    start=begin_inserted,
    starts=STARTS,
)
@counts_macs(_macs)
class ACmix(Attention):
    """Self-attention mixed with a convolution; (N, c, H, W) to the same.

    With q, k, v three 1x1 convolutions, d channels a head, and e a linear map of the pixel's position::

        logit[t] = q . (k[t] + e - e[t]) / sqrt(d)          for each pixel t of the window, for each head
        attention = sum over t of softmax(logit)[t] * v[t]
        convolution: each of q, k, v of all heads is mixed into 9 maps a channel of a head, then convolved 3x3
        mixed = rate1 * attention + rate2 * convolution

    Args:
        c: Channels.
        kernel: Size of the window, odd.
        head: Heads.

    Raises:
        ValueError: The heads do not divide the channels.
    """

    def __init__(self, c: int, kernel: int = 7, head: int = 4) -> None:
        super().__init__()
        if c % head:
            raise ValueError(f"ACmix: {c} channels, head={head}: expected heads that divide the channels")
        d = c // head
        self.kernel = kernel
        self.head = head
        self.conv1 = nn.Conv2d(c, c, 1)
        self.conv2 = nn.Conv2d(c, c, 1)
        self.conv3 = nn.Conv2d(c, c, 1)
        self.conv_p = nn.Conv2d(2, d, 1, bias=False)
        self.fc = nn.Conv2d(3 * head, _TAPS, 1, bias=False)
        self.dep_conv = nn.Conv2d(_TAPS * d, c, 3, padding=1, groups=d, bias=False)
        self.rate1 = nn.Parameter(torch.full((1,), 0.5))
        self.rate2 = nn.Parameter(torch.full((1,), 0.5))
        # Map t of a channel starts as tap t of the kernel: a plain convolution whose taps are mixed by `fc`.
        taps = torch.eye(_TAPS, device=self.dep_conv.weight.device).view(1, _TAPS, 3, 3)
        with torch.no_grad():
            self.dep_conv.weight.copy_(taps.expand(c, -1, -1, -1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend to `x`, (N, c, H, W)."""
        q, k, v = self.conv1(x), self.conv2(x), self.conv3(x)
        mixed = self.rate1.to(q.dtype) * self._attention(q, k, v) + self.rate2.to(q.dtype) * self._convolution(q, k, v)
        return x + self.residual_scale.to(x.dtype) * (mixed - x)

    def _attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the attention over the window, (N, c, H, W)."""
        n, c, h, w = q.shape
        d = c // self.head
        rows, columns = (_reflected(size, self.kernel // 2, q.device) for size in (h, w))
        x = torch.linspace(-1, 1, w, dtype=q.dtype, device=q.device).view(1, w).expand(h, w)
        y = torch.linspace(-1, 1, h, dtype=q.dtype, device=q.device).view(h, 1).expand(h, w)
        weight = self.conv_p.weight.view(d, 2).to(q.dtype)
        place = (weight[:, :1, None] * x + weight[:, 1:, None] * y).unsqueeze(0)

        # Side by side, the columns of the window, each as wide as the map; its rows are walked.
        columns = torch.cat([columns[j : j + w] for j in range(self.kernel)])

        def window(t: torch.Tensor) -> list[torch.Tensor]:
            wide = t.index_select(-2, rows).index_select(-1, columns)
            return [wide[..., i : i + h, :].reshape(n, self.head, d, h, self.kernel, w) for i in range(self.kernel)]

        # Logits are float32 at least: products of maps in the hundreds pass the largest number of float16.
        wide = torch.promote_types(q.dtype, torch.float32)
        query = (q.reshape(n, self.head, d, h, w).to(wide) * d**-0.5).unsqueeze(4)
        # Every tap has the same part from the pixel's own position, which the softmax does not see.
        keys = window(k.reshape(n, self.head, d, h, w) - place)
        logits = torch.cat([(query * key.to(wide)).sum(2) for key in keys], 3)
        weights = torch.split(logits.softmax(3).to(v.dtype).unsqueeze(2), self.kernel, 4)
        values = window(v.reshape(n, self.head, d, h, w))
        attention: torch.Tensor = (weights[0] * values[0]).sum(4)
        for share, value in zip(weights[1:], values[1:], strict=True):
            attention = attention + (share * value).sum(4)
        return attention.reshape(n, c, h, w)

    def _convolution(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the convolution's part, (N, c, H, W)."""
        n, c, h, w = q.shape
        d = c // self.head
        maps = torch.cat([t.reshape(n, self.head, d, h * w) for t in (q, k, v)], 1)
        maps = self.fc(maps).transpose(1, 2).reshape(n, d * _TAPS, h, w)
        mixed: torch.Tensor = self.dep_conv(maps)
        return mixed


def _reflected(size: int, reach: int, device: torch.device) -> torch.Tensor:
    """Return the pixels that stand from ``-reach`` to ``size + reach``, reflected at the borders; (size + 2 reach,)."""

    def absolute(numbers: torch.Tensor) -> torch.Tensor:
        return torch.maximum(numbers, -numbers)  # OpenVINO's `abs` of whole numbers makes -3 a 0

    place = absolute(torch.arange(-reach, size + reach, device=device))
    return (size - 1 - absolute(size - 1 - place)).clamp(0, size - 1)
