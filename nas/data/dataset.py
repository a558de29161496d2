"""Resolve and check an Ultralytics dataset of a task, before any training.

Ultralytics skips an image that it cannot read or whose label is invalid, with a line in its log: a study would then
rank variants on less data than the user gave. Here all problems are found first, and reported together. Paths are
resolved as by Ultralytics, with one difference: a relative `path` is relative to the data.yaml's folder only.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from nas.data.class_folders import find_folders, link_folders
from nas.data.demo import demo_dataset
from nas.data.label_rows import OTHER, POINTS, RowRule
from nas.data.validate import LISTED, SUFFIXES, Problems, Sample, inspect, label_path
from nas.errors import DataError, OutputError, shown
from nas.files import write_atomic
from nas.space.yaml_reader import load_yaml
from nas.task.task import DETECT, TASKS

_TIMES = 4
"""Factor of a YAML file's limits for a data.yaml, which may list thousands of classes."""


@dataclass(frozen=True)
class Dataset:
    """A dataset in which no problem was found.

    Attributes:
        yaml: The user's data.yaml, absolute; of classification, which has none, the folder.
        names: Class names in order of index.
        train: Image files of the training split, sorted by their path within the dataset.
        val: The same of the validation split.
        boxes: Number of labelled objects of the training and of the validation split.
        fingerprint: 16 hex digits over class names, image paths and sizes, and labels; independent of its location.
        root: The folder that the splits are relative to.
        sources: The folders and list files of each split, absolute.
        further: Further entries of its data.yaml: of key points ``kpt_shape``, ``flip_idx`` and ``kpt_oks_sigmas``.
    """

    yaml: Path
    names: tuple[str, ...]
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    boxes: tuple[int, int]
    fingerprint: str
    root: Path
    sources: tuple[tuple[Path, ...], tuple[Path, ...]]
    further: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether it is one of classification: a folder of class folders, without a data.yaml."""
        return self.yaml == self.root

    def resolved(self) -> dict[str, object]:
        """Return the content of a data.yaml for Ultralytics: the user's splits, with absolute paths.

        Ultralytics resolves relative lines of a list file against the working directory, unless they start with `./`:
        `write_resolved` therefore rewrites list files.
        """
        train, val = ([str(source) for source in sources] for sources in self.sources)
        return {
            "path": str(self.root),
            "train": train[0] if len(train) == 1 else train,
            "val": val[0] if len(val) == 1 else val,
            "names": list(self.names),
            "nc": len(self.names),
            **{key: list(value) for key, value in self.further},
        }


class _Image(NamedTuple):
    key: str  # the path within the dataset, with slashes: what messages, the order and the fingerprint see
    path: str


def load(path: str | Path, task: str = DETECT.name) -> Dataset:
    """Read and check the dataset of a data.yaml, or of a folder that holds one.

    Args:
        path: The file or folder; of classification the folder of class folders.
        task: Name of the task (`nas.task`) that its labels are for.

    Raises:
        DataError: It is not valid, or is of another task. The message lists every problem.
    """
    of = TASKS[task]
    if not of.has_objects:
        return _load_folders(Path(os.path.abspath(path)))
    file = _find_yaml(Path(os.path.abspath(path)))
    data = _read_yaml(file)
    found = Problems(file)
    names = _names(data, found)
    further = _key_points(data, found) if of.labels == "keypoints" else ()
    count, values = map(int, dict(further).get("kpt_shape", (0, 0)))
    if data.get("kpt_shape") and of.labels != "keypoints":
        found.in_yaml(f"kpt_shape makes it a pose dataset: give one whose labels are {of.labels}, without kpt_shape")
        found.report()
    if data.get("channels", 3) != 3:
        found.in_yaml(f"channels is {_show(data['channels'])}: remove it, models here take images of 3 channels")
    root = _root(data.get("path"), file.parent, found)
    given = {"train": data.get("train"), "val": data.get("val", data.get("validation"))}
    sources = {split: _sources(split, value, root, found) for split, value in given.items()}
    images = {split: _images(split, paths, root, found) for split, paths in sources.items()}
    every = list(dict.fromkeys(images["train"] + images["val"]))
    rule = RowRule(len(names or ()), file.name, of.labels, (count, values))
    samples = dict(zip(every, inspect(every, rule), strict=True)) if of.labels != "keypoints" or further else {}
    problems = [problem for sample in samples.values() for problem in sample.problems]
    for wrong, words in (
        (OTHER, f"its labels are those of another task: for {of.words} each row has {rule.needed}"),
        (POINTS, "kpt_shape does not match the labels: "),
    ):
        rows = [text for kind, text in problems if kind == wrong]
        if 2 * len(rows) > sum(sample.rows for sample in samples.values()):
            found.in_yaml(words + (min(rows) if wrong == POINTS else ""))
            found.report()
    for image in samples:
        for kind, text in samples[image].problems:
            found.add(kind, text)
    for split, members in images.items() if samples else ():
        _check_split(split, members, [samples[image] for image in members], found)
    found.report()
    assert names, "reported"
    assert root, "reported"
    return Dataset(
        yaml=file,
        names=names,
        train=tuple(Path(image.path) for image in images["train"]),
        val=tuple(Path(image.path) for image in images["val"]),
        boxes=(sum(samples[i].boxes for i in images["train"]), sum(samples[i].boxes for i in images["val"])),
        fingerprint=_fingerprint((names, *further) if further else names, images, samples),
        root=Path(root),
        sources=(tuple(Path(path) for path in sources["train"]), tuple(Path(path) for path in sources["val"])),
        further=further,
    )


def _load_folders(path: Path) -> Dataset:
    """Read and check a dataset of classification."""
    found = Problems(path)
    root, train, val, names, listed = find_folders(path, found)
    images = {split: [_Image(*image) for image in members] for split, members in listed.items()}
    every = images["train"] + images["val"]
    samples = dict(zip(every, inspect(every, None), strict=True))
    for image in every:
        for kind, text in samples[image].problems:
            found.add(kind, text)
    found.report()
    return Dataset(
        yaml=root,
        names=names,
        train=tuple(Path(image.path) for image in images["train"]),
        val=tuple(Path(image.path) for image in images["val"]),
        boxes=(len(images["train"]), len(images["val"])),
        fingerprint=_fingerprint(names, images, samples),
        root=root,
        sources=((train,), (val,)),
    )


def load_or_demo(path: str | Path | None, task: str = DETECT.name) -> Dataset:
    """Return the checked dataset at a path; the demo data of the task without one.

    Raises:
        DataError: As `load`.
        OutputError: The demo data cannot be written.
    """
    return load(path or demo_dataset(task=task), task)


def write_resolved(dataset: Dataset, directory: Path, fraction: float = 1.0, *, part: bool = False) -> Path:
    """Write a data.yaml with absolute paths for Ultralytics, and the lists that it points to.

    Of classification, Ultralytics takes the folder; of a part of it, one of links is made.

    Args:
        dataset: A checked dataset.
        directory: Where to write.
        fraction: Share of the training images to list, at least one; all validation images are listed.
        part: Whether the dataset has only some of the images of its sources.

    Returns:
        The path of the data.yaml, or of the folder.

    Raises:
        OutputError: The directory cannot be written.
    """
    directory = Path(os.path.abspath(directory))
    if dataset.is_folder:
        if fraction >= 1 and not part and dataset.sources[1] == (dataset.root / "val",):  # older releases' only name
            return dataset.root
        splits = (train_share(dataset, fraction), dataset.val)
        return link_folders(directory, dataset.names, splits, (dataset.sources[0][0], dataset.sources[1][0]))
    content = dataset.resolved()
    files = {}
    for split, sources, images in zip(
        ("train", "val"), dataset.sources, (train_share(dataset, fraction), dataset.val), strict=True
    ):
        if part or (split == "train" and fraction < 1) or not all(source.is_dir() for source in sources):
            files[f"{split}.txt"] = "".join(f"{image}\n" for image in images)
            content[split] = str(directory / f"{split}.txt")
    files["data.yaml"] = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    try:
        for name, text in files.items():
            write_atomic(directory / name, text)  # another process may be reading the file of this name
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written ({error}): give a directory that can") from error
    return directory / "data.yaml"


def train_share(dataset: Dataset, fraction: float) -> tuple[Path, ...]:
    """Return a share of the training images, above 0 to 1, in their order.

    They are drawn by a digest of their path within the dataset: for any order of the files, such as frames of a video,
    the share is a random sample, and a smaller share is a subset of a larger one.
    """

    def drawn(image: Path) -> bytes:
        path = os.path.relpath(image, dataset.root).replace(os.sep, "/")
        return hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()

    count = max(1, round(fraction * len(dataset.train)))
    chosen = set(sorted(dataset.train, key=drawn)[:count])
    return tuple(image for image in dataset.train if image in chosen)


# ---- the data.yaml --------------------------------------------------------------------------------------------------


def _find_yaml(path: Path) -> Path:
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise DataError(f"{path}: no such file: give a data.yaml, or a folder that holds one")
        return path
    if not os.path.isfile(path / "data.yaml"):
        others = sorted(glob.glob("*.y*ml", root_dir=path))
        has = f"but {', '.join(others[:LISTED])}: give the file itself" if others else "nor any other YAML file"
        if not others and not os.path.isdir(path / "images") and glob.glob("train/*/*.*", root_dir=path):
            has = "but train/CLASS/IMAGE, which is for classification (a base such as yolov8-cls): give one with labels"
        raise DataError(f"{path}: the folder holds no data.yaml, {has}")
    return path / "data.yaml"


def _read_yaml(file: Path) -> dict[object, object]:
    try:
        data = load_yaml(file.read_bytes().decode("utf-8-sig"), _TIMES)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a YAML file: it is not text in UTF-8") from error
    except yaml.YAMLError as error:
        raise DataError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"{file}: holds {_show(data)}, where a mapping with train, val and names is needed")
    return data


def _show(value: object) -> str:
    return "nothing" if value is None else shown(value, 60)


def _names(data: dict[object, object], found: Problems) -> tuple[str, ...] | None:
    """Return the class names in order of index; None where they are not valid."""
    given, count = data.get("names"), data.get("nc")
    if not given or not isinstance(given, (list, dict)):
        wrong = f"is {_show(given)}" if given else "is missing"
        found.in_yaml(f"names {wrong}: list the class names in order, or as `0: name`")
        return None
    named = given.items() if isinstance(given, dict) else enumerate(given)
    try:
        by_index = {int(str(key)): name for key, name in named}
    except ValueError:
        by_index = {}
    if sorted(by_index) != list(range(len(given))):
        found.in_yaml(f"names has the keys {_show(list(given))}: number {len(given)} classes 0 to {len(given) - 1}")
        return None
    for index, name in by_index.items():
        if name is None or isinstance(name, (list, dict)) or not str(name).strip():
            found.in_yaml(f"names: class {index} is {_show(name)}: give it a name")
    if count is not None and str(count).removesuffix(".0") != str(len(by_index)):
        found.in_yaml(f"nc is {_show(count)}, but names has {len(by_index)}: remove nc, or correct one of them")
    return tuple(str(by_index[index]) for index in sorted(by_index))


def _key_points(data: dict[object, object], found: Problems) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Return what a dataset says of its key points, by the names of the host; empty if any of it is wrong."""
    shape, flip, sigmas = (data.get(key) for key in ("kpt_shape", "flip_idx", "kpt_oks_sigmas"))
    numbers = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
    if not (isinstance(shape, list) and numbers and shape[0] > 0 and shape[1] in (2, 3)):
        wrong = "is missing" if shape is None else f"is {_show(shape)}"
        found.in_yaml(f"kpt_shape {wrong}: give [points, 2], or [points, 3] with their visibility, such as [17, 3]")
        return ()
    places = isinstance(flip, list) and all(type(n) is int for n in flip)
    if flip is not None and not (isinstance(flip, list) and places and sorted(flip) == list(range(shape[0]))):
        found.in_yaml(
            f"flip_idx is {_show(flip)}: give each of the {shape[0]} points of kpt_shape once, in their order in a "
            "mirrored image"
        )
        return ()
    sizes = isinstance(sigmas, list) and all(type(n) in (int, float) and 0 < n < math.inf for n in sigmas)
    if sigmas is not None and not (isinstance(sigmas, list) and sizes and len(sigmas) == shape[0]):
        found.in_yaml(f"kpt_oks_sigmas is {_show(sigmas)}: give {shape[0]} numbers above 0, one a point of kpt_shape")
        return ()
    given = (("kpt_shape", shape), ("flip_idx", flip), ("kpt_oks_sigmas", sigmas))
    return tuple((key, tuple(value)) for key, value in given if value is not None)


def _root(given: object, folder: Path, found: Problems) -> str | None:
    if given is not None and not isinstance(given, str):
        found.in_yaml(f"path is {_show(given)}: give a folder")
        return None
    root = os.path.realpath(folder / (given or ""))
    if os.path.isdir(root):
        return root
    found.in_yaml(f"path: {given} means {root}, which is no folder: give it absolute, or as seen from {folder}")
    return None


# ---- the splits -----------------------------------------------------------------------------------------------------


def _sources(split: str, given: object, root: str | None, found: Problems) -> list[str]:
    """Return the folders and list files of a split, as far as they exist."""
    entries = given if isinstance(given, list) else [given]
    texts = [entry for entry in entries if isinstance(entry, str) and entry]
    if not entries or len(texts) < len(entries):
        wrong = "is missing" if given is None else f"is {_show(given)}"
        found.in_yaml(f"{split} {wrong}: give a folder of images, a .txt file that lists them, or several of these")
    sources = []
    for entry in texts if root else ():
        path = os.path.realpath(os.path.join(root or "", entry))
        if not os.path.exists(path) and entry.startswith("../"):  # as in Roboflow's exports
            path = os.path.realpath(os.path.join(root or "", entry[3:]))
        if os.path.exists(path):
            sources.append(path)
        else:
            found.in_yaml(f"{split}: {entry} means {path}, which does not exist: correct it, or path")
    return sources


def _images(split: str, sources: list[str], root: str | None, found: Problems) -> list[_Image]:
    """Return the images of a split, sorted; an image that is listed twice counts twice, as in training."""
    paths: list[str] = []
    for source in sources:
        try:
            if os.path.isdir(source):
                os.scandir(source).close()  # glob ignores folders without permission
                here = glob.glob(os.path.join(glob.escape(source), "**", "*.*"), recursive=True)
            else:
                with open(source, encoding="utf-8-sig") as file:
                    lines = [line.strip().replace("/", os.sep) for line in file.read().splitlines()]
                start, dot = os.path.dirname(source), f".{os.sep}"
                here = [os.path.join(start if x.startswith(dot) else root or "", x.removeprefix(dot)) for x in lines]
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a list of image paths in UTF-8"
            found.add("split", f"{split}: {source} cannot be read: {why}")
            continue
        here = [path for path in here if path.rpartition(".")[2].lower() in SUFFIXES]
        if not here:
            found.add("split", f"{split}: no image in {source}: files may end in .{', .'.join(sorted(SUFFIXES))}")
        paths += here
    return sorted(_Image(_key(path, root or ""), path) for path in paths)


def _key(path: str, root: str) -> str:
    """Return the path within the root; of an image elsewhere, the part that is the same in a copy of the dataset."""
    path = os.path.normpath(path)
    within = root.rstrip(os.sep) + os.sep
    if path.startswith(within):
        return path[len(within) :].replace(os.sep, "/")
    at = path.rfind(f"{os.sep}images{os.sep}")
    return (path[at + 1 :] if at >= 0 else os.path.basename(path)).replace(os.sep, "/")


def _check_split(split: str, images: list[_Image], samples: list[Sample], found: Problems) -> None:
    if not any(sample.found for sample in samples) and images:  # no image at all was reported where it was looked for
        where = label_path(images[0].path)
        found.add("boxes", f"{split}: none of {len(images):,} images has a label file: looked for {where}, and so on")
    elif not any(sample.rows for sample in samples) and images:
        found.add("boxes", f"{split}: not one box in the label files of {len(images):,} images")


def _fingerprint(names: tuple[object, ...], images: dict[str, list[_Image]], samples: dict[_Image, Sample]) -> str:
    digest = hashlib.sha256(json.dumps(names).encode())
    for split, members in images.items():
        digest.update(f"\n{split} {len(members)}\n".encode())
        for image in members:
            digest.update(image.key.encode("utf-8", "surrogateescape") + b"\0%d\0" % samples[image].size)
            digest.update(samples[image].label)
    return digest.hexdigest()[:16]
