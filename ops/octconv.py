"""OctConv: a convolution on features of which a part is kept at half the resolution.

Paper: Chen et al., "Drop an Octave: Reducing Spatial Redundancy in Convolutional Neural Networks with Octave
Convolution", ICCV 2019, https://arxiv.org/abs/1904.05049.
Origin: written from the formulas; names of layers are those of d-li14/octconv.pytorch (Apache-2.0). The authors' code
is facebookresearch/OctConv (MIT).

Deliberate differences:
    - A pair of features cannot pass between the layers of a model YAML. `C2f_OctConv` keeps it inside of a bottleneck,
      whose first convolution makes the low part and whose second one takes it in again. `OctConv` is the paper's first
      layer (a pair of one map), its low part brought back up: every pixel of a cell gets the cell's value. It saves the
      low part's arithmetic, not its memory.
    - Odd sizes: the low part is half rounded up (means of what a window holds, as in the authors' code), and what comes
      back up is cut to the high part's size.
    - SiLU, as Ultralytics has it.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
from torch import nn
from torch.nn import functional
from ultralytics.nn.modules.block import C2f
from ultralytics.nn.modules.conv import Conv

from nas.ops.activation import activation
from nas.ops.registry import Arg, FromSlot, register
from nas.ops.slots import check_kernel, odd_kernel_by_two
from nas.ops.warm_start import Trained, bottlenecks_of, copy_conv, fitted, set_norm, trained, trained_like

_ALPHA = Arg("alpha", 0.5, "share of the channels at half the resolution", low=0.125, high=0.875)


def _pool(x: torch.Tensor) -> torch.Tensor:
    """Halve (N, C, H, W), rounding up."""
    return functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def _up(x: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Return (N, C, ceil(h / 2), ceil(w / 2)) with every pixel twice in both directions, cut to h x w."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")[..., :h, :w]


def _low(c: int, alpha: float) -> int:
    """Return how many of c channels are low.

    Raises:
        ValueError: None is, or all are.
    """
    low = int(c * alpha)
    if not 0 < low < c:
        raise ValueError(f"OctConv: alpha={alpha} of {c} channels: expected 1 to {c - 1} channels in the low part")
    return low


def _on_means(layer: Trained, rows: slice, size: int, step: int) -> tuple[torch.Tensor, Trained, torch.Tensor]:
    """Find the kernel on means of cells that predicts a trained layer's sums best.

    Args:
        layer: What is predicted.
        rows: Its output channels that are.
        size: Pixels a side of a cell.
        step: Pixels between the outputs that share one value; 0 if each has its own.

    Returns:
        The kernel (rows, c1, k, k) on cells; the trained layer of these channels in the window of that kernel; and the
        kernel itself on the window's pixels, (rows, c1, k * size, k * size).
    """
    weight = layer.weight[rows]
    k = weight.shape[3]
    first, window = size * (k // 2) - k // 2, size * k
    places = list(product((0, step), repeat=2)) if step else [(0, 0)]
    target = weight.new_zeros(*weight.shape[:2], window, window)
    for row, column in places:  # the same value serves all of them: their mean is what it can be
        target[..., first + row : first + row + k, first + column : first + column + k] += weight / len(places)
    seen = torch.zeros(k * k, window, window)
    for cell in range(k * k):
        row, column = size * (cell // k), size * (cell % k)
        seen[cell, row : row + size, column : column + size] = 1 / size**2
    found = fitted(target, seen)
    near = (found @ seen.to(found).flatten(1)).view_as(target)
    placed = functional.pad(weight, (first, window - k - first) * 2)
    part = replace(
        layer, weight=placed, mean=layer.mean[rows], var=layer.var[rows], gain=layer.gain[rows], bias=layer.bias[rows]
    )
    return found.view_as(weight), part, near


def _begin_part(conv: nn.Conv2d, bn: nn.BatchNorm2d, layer: Trained, rows: slice, size: int, step: int) -> None:
    """Start a convolution on means of cells, and the norm behind it, as `rows` of a trained layer."""
    weight, part, near = _on_means(layer, rows, size, step)
    conv.weight.copy_(weight)
    set_norm(bn, *part.moments(near), part.gain, part.bias)


def _start(new: nn.Module, old: nn.Module) -> None:
    """Keep the kernels of the high part, and let the low part's predict what all pixels of a cell have in common."""
    assert isinstance(new, OctConv)
    high, low, s = new.conv_h2h, new.conv_h2l, new.s
    split = high.conv.out_channels
    layer = trained(old, high.conv.in_channels, split + low.conv.out_channels, high.conv.kernel_size[0], s)
    _begin_part(high.conv, high.bn, layer, slice(split), s, 0)
    _begin_part(low.conv, low.bn, layer, slice(split, None), 2 * s, s)


@register(
    rule="conv",
    kinds={"conv", "down"},
    params=(FromSlot("k", "kernel"), FromSlot("s", "stride"), _ALPHA),
    paper="OctConv, ICCV 2019, arXiv:1904.05049",
    summary="convolution that computes a part of its output channels at half the resolution",
    requires="an odd kernel of 3 or more with stride 1 or 2, channels of which the share alpha is one at least",
    fits=odd_kernel_by_two,
    start=_start,
    starts="the replaced kernel for the high part (with stride 2 the nearest on means of 2x2 pixels), and the nearest "
    "on such means for the low part: off by a tenth to a fifth of the output's variance on a trained YOLOv8n",
)
class OctConv(nn.Module):
    """Octave convolution from one map to one; (N, c1, H, W) to (N, c2, ceil(H / s), ceil(W / s)).

    With x pooled 2x2 first if the stride is 2: ``y = cat(conv_h2h(x), up(conv_h2l(pool(x))))``, each convolution with
    batch norm and activation.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size, odd.
        s: Stride, 1 or 2.
        alpha: Share of the output channels that are computed at half the resolution.
        act: Activation, as Ultralytics' ``Conv`` takes it.

    Raises:
        ValueError: An even kernel, another stride, or no channel left in a part.
    """

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, alpha: float = 0.5, act: bool | nn.Module = True
    ) -> None:
        super().__init__()
        check_kernel("OctConv", k, s)
        if s > 2:
            raise ValueError(f"OctConv: s={s}: expected stride 1 or 2")
        low = _low(c2, alpha)
        self.s = s
        self.conv_h2h = Conv(c1, c2 - low, k, act=act)
        self.conv_h2l = Conv(c1, low, k, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve `x`, (N, c1, H, W)."""
        x = x if self.s == 1 else _pool(x)
        return torch.cat((self.conv_h2h(x), _up(self.conv_h2l(_pool(x)), x.shape[2], x.shape[3])), 1)


class OctaveConv(nn.Module):
    """Octave convolution with batch norms and activation, stride 1.

    ``high' = h2h(high) + up(l2h(low))``, ``low' = l2l(low) + h2l(pool(high))``; each then normalised and activated.
    Without a low part in or out, what deals with it is not there.

    Args:
        c1: Input channels, of both parts together.
        c2: Output channels, of both parts together.
        k: Kernel size, odd.
        low_in: Input channels that are at half the resolution, fewer than c1.
        low_out: Output channels that are at half the resolution, fewer than c2.
    """

    def __init__(self, c1: int, c2: int, k: int, low_in: int, low_out: int) -> None:
        super().__init__()

        def conv(a: int, b: int) -> nn.Conv2d | None:
            return nn.Conv2d(a, b, k, 1, k // 2, bias=False) if a and b else None

        high_in, high_out = c1 - low_in, c2 - low_out
        self.conv_h2h = nn.Conv2d(high_in, high_out, k, 1, k // 2, bias=False)
        self.conv_h2l = conv(high_in, low_out)
        self.conv_l2h = conv(low_in, high_out)
        self.conv_l2l = conv(low_in, low_out)
        self.bn_h = nn.BatchNorm2d(high_out)
        self.bn_l = nn.BatchNorm2d(low_out) if low_out else None
        self.act = activation(True)

    def forward(self, high: torch.Tensor, low: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Convolve a pair.

        Args:
            high: (N, c1 - low_in, H, W).
            low: (N, low_in, ceil(H / 2), ceil(W / 2)), or None without a low part.

        Returns:
            The pair after it, alike.
        """
        h, w = high.shape[2:]
        above = self.conv_h2h(high)
        if low is not None and self.conv_l2h is not None:
            above = above + _up(self.conv_l2h(low), h, w)
        above = self.act(self.bn_h(above))
        if self.conv_h2l is None or self.bn_l is None:
            return above, None
        below = self.conv_h2l(_pool(high))
        if low is not None and self.conv_l2l is not None:
            below = below + self.conv_l2l(low)
        return above, self.act(self.bn_l(below))


class OctaveBottleneck(nn.Module):
    """Bottleneck of two octave convolutions 3x3; (N, c, H, W) to (N, c, H, W).

    Args:
        c: Channels.
        shortcut: Whether it adds its input.
        alpha: Share of the channels between them that is at half the resolution.

    Raises:
        ValueError: No channel is left in a part.
    """

    def __init__(self, c: int, shortcut: bool, alpha: float) -> None:
        super().__init__()
        low = _low(c, alpha)
        self.cv1 = OctaveConv(c, c, 3, 0, low)
        self.cv2 = OctaveConv(c, c, 3, low, 0)
        self.add = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform `x`."""
        y: torch.Tensor = self.cv2(*self.cv1(x))[0]
        return x + y if self.add else y


def _start_block(new: nn.Module, old: nn.Module) -> None:
    """Keep all kernels between high parts; a kernel to the low part works on means, one from it on cells."""
    assert isinstance(new, C2f_OctConv)
    c = new.c
    copies = [(new.cv1, old, "cv1"), (new.cv2, old, "cv2")]
    trunk = [(conv, trained_like(getattr(layer, name, nn.Identity()), conv)) for conv, layer, name in copies]
    inner = [m for m in new.m if isinstance(m, OctaveBottleneck)]
    pairs = []
    for ours, theirs in zip(inner, bottlenecks_of(old, [m.add for m in inner]), strict=True):
        first, second = (trained(getattr(theirs, name, nn.Identity()), c, c, 3, 1) for name in ("cv1", "cv2"))
        pairs.append((ours, first, second))
    for conv, layer in trunk:
        copy_conv(conv, layer)
    for ours, first, second in pairs:
        one, two = ours.cv1, ours.cv2
        split = one.bn_h.num_features
        _begin_part(one.conv_h2h, one.bn_h, first, slice(split), 1, 0)
        assert one.conv_h2l is not None
        assert one.bn_l is not None
        assert two.conv_l2h is not None
        _begin_part(one.conv_h2l, one.bn_l, first, slice(split, None), 2, 1)
        two.conv_h2h.weight.copy_(second.weight[:, :split])
        # A tap falls into one of two cells, by which pixel of its own cell the output is; half of each, row and column.
        half = second.weight.new_tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
        cells = torch.einsum("oihw,hr,wc->oirc", second.weight[:, split:], half, half)
        two.conv_l2h.weight.copy_(cells)
        # On the pixels of a window of 3x3 cells: less varied, as means are.
        window = functional.pad(second.weight, (1, 2) * 2)
        near = window.clone()
        near[:, split:] = cells.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
        var = replace(second, weight=window).moments(near)[1]
        set_norm(two.bn_h, second.mean, var, second.gain, second.bias)


@register(
    rule="block",
    kinds={"block"},
    params=(
        FromSlot("shortcut", "shortcut"),
        _ALPHA,
    ),
    paper="OctConv, ICCV 2019, arXiv:1904.05049",
    summary="C2f with bottlenecks that work on a part of their channels at half the resolution",
    requires="channels inside (half of its output's) of which the share alpha is one at least",
    start=_start_block,
    starts="the replaced block, the low parts of its bottlenecks the nearest that half the resolution holds: "
    "off by a few hundredths of the output's variance on a trained YOLOv8n",
)
class C2f_OctConv(C2f):  # type: ignore[misc]  # Ultralytics is untyped
    """C2f with octave convolutions in its bottlenecks; (N, c1, H, W) to (N, c2, H, W).

    Args:
        c1: Input channels.
        c2: Output channels.
        n: Bottlenecks.
        shortcut: Whether a bottleneck adds its input.
        alpha: As for `OctaveBottleneck`.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, alpha: float = 0.5) -> None:
        super().__init__(c1, c2, n, shortcut)
        self.m = nn.ModuleList(OctaveBottleneck(self.c, shortcut, alpha) for _ in range(n))
