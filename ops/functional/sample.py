"""Bilinear sampling at points in pixels, which the deformable convolutions here share.

It is plain PyTorch. Coordinates are float32 at least, whatever the dtype of the input: half precision cannot hold them.
"""

from __future__ import annotations

import torch

from nas.ops.export import exporting


def sample(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, *, border: bool) -> torch.Tensor:
    """Sample every channel of an image at the same points.

    Args:
        x: (N, C, H, W).
        rows: (N, T, Ho, Wo), float32 or float64: T points for every pixel of the output, 0 the first row's centre.
        columns: Of the same shape.
        border: What there is outside: the nearest pixel of the border, or else zeros, towards which a point between the
            border and the outside interpolates.

    Returns:
        (N, C, T, Ho, Wo), dtype of `x`.
    """
    n, c, h, w = x.shape
    t, ho, wo = rows.shape[1:]
    image = x.to(torch.promote_types(x.dtype, torch.float32))
    rows, columns = rows.to(image.dtype), columns.to(image.dtype)
    if border:
        # One more pixel, so that at the border itself the gradient is that of the constant outside.
        image = torch.nn.functional.pad(image, (0, 1, 0, 1), mode="replicate")
        rows, columns, h, w = rows.clamp(0, h - 1), columns.clamp(0, w - 1), h + 1, w + 1
    else:
        outside = ~((rows > -1) & (rows < h) & (columns > -1) & (columns < w))
        rows, columns = rows.masked_fill(outside, -2), columns.masked_fill(outside, -2)
    if not torch.compiler.is_compiling():
        image = to_exact_size(image, rows, columns)
        h, w = image.shape[2:]
    grid = torch.stack(((2 * columns + 1) / w - 1, (2 * rows + 1) / h - 1), dim=-1).reshape(n, t * ho, wo, 2)
    y = torch.nn.functional.grid_sample(image, grid, "bilinear", padding_mode="zeros", align_corners=False)
    return y.view(n, c, t, ho, wo).to(x.dtype)


def to_exact_size(image: torch.Tensor, *coordinates: torch.Tensor) -> torch.Tensor:
    """Return an image, padded with zeros to sizes relative to which ``grid_sample`` takes coordinates exactly.

    It takes them relative to the size. Relative to a power of two they are exact, so that a point on a whole pixel
    stays there; rounded to either side of it, the gradient of the coordinate would be that of either piece. Without a
    gradient the result differs by a rounding only: then a GPU, on which a padded map takes up to four times the
    memory, samples the image as it is. So does an export, whose sizes must not become constants.

    Args:
        image: (N, C, H, W).
        *coordinates: Those of the points.
    """
    seen = torch.is_grad_enabled() and any(c.requires_grad for c in coordinates)
    if exporting() or (image.device.type != "cpu" and not seen):
        return image
    h, w = image.shape[2:]
    right, below = (1 << (w - 1).bit_length()) - w, (1 << (h - 1).bit_length()) - h
    return torch.nn.functional.pad(image, (0, right, 0, below)) if right or below else image


def sample_macs(points: int, channels: int) -> int:
    """Return the multiply-accumulates of `sample`: four a channel and ten a point, for its corners' weights.

    Args:
        points: Over images, taps and pixels.
        channels: Sampled at each.
    """
    return points * (4 * channels + 10)


def centres(like: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which pixels of the input those of an output (N, T, Ho, Wo) stand on: (Ho, 1) rows and (Wo,) columns."""
    rows = torch.arange(like.shape[2], device=like.device).unsqueeze(1) * stride
    return rows, torch.arange(like.shape[3], device=like.device) * stride
