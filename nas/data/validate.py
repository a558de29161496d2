"""Validation of an image and its label file.

The rules are those of Ultralytics' scan, which skips an image that breaks one; of label rows see `nas.data.label_rows`.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from nas.data.label_rows import RowRule, wrong_row
from nas.errors import DataError

SUFFIXES = frozenset(("avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"))
WHOLE_LIMIT = 2000
"""Maximum number of images to decode completely; of a larger dataset only headers and checksums are read."""
LEAST_SIDE = 10
"""Pixels: Ultralytics skips an image with a shorter side."""
LISTED = 8
"""Number of problems of one kind that a message lists."""
_NO_LABEL = hashlib.sha256().digest()


class Sample(NamedTuple):
    """One image and its label file, validated.

    Attributes:
        size: Bytes of the image file.
        label: SHA-256 of the label file. A missing file counts as an empty one: an image of background.
        found: Whether there is a label file.
        rows: Number of its rows, valid or not.
        boxes: Number of its valid rows.
        problems: Kind and text of each problem.
    """

    size: int
    label: bytes
    found: bool
    rows: int
    boxes: int
    problems: list[tuple[str, str]]


class Problems:
    """Problems by kind, in the order in which they were found."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[str, list[str]] = {}

    def add(self, kind: str, text: str) -> None:
        """Add one."""
        self._found.setdefault(kind, []).append(text)

    def in_yaml(self, text: str) -> None:
        """Add one of the data.yaml itself."""
        self.add("yaml", f"{self._file.name}: {text}")

    def report(self) -> None:
        """Raise one DataError that lists them, if there are any."""
        total = sum(len(texts) for texts in self._found.values())
        if total:
            lines = [f"{self._file}: {total:,} problem{'s' if total > 1 else ''}"]
            for texts in self._found.values():
                lines += texts[:LISTED]
                if len(texts) > LISTED:
                    lines.append(f"and {len(texts) - LISTED:,} more like the last")
            raise DataError("\n  ".join(lines).encode("utf-8", "replace").decode())


def label_path(image: str, sep: str = os.sep) -> str:
    """Return where Ultralytics looks for a label: the last folder named images becomes labels, the suffix .txt."""
    return f"{sep}labels{sep}".join(image.rsplit(f"{sep}images{sep}", 1)).rpartition(".")[0] + ".txt"


def inspect(images: Sequence[tuple[str, str]], rule: RowRule | None) -> list[Sample]:
    """Validate images and their labels.

    Args:
        images: Each image's name for messages, with slashes, and its path.
        rule: What a row of a label file has to be; None for images without label files, each of which counts as one
            object.

    Returns:
        A sample for each image.
    """
    if any(path.lower().endswith((".heic", ".heif")) for _, path in images):
        with suppress(ImportError):
            importlib.import_module("pi_heif").register_heif_opener()
    one = partial(_sample, rule=rule, whole=len(images) <= WHOLE_LIMIT)
    with ThreadPool(min(16, (os.cpu_count() or 1) + 4)) as pool:
        return pool.map(one, images, chunksize=32)


def _sample(image: tuple[str, str], rule: RowRule | None, whole: bool) -> Sample:
    name, path = image
    try:
        size, wrong = os.stat(path).st_size, _wrong_image(path, whole)
    except FileNotFoundError:
        size, wrong = 0, "no such file, though a list names it"
    except OSError as error:
        size, wrong = 0, f"cannot be read: {error.strerror or error}"
    problems = [("image", f"{name}: {wrong}")] if wrong else []
    if rule is None:
        return Sample(size, _NO_LABEL, True, 1, 1, problems)
    shown = label_path(f"/{name}", "/")[1:]
    try:
        with open(label_path(path), "rb") as file:
            content = file.read()
        lines = content.decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        return Sample(size, _NO_LABEL, False, 0, 0, problems)
    except (OSError, UnicodeDecodeError) as error:
        why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is not text in UTF-8"
        return Sample(size, _NO_LABEL, True, 1, 0, [*problems, ("label", f"{shown}: {why}")])
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    outline = next((number for number, words in rows if len(words) > 6), 0)
    wrong_rows = [(number, *wrong_row(words, outline, rule)) for number, words in rows]
    problems += [(kind, f"{shown}, line {number}: {text}") for number, kind, text in wrong_rows if text]
    boxes = sum(not text for _, _, text in wrong_rows)
    return Sample(size, hashlib.sha256(content).digest(), True, len(rows), boxes, problems)


def _wrong_image(path: str, whole: bool) -> str:
    """Return what is wrong with an image; empty if it is valid."""
    try:
        with Image.open(path) as picture:
            form, sides = str(picture.format).lower(), picture.size
            picture.verify()
        if whole:
            with Image.open(path) as picture:
                picture.load()
    except (UnidentifiedImageError, ImportError):  # the latter where Ultralytics is loaded and wants its HEIC plugin
        return "is not an image that Pillow can read (.heic and .heif need the package pi-heif)"
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, ValueError, struct.error, ...
        return f"is damaged: {error}"
    if form not in SUFFIXES | {"jpeg2000"}:
        return f"is a {form.upper()} file despite its name, and Ultralytics skips it: save it as PNG or JPEG"
    if min(sides) < LEAST_SIDE:
        return f"is {sides[0]}x{sides[1]} pixels, and Ultralytics skips images with a side under {LEAST_SIDE}"
    if whole and not _opencv_reads(path):
        return "is an image that Pillow reads and OpenCV, by which Ultralytics trains, does not: save it as PNG or JPEG"
    if form == "jpeg":
        with open(path, "rb") as file:
            file.seek(-2, os.SEEK_END)
            if file.read() != b"\xff\xd9":
                return "does not end as a JPEG file does, and Ultralytics would rewrite it in place: save it again"
    return ""


def _opencv_reads(path: str) -> bool:
    """Return whether OpenCV decodes an image, as Ultralytics does when it trains."""
    if path.lower().endswith((".avif", ".heic", ".heif")):  # Ultralytics reads these by Pillow
        return True
    cv2, numpy = importlib.import_module("cv2"), importlib.import_module("numpy")
    try:
        return cv2.imdecode(numpy.fromfile(path, numpy.uint8), cv2.IMREAD_COLOR) is not None
    except cv2.error:
        return False
