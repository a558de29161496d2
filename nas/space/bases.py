"""Bases: architectures that a search starts from, with a name for every layer.

YOLOv8 ships with the tool. Every other detection YAML is read from the installed Ultralytics, and its layers are named
like YOLOv8's: by section, kind, and output stride.
"""

from __future__ import annotations

import math
import re
from functools import cache
from importlib import resources
from pathlib import Path

import yaml

from nas.errors import SpaceError
from nas.ops.registry import did_you_mean, folder_of
from nas.space.graph import IMAGE, Layer, LayerGraph
from nas.space.model_yaml import IMAGE_ROW, ModelYaml, read_model_yaml

HEADS = ("Detect", "v10Detect")
"""Heads that Ultralytics' detection trainer trains: the last row of a base is one of them."""

_HEAD_ROW = re.compile(rf"^\s*- \[\[[-\d, ]+\], \d+, ({'|'.join(HEADS)}),", re.MULTILINE)
_OF_YOLO11 = frozenset({"C3k2", "A2C2f", "C2fCIB"})
"""Blocks whose presence makes parse_model give `Detect` YOLO11's class branch in place of YOLOv8's."""
_UNNUMBERED = ("SPP", "PSA")
"""Parts of the class names of layers that a model has once: they are named by their class alone."""


def base_names() -> tuple[str, ...]:
    """Return the names of all bases: those that ship with the tool, then those of the installed Ultralytics."""
    return (*_shipped(), *(name for name in _host_files() if name not in _shipped()))


@cache
def load_base(name: str) -> LayerGraph:
    """Return the graph of a base, without swaps.

    Raises:
        SpaceError: There is no such base.
        ModelError: The installed Ultralytics' YAML of it cannot be read.
    """
    if name in _shipped():
        return _read_shipped(name)
    if name in _host_files():
        return name_layers(read_model_yaml(_host_files()[name]), name)
    raise SpaceError(f"unknown base {name!r}{did_you_mean(name, dict.fromkeys(base_names()))}")


@cache
def _shipped() -> tuple[str, ...]:
    folder = resources.files("nas.templates.bases")
    return tuple(sorted(f.name[: -len(".yaml")] for f in folder.iterdir() if f.name.endswith(".yaml")))


@cache
def _host_files() -> dict[str, Path]:
    """Return the installed Ultralytics' detection YAMLs by name, without importing it."""
    folder = folder_of("ultralytics")
    if folder is None:
        return {}
    files = sorted((folder / "cfg/models").rglob("yolo*.yaml"))
    found = {f.stem: f for f in files if _HEAD_ROW.search(f.read_text(encoding="utf-8"))}
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(name: str) -> tuple[int, str]:
    number = re.search(r"\d+", name)
    return (int(number[0]) if number else 0, name)


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
        word = _word(layer, first=not any(name.startswith("backbone.stem") for name in taken))
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
    if layers[-1].module == "Detect" and any(layer.module in _OF_YOLO11 for layer in layers):
        constants = (*constants, ("legacy", False))  # so that a swap of all of them does not change the head as well
    return LayerGraph(base, re.sub(r"^yolo", "YOLO", base), model.nc, model.scales, tuple(layers), constants)


def _level(layer: Layer, sources: list[float]) -> float:
    """Return the binary logarithm of a layer's stride relative to the image, from those of its inputs."""
    values = layer.slot_values
    if layer.module == "CBFuse":
        return sources[-1]  # it resizes the others to the last
    if layer.module == "nn.MaxPool2d":
        stride = layer.args[1] if len(layer.args) > 1 else layer.args[0]
        assert isinstance(stride, int), layer
        return sources[0] + math.log2(stride)
    if "scale" in values:
        return sources[0] - math.log2(float(values["scale"]))
    return sources[0] + math.log2(float(values.get("stride", 1)))


def _word(layer: Layer, *, first: bool) -> str:
    """Return the word for a layer in its name: its kind, or its class if that is more specific."""
    kind = layer.kind
    if kind == "down":
        return "stem" if first else "down"
    if kind in ("up", "conv"):
        return kind
    known = {"Concat": "cat", "nn.MaxPool2d": "maxpool", "nn.ZeroPad2d": "pad", "v10Detect": "detect"}
    return known.get(layer.module, layer.module.removeprefix("nn.").lower())
