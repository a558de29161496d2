"""CARAFE's reassembly: the reference and the operator. Paper and differences are with the module, `nas.ops.carafe`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from nas.ops.export import exporting
from nas.ops.functional import tiles as tiles_file
from nas.ops.functional.operator import check_shape, check_tensor, complete, follow_autocast, sizes
from nas.ops.functional.tiles import Layout, Tiles, next_power, vector_width
from nas.ops.kernels.runtime import DTYPES, SHARED_LIMIT, Kernel, Launch, launch
from nas.ops.kernels.self_test import usable


def carafe(x: torch.Tensor, mask_logits: torch.Tensor, k_up: int, scale: int) -> torch.Tensor:
    """Upsample `x` by sums over its neighbourhoods, weighted by a softmax that each output pixel has of its own.

    With ``r = k_up // 2`` and ``s = scale`` (equation 2 of the paper, zero padding)::

        y[n, c, Y, X] = sum_{a,b < k_up} x[n, c, Y // s + a - r, X // s + b - r] * m[n, a * k_up + b, Y, X]
        m = softmax over the taps of pixel_shuffle(mask_logits, s)

    Weights that fall outside of the image are lost, not redistributed. The gradient is deterministic.

    On CUDA a kernel runs for float32, float16 and bfloat16 (`nas.ops.kernels.runtime`); softmax and sums are float32 at
    least everywhere. Under autocast `x` is taken in the active dtype.

    Args:
        x: (N, C, H, W), floating point, any device and memory format.
        mask_logits: (N, k_up**2 * scale**2, H, W), in the channel order that pixel shuffle reads.
        k_up: Size of the neighbourhood in source pixels, odd.
        scale: Upsampling factor.

    Returns:
        (N, C, scale * H, scale * W), memory format of `x`; dtype of `x`, or of the active autocast.

    Raises:
        TypeError: An argument is no floating-point tensor.
        ValueError: `k_up` is even, or a tensor is of another rank, size or device.
    """
    if k_up < 1 or k_up % 2 == 0 or scale < 1:
        raise ValueError(f"carafe: k_up={k_up}, scale={scale}: expected an odd k_up and a scale of at least 1")
    check_tensor("carafe", "x", x, "(N, C, H, W)")
    check_tensor("carafe", "mask_logits", mask_logits, "(N, k_up**2 * scale**2, H, W)", beside=x)
    n, _, h, w = sizes(x)
    check_shape("carafe", "mask_logits", mask_logits, (n, (k_up * scale) ** 2, h, w), x)
    x = follow_autocast(x)
    if not exporting() and usable("carafe", x, mask_logits) and _fits(k_up, scale):
        y: torch.Tensor = carafe_operator(x, mask_logits, k_up, scale)[0]
        return y
    return carafe_reference(x, mask_logits, k_up, scale)


def carafe_reference(x: torch.Tensor, mask_logits: torch.Tensor, k_up: int, scale: int) -> torch.Tensor:
    """Compute `carafe` in plain PyTorch."""
    n, c, h, w = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    if torch.onnx.is_in_onnx_export():
        return _by_products(x, mask_logits, k_up, scale)
    mask = torch.unflatten(mask_logits.to(dtype), 1, (k_up**2, scale**2)).softmax(1)
    r = k_up // 2

    if exporting() or x.device.type not in ("cpu", "cuda"):
        # Slices, products and sums: exports to any opset and batch, and runs where embedding_bag does not.
        padded = nn.functional.pad(x.to(dtype), (r, r, r, r)).unsqueeze(2)
        y = padded[..., :h, :w] * mask[:, 0].unsqueeze(1)
        for tap in range(1, k_up**2):
            a, b = divmod(tap, k_up)
            y = y + padded[..., a : a + h, b : b + w] * mask[:, tap].unsqueeze(1)
        return nn.functional.pixel_shuffle(y.flatten(1, 2), scale).to(x.dtype)

    # A bag per output pixel: the k_up**2 source pixels, as rows of C values, with their weights. Nothing of the size of
    # neighbourhood times channels is ever stored. int32 holds the row numbers of any map that fits into memory.
    padded = nn.functional.pad(x.to(dtype).permute(0, 2, 3, 1), (0, 0, r, r, r, r))
    stride = w + 2 * r
    index = torch.arange(n * (h + 2 * r) * stride, dtype=torch.int32, device=x.device).view(n, h + 2 * r, stride)
    taps = torch.arange(k_up, dtype=torch.int32, device=x.device)
    taps = (taps.unsqueeze(1) * stride + taps).flatten()
    rows = index[:, :h, None, :w, None, None] + taps  # the neighbourhood's top left corner, plus the tap
    rows = rows.expand(n, h, scale, w, scale, k_up**2).reshape(-1, k_up**2)
    weights = torch.unflatten(mask, 2, (scale, scale)).permute(0, 4, 2, 5, 3, 1).reshape(-1, k_up**2)
    y = nn.functional.embedding_bag(rows, padded.reshape(-1, c), mode="sum", per_sample_weights=weights)
    y = y.view(n, h * scale, w * scale, c).permute(0, 3, 1, 2).to(x.dtype)
    return y if x.is_contiguous(memory_format=torch.channels_last) else y.contiguous()


def _by_products(x: torch.Tensor, mask_logits: torch.Tensor, k_up: int, scale: int) -> torch.Tensor:
    """Compute `carafe` as a product of matrices for each source pixel: ONNX Runtime takes half the time for it."""
    n, c, h, w = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    logits = mask_logits.to(dtype).flatten(2).transpose(1, 2).reshape(n, h * w, k_up**2, scale**2)
    y = logits.softmax(2).transpose(2, 3) @ neighbourhoods(x.to(dtype), k_up)  # (N, H * W, scale**2, C)
    y = y.reshape(n, h, w, scale, scale * c).transpose(2, 3).reshape(n, h * w * scale**2, c).transpose(1, 2)
    return y.reshape(n, c, h * scale, w * scale).to(x.dtype)


def neighbourhoods(x: torch.Tensor, size: int) -> torch.Tensor:
    """Return the pixels around each pixel of `x`, (N, C, H, W): (N, H * W, size**2, C), with zeros outside."""
    n, c, h, w = x.shape
    stride = w + size - 1
    pixels = nn.functional.pad(x, (size // 2,) * 4).flatten(2).transpose(1, 2)
    first = torch.arange(h, device=x.device).unsqueeze(1) * stride + torch.arange(w, device=x.device)
    taps = torch.arange(size, device=x.device)
    taps = (taps.unsqueeze(1) * stride + taps).flatten()
    return pixels.index_select(1, (first.view(-1, 1) + taps).flatten()).reshape(n, h * w, size**2, c)


# ---- the operator ---------------------------------------------------------------------------------------------------


@torch.library.custom_op("nas::carafe", mutates_args=())
def carafe_operator(
    x: torch.Tensor, mask_logits: torch.Tensor, k_up: int, scale: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `carafe` with the kernel where there is one.

    Returns:
        The output in the memory format of `x`, and (N, H, W, scale**2, 2) float32, which the gradient takes: of the
        softmax of each output pixel, the largest logit, and the logarithm of the sum of exponentials relative to it.
    """
    layout = Layout.of(x)
    if not usable("carafe", x, mask_logits) or not _fits(k_up, scale):
        y = layout.dense(carafe_reference(x, mask_logits, k_up, scale))
        logits = torch.unflatten(mask_logits.float(), 1, (k_up**2, scale**2))
        top = logits.amax(1)
        norms = torch.stack((top, (logits - top.unsqueeze(1)).exp().sum(1).log()), -1)
        return y, norms.permute(0, 2, 3, 1, 4).contiguous()
    n, c, h, w = x.shape
    x, y = layout.dense(x), layout.new(x, scale)
    norms = torch.empty((n, h, w, scale**2, 2), dtype=torch.float32, device=x.device)
    subs = _subs(scale)
    width = vector_width(c, x, y, limit=max(1, 32 // next_power(subs)))
    tiles = _tiles(c, width, k_up, scale, buffers=1, last=layout.last)
    how = tiles.launch(n, h, w, 1, shared=tiles.pixels * (k_up * scale) ** 2 * 4)
    if not layout.last:  # the kernel wants pixels along the first dimension of the block
        lanes, *pixels = how.block
        how = Launch(how.grid, (pixels[0], lanes, pixels[1]), how.shared)
    launch(
        _kernel("carafe_forward", scale, x, mask_logits, width, k_up, scale, subs, str(layout.last).lower()),
        how,
        x,
        mask_logits,
        y,
        norms,
        np.int64(n),
        *(np.int32(v) for v in (c, h, w)),
        *(np.int64(v) for v in mask_logits.stride()),
        np.int32(-(-w // tiles.width)),
    )
    return y, norms


@carafe_operator.register_fake
def _(x: torch.Tensor, _logits: torch.Tensor, _k_up: int, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
    n, _, h, w = x.shape
    return Layout.of(x).new(x, scale), x.new_empty((n, h, w, scale**2, 2), dtype=torch.float32)


@torch.library.custom_op("nas::carafe_backward", mutates_args=())
def carafe_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    mask_logits: torch.Tensor,
    norms: torch.Tensor,
    k_up: int,
    scale: int,
    wanted: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of x (without elements if not `wanted`) and mask_logits, in their dtypes and formats.

    `norms` is what the forward returns.
    """
    layout, logits_layout = Layout.of(x), Layout.of(mask_logits)
    if not usable("carafe", x, mask_logits) or not _fits(k_up, scale):
        pull = torch.func.vjp(lambda a, b: carafe_reference(a, b, k_up, scale), x, mask_logits)[1]
        dx, dlogits = pull(dy)
        return layout.dense(dx) if wanted else x.new_empty(0), logits_layout.dense(dlogits)
    n, c, h, w = x.shape
    last = Layout(last=True)  # what both kernels read and write
    dy, x = last.dense(dy.to(x.dtype)), last.dense(x)
    dlogits = logits_layout.new(mask_logits)
    shapes = (np.int64(n), *(np.int32(v) for v in (c, h, w)), *(np.int64(v) for v in mask_logits.stride()))

    subs = _subs(scale)
    width = vector_width(c, dy, x, limit=max(1, 32 // next_power(subs)))
    tiles = _tiles(c, width, k_up, scale, buffers=2, last=True)
    launch(
        _kernel("carafe_backward_logits", scale, x, mask_logits, width, tiles.lanes, k_up, scale, subs),
        tiles.launch(n, h, w, 1, shared=tiles.pixels * 2 * (k_up * scale) ** 2 * 4),
        dy,
        x,
        mask_logits,
        norms,
        dlogits,
        *shapes,
        *(np.int64(v) for v in dlogits.stride()),
        np.int32(-(-w // tiles.width)),
    )
    if not wanted:
        return x.new_empty(0), dlogits
    dx = last.new(x)
    width = vector_width(c, dy, dx)
    tiles = _tiles(c, width, k_up, scale, buffers=0, last=True)
    launch(
        _kernel("carafe_backward_input", scale, x, mask_logits, width, k_up, scale),
        tiles.launch(n, h, w, 1),
        dy,
        mask_logits,
        norms,
        dx,
        *shapes,
        np.int32(-(-w // tiles.width)),
    )
    return layout.dense(dx), dlogits


@carafe_backward.register_fake
def _(_dy: torch.Tensor, x: torch.Tensor, mask_logits: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return Layout.of(x).new(x) if rest[-1] else x.new_empty(0), Layout.of(mask_logits).new(mask_logits)


def _flops(x: Any, _logits: Any, k_up: int, scale: int) -> int:
    """``k_up**2`` multiply-accumulates per output element (as the module's cost rule)."""
    return int(2 * math.prod(x) * scale**2 * k_up**2)


_EXAMPLE = ((1, 8, 4, 4), (1, 100, 4, 4), (5, 2))
complete("carafe", carafe_operator, carafe_backward, _flops, carafe_reference, _EXAMPLE, kept=1)


def _subs(scale: int) -> int:
    """Return how many output pixels of a source pixel a thread sums at once: all, or a part that registers hold."""
    return max(part for part in range(1, 17) if scale**2 % part == 0)


def _fits(k_up: int, scale: int) -> bool:
    """Return whether the kernels take this: they repeat themselves for each tap, and hold a pixel's weights twice."""
    return k_up <= 7 and 2 * (k_up * scale) ** 2 * 4 <= SHARED_LIMIT


def _tiles(c: int, width: int, k_up: int, scale: int, *, buffers: int, last: bool) -> Tiles:
    """Return lanes of channels and a tile of pixels whose weights fit into shared memory, `buffers` times."""
    lanes = min(32, next_power(-(-c // width)))
    pixels = 32 if not last else max(1, 256 // max(lanes, 4))
    while buffers * pixels * (k_up * scale) ** 2 * 4 > SHARED_LIMIT:
        pixels //= 2
    lanes = min(max(lanes, 32 // pixels), 256 // pixels)
    if not last:
        return Tiles(lanes, 1, pixels, 1)
    across = next_power(int(pixels**0.5))
    return Tiles(lanes, 1, across, pixels // across)


def _kernel(name: str, scale: int, x: torch.Tensor, logits: torch.Tensor, *parameters: object) -> Kernel:
    wide = x.shape[1:].numel() * scale**2 >= tiles_file.WIDE
    dtypes = (DTYPES[t.dtype] for t in (x, logits))
    return Kernel("carafe", name, (*dtypes, *(str(p) for p in parameters), "int64" if wide else "int"))
