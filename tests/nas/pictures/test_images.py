"""Small images of a page: upright, small, and without the bars of a network's input."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from nas.errors import DataError
from nas.pictures.images import HEAT, PHOTO, heat_map, photo


def opened(content: bytes) -> Image.Image:
    found = Image.open(io.BytesIO(content))
    assert found.format == "JPEG"
    return found


def test_a_photograph_is_small_and_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    Image.new("RGB", (1200, 600), "teal").save(tmp_path / "turned.jpg", exif=exif)
    content, size = photo(tmp_path / "turned.jpg")
    assert size == (600, 1200)
    assert opened(content).size == (PHOTO // 2, PHOTO)
    assert len(content) < 20_000


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_any_mode_is_read(tmp_path, mode):
    Image.new(mode, (50, 40)).save(tmp_path / "some.png")
    content, size = photo(tmp_path / "some.png")
    assert (size, opened(content).size, opened(content).mode) == ((50, 40), (50, 40), "RGB")


def test_a_damaged_image_is_named(tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    with pytest.raises(DataError, match=r"cut\.png cannot be read"):
        photo(tmp_path / "cut.png")
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        photo(tmp_path / "gone.png")


def test_the_bars_of_a_heat_map_are_cut_off(tmp_path):
    """An image of 1000 x 500 px becomes 640 x 320 px of an input of 640 x 384 px, with bars above and below."""
    whole = Image.new("RGB", (640, 384), "grey")
    whole.paste(Image.new("RGB", (640, 320), "navy"), (0, 32))
    whole.save(tmp_path / "cam.png")
    found = opened(heat_map(tmp_path / "cam.png", (1000, 500)))
    assert found.size == (HEAT, HEAT // 2)
    corners = [found.getpixel((x, y)) for x in (2, HEAT - 3) for y in (2, HEAT // 2 - 3)]
    assert all(blue > 100 and red < 40 for red, _, blue in corners), corners
