"""Datasets of classification: a folder with ``train/CLASS/IMAGE`` and ``val/CLASS/IMAGE``, as Ultralytics reads them.

Its splits are folders of these names. Older releases, such as 8.3.203, number the classes of each split on their own:
a class that one split lacks would shift those after it, so both have to have the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nas.data.validate import LISTED, SUFFIXES, Problems
from nas.errors import DataError, OutputError

_LAYOUT = "train/CLASS/IMAGE and val/CLASS/IMAGE"
_VALIDATION = ("val", "validation", "valid", "test")
"""Names of the folder of validation images, in Ultralytics' order."""
_OF_BOXES = frozenset(("images", "labels"))
"""Folders of a split of other tasks, as in exports of Roboflow."""


class Folders(NamedTuple):
    """The splits of a dataset of classification.

    Attributes:
        root: The dataset's folder, absolute.
        train: Its folder of training images.
        val: Its folder of validation images.
        names: The classes, in their order.
        images: Of each split, the path of each image within the dataset, with slashes, and its path.
    """

    root: Path
    train: Path
    val: Path
    names: tuple[str, ...]
    images: dict[str, list[tuple[str, str]]]


def find_folders(path: Path, found: Problems) -> Folders:
    """Return the splits of a dataset of classification, and add what is wrong with them.

    Args:
        path: Its folder, absolute.
        found: Where problems are added.

    Raises:
        DataError: It is of another task, or no dataset.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder: give the one that holds {_LAYOUT}")
    if not path.is_dir():
        raise DataError(
            f"{path}: a file, as the other tasks have; for classification give the folder that holds {_LAYOUT}"
        )
    root = path.resolve()
    train, val = root / "train", next((root / name for name in _VALIDATION if (root / name).is_dir()), root / "val")
    if not train.is_dir():
        other = next((f"a {name}" for name in ("data.yaml", "images") if (root / name).exists()), "")
        other = f" but {other}: it is a dataset of another task" if other else ""
        raise DataError(f"{path}: the folder holds no train{other}; for classification give one that holds {_LAYOUT}")
    classes = {folder: _classes(folder) for folder in (train, val) if folder.is_dir()}
    if classes[train] and _OF_BOXES.issuperset(classes[train]):
        raise DataError(
            f"{path}: train holds {' and '.join(classes[train])}, so it is a dataset of another task; classification "
            f"reads {_LAYOUT}"
        )
    if val not in classes:
        raise DataError(f"{path}: the folder holds train and no val: put images to validate on in val/CLASS")
    names = classes[train]
    if len(names) < 2:
        has = f"one class folder ({names[0]})" if names else "no class folder"
        found.add("classes", f"train: it holds {has}: classification needs two or more, train/CLASS")
    _compare(train.name, names, val.name, classes[val], found)
    images = {folder.name: _images(folder, classes[folder], names, found) for folder in classes}
    return Folders(root, train, val, names, {"train": images[train.name], "val": images[val.name]})


def _classes(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders of a split, in Ultralytics' order."""
    return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))


def _compare(train: str, names: Sequence[str], val: str, others: Sequence[str], found: Problems) -> None:
    """Add the class folders that one split has and the other has not."""
    for here, there, lacking in ((train, val, set(names) - set(others)), (val, train, set(others) - set(names))):
        if lacking:
            shown = ", ".join(sorted(lacking)[:LISTED]) + (", ..." if len(lacking) > LISTED else "")
            found.add("classes", f"{there}: no class folder {shown}, which {here} has: both need the same ones")


def _images(folder: Path, classes: Sequence[str], names: Sequence[str], found: Problems) -> list[tuple[str, str]]:
    """Return the images of a split, class by class."""
    images = []
    for name in classes:
        here = [
            os.path.join(at, file)
            for at, _, files in os.walk(folder / name, followlinks=True)
            for file in files
            if file.rpartition(".")[2].lower() in SUFFIXES
        ]
        if not here and name in names:
            found.add("images", f"{folder.name}/{name}: no image: add some, or remove the class from both splits")
        images += [(os.path.relpath(file, folder.parent).replace(os.sep, "/"), file) for file in here]
    loose = sum(file.rpartition(".")[2].lower() in SUFFIXES for file in os.listdir(folder))
    if loose:
        found.add("images", f"{folder.name}: {loose:,} images are in no class folder, and Ultralytics ignores them")
    return sorted(images)


def images_by_class(
    names: Sequence[str], images: tuple[Sequence[Path], ...], sources: tuple[Path, ...]
) -> dict[str, tuple[int, ...]]:
    """Return how many images each class has in each split.

    Args:
        names: The classes.
        images: The images of each split.
        sources: The folder of each split.
    """
    counts = [
        Counter(image.relative_to(source).parts[0] for image in members)
        for members, source in zip(images, sources, strict=True)
    ]
    return {name: tuple(count[name] for count in counts) for name in names}


def link_folders(
    directory: Path, names: Sequence[str], images: tuple[Sequence[Path], ...], sources: tuple[Path, Path]
) -> Path:
    """Make a folder that holds some of a dataset's images, as links; copies where there can be no links.

    Args:
        directory: Where to make it.
        names: All classes: each gets a folder.
        images: The training and the validation images to hold.
        sources: The folders that they are in.

    Returns:
        Its path, which depends on the images: one that is there is complete.

    Raises:
        OutputError: It cannot be written.
    """
    places = {
        f"{split}/{os.path.relpath(image, source).replace(os.sep, '/')}": image
        for split, members, source in zip(("train", "val"), images, sources, strict=True)
        for image in members
    }
    listed = "\n".join(f"{place} {image}" for place, image in sorted(places.items()))
    made = directory / f"classes-{hashlib.sha256(listed.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    if made.is_dir():
        return made
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".classes-", dir=directory) as scratch:
            folder = Path(scratch) / made.name
            for name in names:
                for split in ("train", "val"):
                    (folder / split / name).mkdir(parents=True)
            for place, image in places.items():
                _link(image, folder / place)
            with suppress(OSError):  # another process was first
                folder.rename(made)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written ({error}): give a directory that can") from error
    return made


def _link(image: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(image)
    except OSError:  # on Windows links need a right
        shutil.copyfile(image, place)
