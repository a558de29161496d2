"""Bases: architectures that a search starts from, with a name for every layer.

YOLOv8 ships with the tool. Every other YAML of a task of `nas.task` is read from the installed Ultralytics, or is a
file of the user; its layers are named like YOLOv8's: by section, kind, and output stride. A file is known by its name
and the first 8 hex digits of its text's SHA-256, so that an edited file is another base; a copy of its text is kept in
the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

import yaml

from nas.errors import ModelError, NasError, SpaceError
from nas.files import cache_dir, write_atomic
from nas.fork.rows import as_lines, row_problems
from nas.ops import listing
from nas.ops.listing import folder_of
from nas.ops.registry import Value, did_you_mean
from nas.space.graph import IMAGE, Layer, LayerGraph
from nas.space.model_yaml import IMAGE_ROW, ModelRow, ModelYaml, parse_model_yaml, read_model_text, read_model_yaml
from nas.task.task import DETECT, OBB, POSE, SEGMENT, Task, head_names, task_of_head

_HEAD_ROW = re.compile(rf"^\s*- \[(?:\[[-\d, ]+\]|-1), \d+, ({'|'.join(head_names())}),", re.MULTILINE)
_OF_YOLO11 = frozenset({"C3k2", "A2C2f", "C2fCIB"})
"""Blocks whose presence makes parse_model give `Detect` YOLO11's class branch in place of YOLOv8's."""
_OF_DETECT = frozenset({"Detect", *SEGMENT.heads, *POSE.heads, *OBB.heads})
"""The heads with this branch."""
_OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*-[0-9a-f]{8}")
"""Names of the user's model YAMLs as bases: the file's, and the digest of its text."""
_TEXTS: dict[str, str] = {}
"""Texts of the user's model YAMLs, by their names as bases."""
_PATHS: dict[str, Path] = {}
"""Their files, as far as this process was given them."""
_UNNUMBERED = ("SPP", "PSA")
"""Parts of the class names of layers that a model has once: they are named by their class alone."""


def base_names() -> tuple[str, ...]:
    """Return the names of all bases: those that ship with the tool, then those of the installed Ultralytics."""
    return (*_shipped(), *(name for name in _host_files() if name not in _shipped()))


@cache
def p2_names() -> tuple[str, ...]:
    """Return the names of further bases: those of `base_names` with a P2 head that no YAML of Ultralytics has.

    Such as ``yolo11-p2``: one more step up and down, with half the channels, as in Ultralytics' ``yolov8-p2.yaml``.
    """
    bases = [name for name in base_names() if task_of_base(name) is DETECT]
    plain = [name for name in bases if not re.search(r"-p\d|-ghost", name) and f"{name}-p2" not in bases]
    return tuple(f"{name}-p2" for name in plain if name in _host_files() and _with_p2(name) is not None)


def task_of_base(name: str) -> Task:
    """Return the task of a base: that of its head, which is a detection head where it is a registered module.

    Raises:
        SpaceError, ModelError: As `load_base`.
    """
    return task_of_head(load_base(name).layers[-1].module) or DETECT


def shown_task(name: str) -> Task:
    """Return the task of a stored study's base, for what is shown: detection where no such base is known here."""
    try:
        return task_of_base(name)
    except NasError:
        return DETECT


def bases_like(model: ModelYaml) -> tuple[str, ...]:
    """Return the bases of the task of a model YAML, by its head; those with a made P2 head if it has four levels."""
    task = task_of_head(model.rows[-1].module) or DETECT
    heads = p2_names() if len(model.rows[-1].sources) == 4 else ()
    return tuple(name for name in (*base_names(), *heads) if task_of_base(name) is task)


def load_base(name: str) -> LayerGraph:
    """Return the graph of a base, without swaps.

    Args:
        name: One of `base_names` or `p2_names`, a file ending in ``.yaml``, or the name of one that was used before.

    Raises:
        SpaceError: There is no such base.
        ModelError: Its YAML cannot be read.
    """
    return _load(base_of_file(Path(name)) if is_base_file(name) else name)


@cache
def _load(name: str) -> LayerGraph:
    if name in _shipped():
        return _read_shipped(name)
    if name in _host_files():
        return name_layers(read_model_yaml(_host_files()[name]), name)
    if name in p2_names() and (model := _with_p2(name.removesuffix("-p2"))):
        return name_layers(model, name)
    if text := base_text(name):
        return _name_own(parse_model_yaml(text, f"{name}.yaml"), name)
    raise SpaceError(f"unknown base {name!r}{did_you_mean(name, dict.fromkeys((*base_names(), *p2_names())))}")


@cache
def _with_p2(name: str) -> ModelYaml | None:
    """Return the YAML of a base of the host with a P2 head; None where its neck is another one than YOLOv8's."""
    model = read_model_yaml(_host_files()[name])
    rows, graph = model.rows, name_layers(model, name)
    last = rows[-1].sources[0]  # the block at P3: after an upsampling and a Concat, in YOLOv5 also a 1 x 1 convolution
    if last + 3 >= len(rows) or len(rows[-1].sources) != 3:
        return None
    kinds = [graph.layers[i].kind or rows[i].module for i in range(last - 2, last + 4)]
    wide = [i for i in range(model.backbone) if graph.names[i].endswith("_p2")]
    if kinds != ["up", "Concat", "block", "down", "Concat", "block"] or not wide:
        return None
    if not {rows[last].module, rows[last + 3].module} <= {"C2f", "C3", "C3k2", "A2C2f", "C2fCIB"}:
        return None
    first = rows[last - 3]
    lateral = [first] if first.module == "Conv" and first.args[1:3] == (1, 1) else []
    up, cat, block, down, joined, lower = (rows[i] for i in range(last - 2, last + 4))
    at = last + 1
    before = last + len(lateral)  # what the step down joins: the convolution, or the block at P3 itself
    new = [replace(_halved(row), sources=(last,)) for row in lateral]
    new += [replace(up, sources=(before,)), replace(cat, sources=(before + 1, wide[-1]))]
    small = _halved(block)
    if block.module == "A2C2f":  # needs 64 channels, which a P2 block of the smallest scale has not
        small = replace(small, module="C3k2", args=small.args[:2])
    new += [replace(small, sources=(before + 2,)), replace(_halved(down), sources=(before + 3,))]
    new += [replace(joined, sources=(before + 4, before)), replace(_halved(lower), sources=(before + 5,))]
    moved = {i: i + len(new) if i >= at else i for i in range(IMAGE_ROW, len(rows))}
    rest = [replace(row, sources=tuple(moved[s] for s in row.sources)) for row in rows[at:]]
    rest[0] = replace(rest[0], sources=(at + len(new) - 1,))
    rest[-1] = replace(rest[-1], sources=(before + 3, at + len(new) - 1, *rest[-1].sources[1:]))
    return replace(model, rows=(*rows[:at], *new, *rest))


def _halved(row: ModelRow) -> ModelRow:
    """Return a row with half its output channels."""
    channels = row.args[0]
    assert isinstance(channels, int), row
    return replace(row, args=(channels // 2, *row.args[1:]))


def is_base_file(name: str) -> bool:
    """Return whether a base is given as a file."""
    return name.lower().endswith((".yaml", ".yml"))


def base_of_file(path: Path) -> str:
    """Read a model YAML of the user, and return the name that it has as a base.

    Raises:
        ModelError: It cannot be read, or has rows that the installed Ultralytics cannot build; all, with their lines.
    """
    text, _ = read_model_text(path)
    model = parse_model_yaml(text, str(path))
    if found := row_problems((row.line, row.module) for row in model.rows):
        raise ModelError("\n".join(as_lines(str(path), found)))
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem)[:60].lstrip("_-") or "model"
    stem = re.sub(r"(yolo(?:e-)?v?\d+)[nslmx](?![a-z])", r"\1", plain, count=1)
    name = f"{stem}-{_digest(text)}"
    _name_own(model, name)
    use_base(name, text)
    _PATHS[name] = path.resolve()
    return name


def use_base(name: str, text: str) -> None:
    """Make the text of a user's model YAML known under the name that it has as a base.

    Raises:
        SpaceError: The name is not that of the text.
    """
    if not _OWN_NAME.fullmatch(name) or not name.endswith(_digest(text)):
        raise SpaceError(f"the base {name[:80]!r} and its text do not belong together")
    _TEXTS[name] = text
    path = _copy_of(name)
    with contextlib.suppress(OSError):
        if not path.exists():
            write_atomic(path, text)


def base_text(name: str) -> str:
    """Return the text of a user's model YAML by its name as a base; empty if there is none."""
    if name not in _TEXTS and _OWN_NAME.fullmatch(name):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = _copy_of(name).read_text(encoding="utf-8")
            if _digest(text) == name[-8:]:
                _TEXTS[name] = text
    return _TEXTS.get(name, "")


def base_argument(name: str) -> str:
    """Return what names a base in a command or a space file: the path of a user's file, else the name."""
    return str(_PATHS[name]) if name in _PATHS else name


def _copy_of(name: str) -> Path:
    return cache_dir() / "bases" / f"{name}.yaml"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _name_own(model: ModelYaml, name: str) -> LayerGraph:
    """Return the graph of a user's model YAML.

    Raises:
        ModelError: The arguments of a row are not those of its class.
    """
    for row in model.rows:
        try:
            _level(Layer("", (), row.module, row.args), [0.0] * max(1, len(row.sources)))
        except (AssertionError, IndexError, TypeError, ValueError):
            listed = ", ".join(map(str, row.args))
            raise ModelError(f"{model.file}:{row.line}: {row.module} cannot take [{listed}]") from None
    return name_layers(model, name)


@cache
def _shipped() -> tuple[str, ...]:
    folder = resources.files("nas.templates.bases")
    return tuple(sorted(f.name[: -len(".yaml")] for f in folder.iterdir() if f.name.endswith(".yaml")))


@cache
def _host_files() -> dict[str, Path]:
    """Return the YAMLs of the installed Ultralytics by name, of every task, without importing it."""
    folder = folder_of("ultralytics")
    if folder is None:
        return {}
    files = sorted(file for kind in ("yolo", "rtdetr") for file in (folder / "cfg/models").rglob(f"{kind}*.yaml"))
    found = {f.stem: f for f in files if _HEAD_ROW.search(f.read_text(encoding="utf-8"))}
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(name: str) -> tuple[bool, int, str]:
    number = re.search(r"\d+", name)
    return (not name.startswith("yolo"), int(number[0]) if number else 0, name)


def _read_shipped(name: str) -> LayerGraph:
    data = yaml.safe_load((resources.files("nas.templates.bases") / f"{name}.yaml").read_text(encoding="utf-8"))
    layers: list[Layer] = []
    for layer_name, spec in data["layers"].items():
        before = layers[-1].name if layers else IMAGE
        sources = tuple(spec.get("from", [before]))
        layers.append(
            Layer(
                layer_name, sources, spec["module"], tuple(spec["args"]), spec.get("repeats", 1), spec.get("note", "")
            )
        )
    scales = {k: (float(d), float(w), int(c)) for k, (d, w, c) in data["scales"].items()}
    return LayerGraph(data["name"], data["title"], data["nc"], scales, tuple(layers))


def name_layers(model: ModelYaml, base: str) -> LayerGraph:
    """Return the graph of a model YAML, its layers named by section, kind and stride, like YOLOv8's.

    The backbone's rows are ``backbone``, the last row is ``head``, the rest ``neck``. A layer with an output stride
    of 8 is of level P3; in the neck the letter is p until the first layer that halves, and n from there on. The second
    layer with the same name gets ``_2``.

    Args:
        model: The YAML.
        base: Name of the base.
    """
    levels: list[float] = []
    layers: list[Layer] = []
    names: dict[int, str] = {IMAGE_ROW: IMAGE}
    taken: dict[str, int] = {}
    halved = False
    for number, row in enumerate(model.rows):
        section = "backbone" if number < model.backbone else "head" if number == len(model.rows) - 1 else "neck"
        layer = Layer("", tuple(names[s] for s in row.sources), row.module, row.args, row.repeats)
        level = _level(layer, [levels[s] if s != IMAGE_ROW else 0 for s in row.sources])
        before = max((levels[s] for s in row.sources if s != IMAGE_ROW), default=0)
        halved = halved or (section == "neck" and level > before)
        first = not before and not any(name.startswith("backbone.stem") for name in taken)
        word = _word(layer, first=first)
        if section != "head" and not any(part in row.module for part in _UNNUMBERED):
            word += f"_{'n' if halved else 'p'}{level:g}"
        name = f"{section}.{word}"
        taken[name] = taken.get(name, 0) + 1
        names[number] = name if taken[name] == 1 else f"{name}_{taken[name]}"
        levels.append(level)
        note = ""
        if section == "backbone" and level > before:
            note = f"P{level:g}/{2**level:g}"
        elif section == "head":
            note = ", ".join(f"P{levels[s]:g}" for s in row.sources)
        layers.append(Layer(names[number], layer.sources, row.module, row.args, row.repeats, note))
    constants = model.constants
    if layers[-1].module in _OF_DETECT and any(layer.module in _OF_YOLO11 for layer in layers):
        constants = (*constants, ("legacy", False))  # so that a swap of all of them does not change the head as well
    title = re.sub(r"^rtdetr", "RT-DETR", re.sub(r"^yolo", "YOLO", base))
    return LayerGraph(base, title, model.nc, model.scales, tuple(layers), constants)


def _level(layer: Layer, sources: list[float]) -> float:
    """Return the binary logarithm of a layer's stride relative to the image, from those of its inputs."""
    values = layer.slot_values or _stride_of(layer)
    if layer.module == "CBFuse":
        return sources[-1]  # it resizes the others to the last
    if layer.module == "nn.MaxPool2d":
        stride = layer.args[1] if len(layer.args) > 1 else layer.args[0]
        assert isinstance(stride, int), layer
        return sources[0] + math.log2(stride)
    if "scale" in values:
        return sources[0] - math.log2(float(values["scale"]))
    return sources[0] + math.log2(float(values.get("stride", 1)))


def _stride_of(layer: Layer) -> dict[str, Value]:
    """Return the stride or scale of a layer whose class is not a stock one, as far as its row shows it."""
    if layer.module == "ResNetLayer" and len(layer.args) > 3:  # the first has a convolution and a pooling that halve
        return {"stride": 4 if layer.args[3] else int(str(layer.args[2]))}
    if layer.module == "HGStem":  # three convolutions or poolings that halve are two steps of the output
        return {"stride": 4}
    if layer.module == "TorchVision":  # a network of torchvision, of which its pooling and what follows are left out
        return {"stride": 32}
    entry = listing.listed().get(layer.module)
    if entry and entry.kinds == {"up"}:
        return {"scale": 2}
    halves = entry is not None and entry.kinds == {"down"}
    row = layer.args[:3]
    if len(row) == 3 and all(type(a) is int for a in row) and row[2] == 2 and layer.module[:2] != "nn":
        halves = halves or row[1] in (1, 2, 3, 4, 5, 6, 7)
    return {"stride": 2} if halves else {}


def _word(layer: Layer, *, first: bool) -> str:
    """Return the word for a layer in its name: its kind, or its class if that is more specific."""
    kind = layer.kind
    if kind == "down":
        return "stem" if first else "down"
    if kind in ("up", "conv"):
        return kind
    if task := task_of_head(layer.module):
        return task.name
    known = {"Concat": "cat", "nn.MaxPool2d": "maxpool", "nn.ZeroPad2d": "pad"}
    return known.get(layer.module, layer.module.removeprefix("nn.").lower())
