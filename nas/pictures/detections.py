"""Detections of a baseline and of a winner, by the host, on the validation images on which they differ most."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.data.dataset import Dataset, load_or_demo
from nas.data.levels import read_rows
from nas.data.sizes import Array
from nas.errors import DataError, HostError, one_line
from nas.full.run import FullRun
from nas.full.training import detect_each
from nas.model.offline import set_offline
from nas.pictures.images import heat_map, photo
from nas.pictures.match import Matched, difference, match
from nas.pictures.models import Pair, find_pair
from nas.study.study import Study
from nas.study.trial import Trial
from nas.task.task import DETECT

CONFIDENCE = 0.25
"""Least confidence of a detection: the host's own default."""
MOST_LOOKED, MOST_SHOWN = 200, 6
"""Validation images that both models look at, a random sample of more; and those of them that are shown."""
MOST_BYTES = 600_000
"""Size of all pictures together above which no further image is shown."""


@dataclass(frozen=True)
class Box:
    """A box: ``found``, ``missed`` or ``false``; corners in pixels; class; confidence, None for a label."""

    kind: str
    corners: tuple[float, float, float, float]
    name: str
    confidence: float | None = None


@dataclass(frozen=True)
class Side:
    """What one model makes of an image: boxes, counts as `Matched.counts`, and a heat map; empty without one."""

    boxes: tuple[Box, ...]
    counts: tuple[int, int, int]
    heat: bytes = b""


@dataclass(frozen=True)
class Shown:
    """An image: its file name, its width and height in pixels, the image as a small JPEG, and both models."""

    name: str
    size: tuple[int, int]
    photo: bytes
    base: Side
    other: Side


@dataclass(frozen=True)
class Detections:
    """What two models detect on the validation images.

    Attributes:
        title: The winner's swaps in words.
        origin: How both models were made.
        imgsz: Image side in pixels.
        looked: Number of images that both looked at, and of all.
        base: Found labels, missed labels and false boxes of the baseline on them.
        other: The same of the winner.
        differ: Number of images on which they differ.
        images: Those on which they differ most, the first the most.
        notes: What could not be shown.
    """

    title: str
    origin: str
    imgsz: int
    looked: tuple[int, int]
    base: tuple[int, int, int]
    other: tuple[int, int, int]
    differ: int
    images: tuple[Shown, ...]
    notes: tuple[str, ...] = ()


def look(
    study: Study, runs: Sequence[FullRun], winner: Trial | None, note: Callable[[str], None] = lambda _: None
) -> Detections | None:
    """Return what the baseline and the winner of a study detect; None for a study without weights of both.

    Args:
        study: The study.
        runs: Its full trainings.
        winner: The trial that it recommends.
        note: Called with what is being done, before it takes its time.

    Raises:
        NasError: Weights or images cannot be used.
    """
    set_offline()
    pair = find_pair(study, runs, winner)
    if pair is None:
        return None
    dataset = _dataset(study)
    images = dataset.val
    if len(images) > MOST_LOOKED:
        images = tuple(sorted(random.Random(0).sample(images, MOST_LOOKED)))
    note(f"looking at {len(images)} validation images with the baseline and {pair.title}; --no-pictures skips this")
    with tempfile.TemporaryDirectory(prefix="nas-pictures-") as folder:
        return _compare(pair, dataset, images, Path(folder))


def _dataset(study: Study) -> Dataset:
    """Return the dataset of a study.

    Raises:
        DataError: It has moved or has changed, in one line.
    """
    s = study.settings
    try:
        found = load_or_demo(s.data or None)
    except DataError as error:
        said = [line.strip() for line in str(error).splitlines()]
        raise DataError(f"its images have moved or have changed: {': '.join(said[:2])}") from None
    if found.fingerprint != s.fingerprint:
        raise DataError(f"{s.data or 'the demo data'} has changed since {study.shown} was made")
    return found


def _compare(pair: Pair, dataset: Dataset, images: Sequence[Path], folder: Path) -> Detections:
    with _host_errors("detect"):
        models = [
            _open(content, folder / f"{name}.pt") for name, content in (("base", pair.base), ("other", pair.other))
        ]
        seen = [_predict(model, images, pair.imgsz) for model in models]
    matched: list[tuple[Matched, Matched]] = []
    apart: list[int] = []
    labels: list[Array] = []
    for k, image in enumerate(images):
        (base, shape), (other, _) = seen[0][k], seen[1][k]
        rows = read_rows(image)
        rows[:, 1:] *= np.array([shape[1], shape[0]] * 2)
        labels.append(rows)
        matched.append((match(rows, base), match(rows, other)))
        apart.append(difference(matched[k][0], base, matched[k][1], other))
    order = sorted((k for k in range(len(images)) if apart[k]), key=lambda k: -apart[k])
    shown: list[Shown] = []
    notes: list[str] = []
    total = 0
    has_heat = has_layer_cam()
    if not has_heat:
        notes.append("The installed Ultralytics has no LayerCAM, which heat maps need; newer releases have it.")
    for k in order[:MOST_SHOWN]:
        content, size = photo(images[k])
        sides: list[Side] = []
        for model, found, detected in zip(models, matched[k], (seen[0][k][0], seen[1][k][0]), strict=True):
            heat = b""
            if has_heat:
                try:
                    with _host_errors("draw a heat map"):
                        heat = _heat(model, images[k], pair.imgsz, folder / f"heat-{k}-{len(sides)}", size)
                except HostError as error:
                    has_heat = False
                    notes.append(f"Heat maps are left out: {error}.")
            sides.append(Side(_boxes(found, labels[k], detected, dataset.names), found.counts, heat))
        total += len(content) + sum(len(side.heat) for side in sides)
        if shown and total > MOST_BYTES:
            break
        shown.append(Shown(images[k].name, size, content, sides[0], sides[1]))
    return Detections(
        title=pair.title,
        origin=pair.origin,
        imgsz=pair.imgsz,
        looked=(len(images), len(dataset.val)),
        base=_total([one for one, _ in matched]),
        other=_total([two for _, two in matched]),
        differ=len(order),
        images=tuple(shown),
        notes=tuple(notes),
    )


def _total(found: Sequence[Matched]) -> tuple[int, int, int]:
    counts = [one.counts for one in found]
    return sum(c[0] for c in counts), sum(c[1] for c in counts), sum(c[2] for c in counts)


def _boxes(found: Matched, labels: Array, detected: Array, names: Sequence[str]) -> tuple[Box, ...]:
    """Return the boxes of an image: detections that find a label or none, and labels that none finds."""

    def of_detection(kind: str, d: int) -> Box:
        row = detected[d]
        return Box(kind, _corners(row[2:]), _name(names, row[0]), round(float(row[1]), 3))

    return (
        *(of_detection("found", d) for d in found.hits.values()),
        *(of_detection("false", d) for d in found.false),
        *(Box("missed", _corners(labels[k, 1:]), _name(names, labels[k, 0])) for k in found.missed),
    )


def _corners(row: Array) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(value), 1) for value in row)
    return x1, y1, x2, y2


def _name(names: Sequence[str], number: float) -> str:
    return names[int(number)] if 0 <= number < len(names) else str(int(number))


# ---- the host -------------------------------------------------------------------------------------------------------


def has_layer_cam() -> bool:
    """Return whether the installed Ultralytics draws heat maps by LayerCAM; older ones draw feature maps instead."""
    return hasattr(importlib.import_module("ultralytics.utils.plotting"), "class_activation_map")


@contextlib.contextmanager
def _host_errors(what: str) -> Iterator[None]:
    """Turn whatever the host raises into a HostError, and keep what it prints from the output."""
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    except Exception as error:  # of the host, of torch, or of an own module
        raise HostError(f"Ultralytics cannot {what}: {one_line(error)}") from None


def _open(content: bytes, file: Path) -> Any:
    file.write_bytes(content)
    return importlib.import_module("ultralytics").YOLO(str(file), task=DETECT.name)


def _predict(model: Any, images: Sequence[Path], imgsz: int) -> list[tuple[Array, tuple[int, int]]]:
    """Return each image's detections, (n, 6): class, confidence, corners in pixels; and its height and width."""
    found = []
    for result in detect_each(model, map(str, images), conf=CONFIDENCE, imgsz=imgsz):
        boxes = result.boxes
        parts = (boxes.cls[:, None], boxes.conf[:, None], boxes.xyxy)
        height, width = result.orig_shape
        rows = np.concatenate([part.cpu().numpy().astype(np.float64) for part in parts], 1)
        found.append((rows, (int(height), int(width))))
    if len(found) != len(images):
        raise ValueError(f"it read {len(found)} of {len(images)} images")
    return found


def _heat(model: Any, image: Path, imgsz: int, folder: Path, size: tuple[int, int]) -> bytes:
    """Return the heat map that the host draws of an image."""
    place = {"project": str(folder.parent), "name": folder.name, "exist_ok": True}
    list(detect_each(model, [str(image)], visualize=True, conf=CONFIDENCE, imgsz=imgsz, **place))
    files = sorted(folder.glob("*_cam*.jpg"))
    if not files:
        raise ValueError("it has written none")
    return heat_map(files[0], size)
