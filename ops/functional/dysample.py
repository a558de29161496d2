"""DySample's sampling: the reference and the operator. Paper and differences are with `nas.ops.dysample`."""

from __future__ import annotations

import math
from ctypes import c_bool, c_float, c_int32, c_int64
from typing import Any

import torch
from torch import nn

from nas.ops.export import exporting
from nas.ops.functional.operator import (
    check_shape,
    check_tensor,
    complete,
    follow_autocast,
    sizes,
    warn_not_deterministic,
)
from nas.ops.functional.tiles import Layout, Tiles, next_power, vector_width
from nas.ops.kernels.runtime import DTYPES, Kernel, launch, usable


def dysample(
    x: torch.Tensor, offset: torch.Tensor, scale: int, groups: int, *, factor: float = 1.0, initial: bool = False
) -> torch.Tensor:
    """Sample `x` bilinearly at one point per output pixel and group of channels.

    Output pixel ``(i * s + a, j * s + b)`` of group g reads x at row ``i + p_y``, column ``j + p_x`` (pixel centres at
    whole numbers), clamped to the image; a clamped coordinate has no gradient. With ``p = offset * factor``, plus, if
    `initial`, the sub-pixel's own place ``((b - (s - 1) / 2) / s, (a - (s - 1) / 2) / s)``, from where zero offsets
    are bilinear interpolation. Channel ``comp * G * s**2 + g * s**2 + a * s + b`` of `offset` is for x (comp 0) or y
    (comp 1).

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
    if not exporting() and usable(x, offset):
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
    # grid_sample's coordinates: -1 and 1 are the outer edges of the corner pixels.
    gx = (2 * (ox + columns) + 1) / w - 1
    gy = (2 * (oy + lines) + 1) / h - 1
    grid = torch.stack(
        (nn.functional.pixel_shuffle(gx, scale), nn.functional.pixel_shuffle(gy, scale)), dim=-1
    ).flatten(0, 1)
    y = nn.functional.grid_sample(
        x.to(dtype).reshape(n * groups, c // groups, h, w), grid, "bilinear", padding_mode="border", align_corners=False
    )
    return y.view(n, c, h * scale, w * scale).to(x.dtype)


# ---- the operator ---------------------------------------------------------------------------------------------------


@torch.library.custom_op("nas::dysample", mutates_args=())
def dysample_operator(
    x: torch.Tensor, offset: torch.Tensor, scale: int, groups: int, factor: float, initial: bool
) -> torch.Tensor:
    """Compute `dysample` with the kernel where there is one; the result has the memory format of `x`."""
    layout = Layout.of(x)
    if not usable(x, offset):
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
    dy: torch.Tensor, x: torch.Tensor, offset: torch.Tensor, scale: int, groups: int, factor: float, initial: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of x and offset, in their dtypes and memory formats."""
    layout = Layout.of(x)
    if not usable(x, offset):
        pull = torch.func.vjp(lambda a, b: dysample_reference(a, b, scale, groups, factor, initial), x, offset)[1]
        dx, doffset = pull(dy)
        return layout.dense(dx), Layout.of(offset).dense(doffset)
    warn_not_deterministic("dysample")
    dy, x = layout.dense(dy.to(x.dtype)), layout.dense(x)
    dx, doffset = torch.zeros_like(x, dtype=torch.float32), Layout.of(offset).new(offset)
    arguments = (scale, groups, factor, initial)
    _launch("dysample_backward", arguments, layout, x, offset, dy, x, offset, dx, doffset)
    return dx.to(x.dtype), doffset


@dysample_backward.register_fake
def _(_dy: torch.Tensor, x: torch.Tensor, offset: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return Layout.of(x).new(x), Layout.of(offset).new(offset)


def _flops(x: Any, _offset: Any, scale: int, *_: Any) -> int:
    """Four multiply-accumulates per output element (as the module's cost rule)."""
    return int(2 * 4 * math.prod(x) * scale**2)


complete("dysample", dysample_operator, dysample_backward, _flops)


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
    width = vector_width(d, *(t for t in tensors if t.dtype == x.dtype and t.shape[1] == c)) if layout.last else 1
    lanes = min(32, next_power(-(-d // width))) if layout.last else 1
    tiles = Tiles.of(lanes, groups) if layout.last else Tiles(1, 1, 32, 8)
    wide = c * h * w * scale**2 >= 2**31
    index = c_int64 if wide else c_int32
    steps = (c, 1, 1) if layout.last else (1, h * w, h * w * scale**2)
    extra = (*(c_int64(v) for v in tensors[-1].stride()),) if name == "dysample_backward" else ()
    launch(
        Kernel(
            "dysample",
            name,
            (*(DTYPES[t.dtype] for t in (x, offset)), str(width), str(lanes), "int64" if wide else "int"),
        ),
        tiles.launch(n, h * scale, w * scale, groups),
        *tensors,
        c_int64(n),
        *(c_int32(v) for v in (c, h, w, groups, scale)),
        c_float(factor),
        c_bool(initial),
        *(c_int64(v) for v in offset.stride()),
        *(index(v) for v in steps),
        *(c_int32(v) for v in (tiles.chunks(groups), -(-w * scale // tiles.width))),
        *extra,
    )
