"""DySample's sampling: the reference and the operator. Paper and differences are with `nas.ops.dysample`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from nas.ops.export import exporting
from nas.ops.functional import tiles as tiles_file
from nas.ops.functional.operator import (
    check_shape,
    check_tensor,
    complete,
    follow_autocast,
    sizes,
    warn_not_deterministic,
)
from nas.ops.functional.sample import to_exact_size
from nas.ops.functional.tiles import Layout, Tiles, next_power, vector_width
from nas.ops.kernels.runtime import DTYPES, Argument, Kernel, launch
from nas.ops.kernels.self_test import usable


def dysample(
    x: torch.Tensor, offset: torch.Tensor, scale: int, groups: int, *, factor: float = 1.0, initial: bool = False
) -> torch.Tensor:
    """Sample `x` bilinearly at one point per output pixel and group of channels.

    Output pixel ``(i * s + a, j * s + b)`` of group g reads x at row ``i + p_y``, column ``j + p_x`` (pixel centres at
    whole numbers), clamped to the image; a clamped coordinate has no gradient, and NaN counts as 0. With
    ``p = offset * factor``, plus, if `initial`, the sub-pixel's own place ``((b - (s - 1) / 2) / s, (a - (s - 1) / 2) /
    s)``, from where zero offsets are bilinear interpolation. Channel ``comp * G * s**2 + g * s**2 + a * s + b`` of
    `offset` is for x (comp 0) or y (comp 1).

    On CUDA a kernel runs for float32, float16 and bfloat16 (`nas.ops.kernels.runtime`). Coordinates are float32 at
    least everywhere. Under autocast `x` is taken in the active dtype.

    Args:
        x: (N, C, H, W), floating point, any device and memory format; C a multiple of `groups`.
        offset: (N, 2 * groups * scale**2, H, W), in units of ``1 / factor`` source pixels.
        scale: Upsampling factor s.
        groups: Groups of channels G that move together.
        factor: What offsets are multiplied with.
        initial: Whether offsets are seen from the sub-pixel, rather than from the centre of its source pixel.

    Returns:
        (N, C, scale * H, scale * W), dtype of `x`, or of the active autocast.

    Raises:
        TypeError: An argument is no floating-point tensor.
        ValueError: A tensor of another rank, size or device; C is no multiple of `groups`.
        RuntimeError: Deterministic algorithms are asked for, and a kernel would compute the gradient.
    """
    check_tensor("dysample", "x", x, "(N, C, H, W)")
    check_tensor("dysample", "offset", offset, "(N, 2 * groups * scale**2, H, W)", beside=x)
    n, c, h, w = sizes(x)
    if scale < 1 or groups < 1 or c % groups:
        raise ValueError(
            f"dysample: {c} channels in {groups} groups, scale={scale}: expected a multiple, and at least 1"
        )
    check_shape("dysample", "offset", offset, (n, 2 * groups * scale**2, h, w), x)
    x = follow_autocast(x)
    if not exporting() and usable("dysample", x, offset):
        y: torch.Tensor = dysample_operator(x, offset, scale, groups, float(factor), initial)
        return y
    return dysample_reference(x, offset, scale, groups, factor, initial)


def dysample_reference(
    x: torch.Tensor, offset: torch.Tensor, scale: int, groups: int, factor: float, initial: bool
) -> torch.Tensor:
    """Compute `dysample` in plain PyTorch."""
    n, c, h, w = x.shape
    half = groups * scale**2
    dtype = torch.promote_types(x.dtype, torch.float32)
    offset = offset.to(dtype) * factor
    columns = torch.arange(w, device=x.device, dtype=dtype)
    lines = torch.arange(h, device=x.device, dtype=dtype).unsqueeze(1)
    ox, oy = offset[:, :half], offset[:, half:]
    if initial:
        sub = (torch.arange(scale, device=x.device, dtype=dtype) - (scale - 1) / 2) / scale
        ox = ox + sub.repeat(groups * scale).view(-1, 1, 1)
        oy = oy + sub.repeat_interleave(scale).repeat(groups).view(-1, 1, 1)
    px, py = ox + columns, oy + lines
    image = x.to(dtype).reshape(n * groups, c // groups, h, w)
    if torch.onnx.is_in_onnx_export():
        rows, columns = (nn.functional.pixel_shuffle(p, scale).flatten(0, 1) for p in (py, px))
        return _gathered(image, rows, columns).reshape(n, c, h * scale, w * scale).to(x.dtype)
    if not exporting():
        if n == 0:  # pixel_shuffle cannot return a gradient for none
            nothing = image.sum() + px.sum() + py.sum()
            return (x.new_zeros((0, c, h * scale, w * scale)) + nothing).to(x.dtype)
        px, py = _clamped(px, w), _clamped(py, h)
    image = to_exact_size(image, py, px)
    tall, wide = image.shape[2:]
    # -1 and 1 are the outer edges of the corner pixels.
    gx, gy = (2 * px + 1) / wide - 1, (2 * py + 1) / tall - 1
    grid = torch.stack(
        (nn.functional.pixel_shuffle(gx, scale), nn.functional.pixel_shuffle(gy, scale)), dim=-1
    ).flatten(0, 1)
    y = nn.functional.grid_sample(image, grid, "bilinear", padding_mode="border", align_corners=False)
    return y.view(n, c, h * scale, w * scale).to(x.dtype)


def _gathered(image: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Sample `image`, (N, C, H, W), at one point for each pixel, (N, Ho, Wo).

    ONNX Runtime takes a third of the time of its GridSample where every few channels have points of their own.

    Returns:
        (N, C, Ho * Wo).
    """
    n, c, h, w = image.shape
    pixels = nn.functional.pad(image, (0, 1, 0, 1), mode="replicate").flatten(2).transpose(1, 2).reshape(-1, c)
    rows, columns = (p.flatten(1).clamp(0, size - 1) for p, size in ((rows, h), (columns, w)))
    row, column = rows.floor(), columns.floor()
    down, right = (rows - row).unsqueeze(2), (columns - column).unsqueeze(2)
    image_at = torch.arange(n, device=image.device).unsqueeze(1) * ((h + 1) * (w + 1))
    at = (row.long() * (w + 1) + column.long() + image_at).flatten()
    corners = (pixels.index_select(0, at + step).reshape(n, -1, c) for step in (0, 1, w + 1, w + 2))
    upper_left, upper_right, lower_left, lower_right = corners
    upper = upper_left + right * (upper_right - upper_left)
    lower = lower_left + right * (lower_right - lower_left)
    return (upper + down * (lower - upper)).transpose(1, 2)


def _clamped(coordinate: torch.Tensor, size: int) -> torch.Tensor:
    """Return a coordinate in ``[0, size - 1]``, without gradient where it was not inside; NaN becomes 0."""
    inside = (coordinate > 0) & (coordinate < size - 1)
    return torch.where(inside, coordinate, coordinate.detach().nan_to_num(0.0).clamp(0, size - 1))


# ---- the operator ---------------------------------------------------------------------------------------------------


@torch.library.custom_op("nas::dysample", mutates_args=())
def dysample_operator(
    x: torch.Tensor, offset: torch.Tensor, scale: int, groups: int, factor: float, initial: bool
) -> torch.Tensor:
    """Compute `dysample` with the kernel where there is one; the result has the memory format of `x`."""
    layout = Layout.of(x)
    if not usable("dysample", x, offset):
        return layout.dense(dysample_reference(x, offset, scale, groups, factor, initial))
    x = layout.dense(x)
    y = layout.new(x, scale)
    _launch("dysample_forward", (scale, groups, factor, initial), layout, x, offset, x, offset, y)
    return y


@dysample_operator.register_fake
def _(x: torch.Tensor, _offset: torch.Tensor, scale: int, *_: Any) -> torch.Tensor:
    return Layout.of(x).new(x, scale)


@torch.library.custom_op("nas::dysample_backward", mutates_args=())
def dysample_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    offset: torch.Tensor,
    scale: int,
    groups: int,
    factor: float,
    initial: bool,
    wanted: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of x (without elements if not `wanted`) and offset, in their dtypes and memory formats."""
    layout = Layout.of(x)
    if not usable("dysample", x, offset):
        pull = torch.func.vjp(lambda a, b: dysample_reference(a, b, scale, groups, factor, initial), x, offset)[1]
        dx, doffset = pull(dy)
        return layout.dense(dx) if wanted else x.new_empty(0), Layout.of(offset).dense(doffset)
    if wanted:
        warn_not_deterministic("dysample")
    dy, x = layout.dense(dy.to(x.dtype)), layout.dense(x)
    dx = torch.zeros_like(x, dtype=torch.float32) if wanted else x.new_empty(0, dtype=torch.float32)
    doffset = Layout.of(offset).new(offset)
    arguments = (scale, groups, factor, initial)
    _launch("dysample_backward", arguments, layout, x, offset, dy, x, offset, dx, doffset)
    return dx.to(x.dtype), doffset


@dysample_backward.register_fake
def _(_dy: torch.Tensor, x: torch.Tensor, offset: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return Layout.of(x).new(x) if rest[-1] else x.new_empty(0), Layout.of(offset).new(offset)


def _flops(x: Any, _offset: Any, scale: int, *_: Any) -> int:
    """Four multiply-accumulates per output element (as the module's cost rule)."""
    return int(2 * 4 * math.prod(x) * scale**2)


_EXAMPLE = ((1, 8, 4, 4), (1, 32, 4, 4), (2, 4, 0.25, True))
complete("dysample", dysample_operator, dysample_backward, _flops, dysample_reference, _EXAMPLE)


def _launch(
    name: str,
    arguments: tuple[int, int, float, bool],
    layout: Layout,
    x: torch.Tensor,
    offset: torch.Tensor,
    *tensors: torch.Tensor,
) -> None:
    """Run a kernel of dysample.cu; a last tensor of the offset's shape has its own steps."""
    scale, groups, factor, initial = arguments
    n, c, h, w = x.shape
    d = c // groups
    width = vector_width(d, *(t for t in tensors if t.shape[1:2] == (c,) and t.dtype == x.dtype)) if layout.last else 1
    lanes = min(32, next_power(-(-d // width))) if layout.last else 1
    tiles = Tiles.of(lanes, groups) if layout.last else Tiles(1, 1, 32, 8)
    wide = c * h * w * scale**2 >= tiles_file.WIDE
    index = np.int64 if wide else np.int32
    steps = (c, 1, 1) if layout.last else (1, h * w, h * w * scale**2)
    extra: tuple[Argument, ...] = ()
    if name == "dysample_backward":
        extra = (*(np.int64(v) for v in tensors[-1].stride()), np.bool_(tensors[-2].numel() > 0))
    launch(
        Kernel(
            "dysample",
            name,
            (*(DTYPES[t.dtype] for t in (x, offset)), str(width), str(lanes), "int64" if wide else "int"),
        ),
        tiles.launch(n, h * scale, w * scale, groups),
        *tensors,
        np.int64(n),
        *(np.int32(v) for v in (c, h, w, groups, scale)),
        np.float32(factor),
        np.bool_(initial),
        *(np.int64(v) for v in offset.stride()),
        *(index(v) for v in steps),
        *(np.int32(v) for v in (tiles.chunks(groups), -(-w * scale // tiles.width))),
        *extra,
    )
