"""Images as a page holds them: small JPEGs."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from nas.errors import DataError

PHOTO, HEAT = 440, 320
"""Longest side in pixels of a photograph and of a heat map."""
_QUALITY = 76


def photo(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Return an image as a small JPEG, upright, and its own width and height in pixels.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            return _jpeg(upright, PHOTO), upright.size
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a damaged file
        raise DataError(f"{path} cannot be read: {error}") from None
    except ImportError:  # Ultralytics has patched Pillow, which then asks for a package for HEIF
        raise DataError(f"{path} cannot be read: it is no image") from None


def heat_map(path: Path, size: tuple[int, int]) -> bytes:
    """Return a heat map of the host as a small JPEG, without the bars that fill up the input of a network.

    Args:
        path: The file, which shows the network's input.
        size: Width and height of the photograph.
    """
    with Image.open(path) as picture:
        width, height = picture.size
        scale = min(width / size[0], height / size[1])
        inner = [min(round(side * scale), most) for side, most in zip(size, picture.size, strict=True)]
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        return _jpeg(picture.crop((left, top, left + inner[0], top + inner[1])), HEAT)


def _jpeg(picture: Image.Image, side: int) -> bytes:
    """Return a picture as a JPEG whose longest side is at most `side` pixels."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    text = io.BytesIO()
    small.save(text, "JPEG", quality=_QUALITY, optimize=True)
    return text.getvalue()
