"""Ultralytics' model YAMLs as rows whose inputs are numbers, checked before anything is built from them.

A row is ``[from, repeats, module, args]``. ``from`` counts backwards where it is negative, and from the first row
where it is not; here it always counts from the first row, and the first row takes the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from nas.errors import ModelError, shown
from nas.files import decode_text
from nas.fork.row_text import evaluated
from nas.space.graph import LayerGraph, RowArg, letter_in
from nas.space.safe_text import activation_problem, argument_problem, module_problem
from nas.space.yaml_reader import YamlReader

IMAGE_ROW = -1
"""Row number of the image, the input of the first row."""

_GLOBALS = ("activation", "reg_max", "end2end", "depth_multiple", "width_multiple", "kpt_shape")
_MOST_ROWS = 500
_MOST_VALUES = 64
_DEEPEST = 3


@dataclass(frozen=True)
class ModelRow:
    """One row.

    Attributes:
        line: Its line in the file.
        sources: Numbers of its input rows, `IMAGE_ROW` for the image.
        repeats: Number of repeats before depth scaling.
        module: The class, as written.
        args: The arguments before width scaling, as ``parse_model`` reads them: text that is a Python literal
            (``None``, ``1e-4``) is its value.
    """

    line: int
    sources: tuple[int, ...]
    repeats: int
    module: str
    args: tuple[RowArg, ...]


@dataclass(frozen=True)
class ModelYaml:
    """A model YAML.

    Attributes:
        file: Its name, for messages.
        nc: Number of classes.
        scales: Scale letter to depth, width and largest channel count; empty where the file has none.
        constants: Further settings for the whole model, such as ``activation`` or ``end2end``.
        rows: Backbone, then head.
        backbone: How many of the rows are the backbone's.
        others: Further keys that rows refer to, with their lines: a fork's ``parse_model`` may look them up.
        named_nc: Whether the file says a number of classes.
        word: What there is to say about its encoding; empty for UTF-8.
    """

    file: str
    nc: int
    scales: Mapping[str, tuple[float, float, int]]
    constants: tuple[tuple[str, RowArg], ...]
    rows: tuple[ModelRow, ...]
    backbone: int
    others: tuple[tuple[int, str], ...] = ()
    named_nc: bool = True
    word: str = ""


def read_model_yaml(path: Path) -> ModelYaml:
    """Read a model YAML from a file.

    Raises:
        ModelError: It cannot be read, or has problems; see `parse_model_yaml`.
    """
    text, word = read_model_text(path)
    return replace(parse_model_yaml(text, str(path)), word=word)


def read_model_text(path: Path) -> tuple[str, str]:
    """Return the text of a model YAML, and a word about its encoding, empty for UTF-8.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        text, word = decode_text(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    except UnicodeDecodeError as error:
        raise ModelError(f"cannot read {path}: {error}; save it as UTF-8") from None
    return text, word and f"{path}: {word}"


def parse_model_yaml(text: str, file: str) -> ModelYaml:
    """Read a model YAML from text; `file` is its name in messages.

    Raises:
        ModelError: All problems, one a line, each with file and line.
    """
    reader = _ModelReader(file)
    model = reader.read(reader.compose(text))
    reader.raise_problems()
    assert model is not None, "a reader without problems has read a model"
    return model


def scale_of(model: ModelYaml, graph: LayerGraph) -> str:
    """Return the scale letter of a file as Ultralytics reads it: of its name, else the first that it has.

    A file without scales has that of the base with its ``depth_multiple`` and ``width_multiple``.
    """
    if not graph.scales:
        return ""
    given = dict(model.constants)
    if not model.scales:
        size = given.get("depth_multiple", 1.0), given.get("width_multiple", 1.0)
        same = [letter for letter in graph.scales if graph.has_size(letter, *size)]
        return next(iter(same), letter_in(model.file) or graph.default_scale)
    first = next((letter for letter in model.scales if letter in graph.scales), graph.default_scale)
    return letter_in(model.file) or first


def at_scale(graph: LayerGraph, letter: str) -> LayerGraph:
    """Return a base whose default scale is this one; unchanged where it has no such scale."""
    first = {letter: graph.scales[letter]} if letter in graph.scales else {}
    return replace(graph, scales={**first, **graph.scales})


class _ModelReader(YamlReader):
    """Reads a model from a YAML tree."""

    error = ModelError
    most_problems = 50

    def explain(self, error: Exception) -> str:
        """Return the error, with its place, in one line; a tab is named, since it cannot be seen."""
        text = " ".join(str(error).split())
        return f"{text} (YAML indents with spaces, not tabs)" if "'\\t'" in text else text

    def read(self, root: yaml.Node | None) -> ModelYaml | None:
        if not isinstance(root, yaml.MappingNode):
            self.problem(root, "no model YAML: expected nc, scales, backbone and head")
            return None
        top = {str(key.value): value for key, value in root.value}
        missing = [key for key in ("backbone", "head") if not isinstance(top.get(key), yaml.SequenceNode)]
        if missing:
            self.problem(root, f"no model YAML: no list of rows under {' and '.join(missing)}")
            return None
        nc = self.value(top["nc"]) if "nc" in top else 80
        if isinstance(nc, bool) or not isinstance(nc, int) or nc < 1:
            self.problem(top["nc"], f"nc: {shown(nc)}; expected a whole number of classes")
            nc = 80
        scales = self.scales(top["scales"]) if "scales" in top else {}
        constants = tuple((key, self.constant(key, top[key])) for key in _GLOBALS if key in top)
        nodes = [*top["backbone"].value, *top["head"].value]
        if len(nodes) > _MOST_ROWS:
            self.problem(root, f"{len(nodes)} rows; at most {_MOST_ROWS} are read")
            return None
        rows = [self.row(node, number) for number, node in enumerate(nodes)]
        if not rows:
            self.problem(root, "no rows under backbone and head")
        named = {a for r in rows if r for a in (r.module, *r.args) if isinstance(a, str)}
        others = tuple(
            (key.start_mark.line + 1, str(key.value)) for key, _ in root.value if key.value in named - {"nc", *_GLOBALS}
        )
        found = tuple(r for r in rows if r)
        return ModelYaml(self.file, nc, scales, constants, found, len(top["backbone"].value), others, "nc" in top)

    def constant(self, key: str, node: yaml.Node) -> RowArg:
        """Return a setting for the whole model; one that Ultralytics would evaluate is checked."""
        value = self.value(node)
        if key == "activation" and value is not None and (why := activation_problem(str(value))):
            self.problem(node, f"activation: {why}")
            return None
        return self.argument(node, value)

    def scales(self, node: yaml.Node) -> dict[str, tuple[float, float, int]]:
        given = self.value(node)
        if not isinstance(given, dict) or not all(map(_is_scale, given.values())):
            self.problem(node, "scales: expected {letter: [depth, width, max_channels]}")
            return {}
        return {str(k): (float(v[0]), float(v[1]), int(v[2])) for k, v in given.items()}

    def row(self, node: yaml.Node, number: int) -> ModelRow | None:
        if not isinstance(node, yaml.SequenceNode) or len(node.value) != 4:
            self.problem(node, f"row {number}: expected [from, repeats, module, [args]]")
            return None
        source, repeats, module, args = (self.value(part) for part in node.value)
        sources = self.sources(node, number, source)
        if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
            self.problem(node, f"row {number}: repeats {shown(repeats)}; expected a whole number of at least 1")
            repeats = 1
        if not isinstance(module, str):
            self.problem(node, f"row {number}: module {shown(module)}; expected a class's name")
            module = ""
        elif why := module_problem(module):
            self.problem(node, f"row {number}: {why}")
            module = ""
        if not isinstance(args, list):
            self.problem(node, f"row {number}: args {shown(args)}; expected a list")
            args = []
        plain = tuple(self.argument(node.value[3], evaluated(a)) for a in args)
        return ModelRow(node.start_mark.line + 1, sources, repeats, module, plain)

    def sources(self, node: yaml.Node, number: int, source: object) -> tuple[int, ...]:
        """Return the numbers of a row's input rows; a wrong one is a problem."""
        given = source if isinstance(source, list) else [source]
        found = []
        for one in given:
            if isinstance(one, bool) or not isinstance(one, int):
                self.problem(
                    node, f"row {number}: takes {shown(one)}; expected a row's number, or -1 for the row before"
                )
                continue
            row = number + one if one < 0 else one
            if number == 0 and one == -1:
                found.append(IMAGE_ROW)
            elif row < 0:
                self.problem(node, f"row {number}: takes {one}, which is before the first row")
            elif row >= number:
                why = "itself" if row == number else f"row {row}, which comes later"
                self.problem(node, f"row {number}: takes {why}; a row can take only rows before it")
            else:
                found.append(row)
        if not given:
            self.problem(node, f"row {number}: takes nothing; expected a row's number, or -1 for the row before")
        return tuple(found)

    def argument(self, node: yaml.Node, value: Any, depth: int = 0) -> RowArg:
        """Return a value with tuples for lists; a type that no row has is a problem."""
        if value is None or value == "None":
            return None
        if isinstance(value, str) and (why := argument_problem(value)):
            self.problem(node, why)
            return None
        if isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list) and depth < _DEEPEST and len(value) <= _MOST_VALUES:
            return tuple(self.argument(node, v, depth + 1) for v in value)
        self.problem(
            node, f"cannot use a {type(value).__name__} here: expected numbers, text, true, false, None, or lists"
        )
        return None


def _is_scale(value: Any) -> bool:
    """Return whether a value is three finite numbers."""
    numbers = value if isinstance(value, list) and len(value) == 3 else [None]
    return all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
