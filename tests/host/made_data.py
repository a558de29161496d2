"""Datasets for tests, of plain pictures, with whatever is to be wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

from nas.data.dataset import load
from nas.errors import DataError

BOX = "0 0.5 0.5 0.2 0.2"


def picture(path: Path, size: tuple[int, int] = (32, 24), **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path, **options)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", newline="")
    return path


def describe(root: Path, **changes: object) -> Path:
    content = {"train": "images/train", "val": "images/val", "names": ["cat", "dog", "emu"]} | changes
    kept = {key: value for key, value in content.items() if value is not ...}
    return text(root / "data.yaml", yaml.safe_dump(kept, sort_keys=False))


def make(root: Path, **changes: object) -> Path:
    """Two training images and one to validate, all with a box. Returns the data.yaml."""
    for split, stems in (("train", "ab"), ("val", "c")):
        for stem in stems:
            picture(root / f"images/{split}/{stem}.png")
            text(root / f"labels/{split}/{stem}.txt", f"{BOX}\n2 0.1 0.1 0.1 0.1\n")
    return describe(root, **changes)


def complaint(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(path)
    return str(caught.value)
