"""DCNv4's sampling: the reference and the operator. Paper and differences are with the module, `nas.ops.dcnv4`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nas.ops.export import exporting
from nas.ops.functional import tiles as tiles_file
from nas.ops.functional.operator import check_tensor, complete, follow_autocast, sizes, warn_not_deterministic
from nas.ops.functional.sample import to_exact_size
from nas.ops.functional.tiles import SLACK, Tiles, next_power, vector_width
from nas.ops.kernels.runtime import DTYPES, Kernel, launch
from nas.ops.kernels.self_test import usable

_TAPS = 49
"""Kernels of more taps take the reference: the CUDA code repeats itself for each."""


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _output(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def dcnv4(
    x: torch.Tensor,
    offset_mask: torch.Tensor,
    *,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    pad: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> torch.Tensor:
    """Sum, over the taps of a kernel, weighted bilinear samples at learned points.

    For output pixel (oy, ox), group g with D = C / G channels, and K taps (equation 1 of the paper; zero padding)::

        y[n, oy, ox, g, :] = sum_k m_k * bilinear(x[n, :, :, g, :]; h_k, w_k)
        h_k = oy * stride - pad + centre + (j * dilation - centre + off_y_k) * offset_scale
        w_k = ox * stride - pad + centre + (i * dilation - centre + off_x_k) * offset_scale
        centre = dilation * (kernel - 1) // 2           (each of these per axis)

    Taps run over i (along the width) in the outer and j (along the height) in the inner loop. A tap counts only where
    ``-1 < h_k < H`` and ``-1 < w_k < W``, so that one at NaN or infinity adds nothing and gets no gradient; corners
    outside of the image are zero. Gradients are those of this formula, piece by piece: at whole coordinates, those of
    the piece above.

    On CUDA a kernel runs for float32, float16 and bfloat16 (`nas.ops.kernels.runtime`); it sums in float32 and computes
    coordinates in float32. Under autocast `x` is taken in the active dtype.

    Args:
        x: (N, H, W, C), floating point, any device and strides.
        offset_mask: (N, Ho, Wo, P) with ``Ho = (H + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1``, Wo alike.
            Group g holds 3K entries from ``g * 3K``: off_x and off_y of each tap in turn (in units of `offset_scale`
            pixels), then the K weights m. What follows the last group is ignored.
        kernel: Kernel size, or (height, width).
        stride: Stride, or (height, width).
        pad: Padding, or (height, width).
        dilation: Distance of the taps, or (height, width).
        groups: Groups G of channels that share their points.
        offset_scale: Scales both the offsets and the kernel's grid about its centre.
        remove_center: Whether the tap at (kernel_width // 2, kernel_height // 2) is left out; the others close up.

    Returns:
        (N, Ho, Wo, C), dtype of `x`, or of the active autocast.

    Raises:
        TypeError: An argument is no floating-point tensor.
        ValueError: A tensor of another rank, size or device; C is no multiple of `groups`; no tap or no output is left.
        RuntimeError: Deterministic algorithms are asked for, and a kernel would compute the gradient.
    """
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = _pair(kernel), _pair(stride), _pair(pad), _pair(dilation)
    check_tensor("dcnv4", "x", x, "(N, H, W, C)")
    check_tensor("dcnv4", "offset_mask", offset_mask, "(N, Ho, Wo, P)", beside=x)
    if min(kh, kw, sh, sw, dh, dw, groups) < 1 or min(ph, pw) < 0:
        raise ValueError(
            f"dcnv4: kernel={(kh, kw)}, stride={(sh, sw)}, pad={(ph, pw)}, dilation={(dh, dw)}, groups={groups}: "
            "expected a padding of 0 or more, and at least 1 for the others"
        )
    n, h, w, c = sizes(x)
    taps = kh * kw - remove_center
    ho, wo = _output(h, kh, sh, ph, dh), _output(w, kw, sw, pw, dw)
    if c % groups or taps < 1:
        raise ValueError(f"dcnv4: {c} channels in {groups} groups, {taps} taps: expected a multiple, and a tap")
    if ho < 1 or wo < 1:
        raise ValueError(f"dcnv4: x {sizes(x)} is smaller than the kernel {(kh, kw)} with padding {(ph, pw)}")
    given = sizes(offset_mask)
    if given[:3] != (n, ho, wo) or given[3] < groups * 3 * taps:
        raise ValueError(
            f"dcnv4: offset_mask {given} for x {(n, h, w, c)}: "
            f"expected {(n, ho, wo)} and at least {groups * 3 * taps} entries"
        )
    x = follow_autocast(x)
    pairs = ([kh, kw], [sh, sw], [ph, pw], [dh, dw])
    if not exporting() and usable("dcnv4", x, offset_mask) and kh * kw <= _TAPS:
        y: torch.Tensor = dcnv4_operator(x, offset_mask, *pairs, groups, float(offset_scale), remove_center)
        return y
    return dcnv4_reference(x, offset_mask, *pairs, groups, float(offset_scale), remove_center)


def dcnv4_reference(
    x: torch.Tensor,
    offset_mask: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
) -> torch.Tensor:
    """Compute `dcnv4` in plain PyTorch; pairs are (height, width)."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel, stride, pad, dilation
    n, h, w, c = x.shape
    taps = kh * kw - remove_center
    ho, wo = _output(h, kh, sh, ph, dh), _output(w, kw, sw, pw, dw)
    dtype = torch.promote_types(x.dtype, torch.float32)
    points = offset_mask[..., : groups * 3 * taps].to(dtype).view(n, ho, wo, groups, 3 * taps)
    offsets = torch.unflatten(points[..., : 2 * taps], -1, (taps, 2))
    mask = points[..., 2 * taps :].permute(0, 3, 4, 1, 2).flatten(0, 1).unsqueeze(1)  # (N * G, 1, K, Ho, Wo)

    tap = torch.arange(taps, device=x.device)
    if remove_center:
        tap = tap + (tap >= kw // 2 * kh + kh // 2)
    i, j = tap.div(kh, rounding_mode="floor"), tap % kh
    ch, cw = dh * (kh - 1) // 2, dw * (kw - 1) // 2
    rows = torch.arange(ho, device=x.device).view(-1, 1, 1, 1) * sh + (ch - ph)
    columns = torch.arange(wo, device=x.device).view(-1, 1, 1) * sw + (cw - pw)
    py = rows + (j * dh - ch + offsets[..., 1]) * offset_scale  # (N, Ho, Wo, G, K), pixels
    px = columns + (i * dw - cw + offsets[..., 0]) * offset_scale
    # One call samples all taps. Points that do not count move to where all four corners are outside.
    outside = ~((py > -1) & (py < h) & (px > -1) & (px < w))
    py, px = py.masked_fill(outside, -2), px.masked_fill(outside, -2)

    image = torch.unflatten(x.to(dtype), 3, (groups, c // groups)).permute(0, 3, 4, 1, 2).flatten(0, 1)
    padded = to_exact_size(image, py, px)
    if padded is not image:  # an export keeps the sizes of x, which it follows
        image, (h, w) = padded, padded.shape[2:]
    grid = torch.stack(((2 * px + 1) / w - 1, (2 * py + 1) / h - 1), dim=-1)
    grid = grid.permute(0, 3, 4, 1, 2, 5).reshape(n * groups, taps * ho, wo, 2)
    samples = nn.functional.grid_sample(image, grid, "bilinear", padding_mode="zeros", align_corners=False)
    samples = samples.view(n * groups, c // groups, taps, ho, wo)
    y = (samples * mask).sum(2)
    return y.view(n, groups, c // groups, ho, wo).permute(0, 3, 4, 1, 2).reshape(n, ho, wo, c).to(x.dtype)


# ---- the operator ---------------------------------------------------------------------------------------------------


@torch.library.custom_op("nas::dcnv4", mutates_args=())
def dcnv4_operator(
    x: torch.Tensor,
    offset_mask: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
) -> torch.Tensor:
    """Compute `dcnv4` with the kernel where there is one; arguments as `dcnv4_reference`."""
    arguments = (kernel, stride, pad, dilation, groups, offset_scale, remove_center)
    if not usable("dcnv4", x, offset_mask) or math.prod(kernel) > _TAPS:
        return dcnv4_reference(x, offset_mask, *arguments).contiguous()
    x, points = x.contiguous(), _points(x, offset_mask)
    y = x.new_empty(*points.shape[:3], x.shape[3])
    _launch("dcnv4_forward", vector_width(x.shape[3] // groups, x, y), arguments, x, points, x, points, y)
    return y


@dcnv4_operator.register_fake
def _(x: torch.Tensor, offset_mask: torch.Tensor, *_: Any) -> torch.Tensor:
    return x.new_empty(*offset_mask.shape[:3], x.shape[3])


@torch.library.custom_op("nas::dcnv4_backward", mutates_args=())
def dcnv4_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    offset_mask: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
    wanted: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of x (without elements if not `wanted`) and offset_mask, contiguous, in their dtypes."""
    arguments = (kernel, stride, pad, dilation, groups, offset_scale, remove_center)
    if not usable("dcnv4", x, offset_mask) or math.prod(kernel) > _TAPS:
        pull = torch.func.vjp(lambda a, b: dcnv4_reference(a, b, *arguments), x, offset_mask)[1]
        dx, dpoints = pull(dy)
        return dx.contiguous() if wanted else x.new_empty(0), dpoints.contiguous()
    if wanted:
        warn_not_deterministic("dcnv4")
    dy, x, points = dy.to(x.dtype).contiguous(), x.contiguous(), _points(x, offset_mask)
    dx = torch.zeros(x.shape if wanted else 0, dtype=torch.float32, device=x.device)
    dpoints = torch.empty_like(points)
    width = vector_width(x.shape[3] // groups, dy, x)
    _launch("dcnv4_backward", width, arguments, x, points, dy, x, points, dx, dpoints)
    return dx.to(x.dtype), dpoints.to(offset_mask.dtype)


@dcnv4_backward.register_fake
def _(_dy: torch.Tensor, x: torch.Tensor, offset_mask: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape if rest[-1] else 0), offset_mask.new_empty(offset_mask.shape)


def _flops(x: Any, offset_mask: Any, kernel: Sequence[int], *rest: Any) -> int:
    """Four multiply-accumulates a channel and 10 a point, for each tap (as the module's cost rule)."""
    *_pairs, groups, _scale, remove_center = rest
    return int(2 * math.prod(offset_mask[:3]) * (math.prod(kernel) - remove_center) * (4 * x[3] + 10 * groups))


_EXAMPLE = ((1, 4, 4, 8), (1, 4, 4, 56), ([3, 3], [1, 1], [1, 1], [1, 1], 2, 1.0, False))
complete("dcnv4", dcnv4_operator, dcnv4_backward, _flops, dcnv4_reference, _EXAMPLE)


def _points(x: torch.Tensor, offset_mask: torch.Tensor) -> torch.Tensor:
    """Return the points as the kernels read them: dense, of the input's dtype or float32."""
    dtype = x.dtype if offset_mask.dtype == x.dtype else torch.float32
    return offset_mask.to(dtype).contiguous()


def _launch(
    name: str, width: int, arguments: tuple[Any, ...], x: torch.Tensor, points: torch.Tensor, *tensors: torch.Tensor
) -> None:
    """Run a kernel of dcnv4.cu; `width` channels a thread."""
    (kh, kw), stride, pad, dilation, groups, offset_scale, remove_center = arguments
    (n, h, w, c), (_, ho, wo, row) = x.shape, points.shape
    entries, size = 3 * (kh * kw - remove_center), points.element_size()
    lanes = min(32, next_power(-(-c // groups // width)))
    tiles = Tiles.of(lanes, groups, entries * size)
    chunks = tiles.chunks(groups)
    # Whole rows, tail included, in packs of 16 bytes.
    packed = (
        chunks == 1
        and (row - groups * entries) * size <= SLACK
        and row * size % 16 == 0
        and all(t.data_ptr() % 16 == 0 for t in tensors if t.shape == points.shape)
    )
    stride_ = row if packed else min(tiles.groups, groups) * entries
    numbers = (h, w, c, ho, wo, row, groups, *stride, *pad, *dilation)
    launch(
        Kernel(
            "dcnv4",
            name,
            (
                *(DTYPES[t.dtype] for t in (x, points)),
                *(str(v) for v in (width, lanes, kh, kw)),
                str(remove_center).lower(),
                "int" if h * w * c < tiles_file.WIDE else "int64",
            ),
        ),
        tiles.launch(n, ho, wo, groups, shared=tiles.pixels * stride_ * size),
        *tensors,
        np.int64(n),
        *(np.int32(v) for v in numbers),
        np.float32(offset_scale),
        *(np.int32(v) for v in (chunks, -(-wo // tiles.width), stride_)),
        np.bool_(packed),
        *((np.bool_(tensors[3].numel() > 0),) if name == "dcnv4_backward" else ()),
    )
