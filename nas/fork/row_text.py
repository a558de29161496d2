"""``host:NAME`` and its arguments as text: the label of a choice that the installed Ultralytics builds by itself.

``host:NAME`` takes the arguments of the layer that it replaces (an upsampler's: none), ``host:NAME()`` none, and
``host:NAME(channels, 7, [20, 20], chunk, true)`` these, as in a model YAML; ``channels`` are the layer's own, and
``repeats=N`` at the end sets the row's repeats.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from nas.ops.registry import Value

RowArg: TypeAlias = "Value | tuple[RowArg, ...] | None"

HOST = "host:"
"""Begins the label of a choice that is not registered."""
CHANNELS = "channels"
"""Stands for the output channels of the layer that is replaced."""

_LABEL = re.compile(r"\s*host:\s*([A-Za-z_][\w.]*)\s*(\((.*)\))?\s*", re.DOTALL)
_REPEATS = re.compile(r"repeats\s*=\s*(\d{1,3})")
_BARE = re.compile(r"[A-Za-z_](?:[\w.+\- ]*[\w.+\-])?", re.ASCII)
_LONGEST = 1000
_DEEPEST = 3


@dataclass(frozen=True)
class HostRow:
    """A class of the host with the arguments of a row.

    Attributes:
        name: The class, as model YAMLs write it.
        args: Its arguments; None for those of the layer that it replaces.
        repeats: Repeats of the row; None for the layer's.
    """

    name: str
    args: tuple[RowArg, ...] | None = None
    repeats: int | None = None

    @property
    def label(self) -> str:
        """The label, in its one form."""
        if self.args is None and self.repeats is None:
            return f"{HOST}{self.name}"
        parts = [format_arg(a) for a in self.args or ()]
        parts += [f"repeats={self.repeats}"] if self.repeats is not None else []
        return f"{HOST}{self.name}({','.join(parts)})"


def parse_host_row(text: str) -> HostRow:
    """Read a label.

    Raises:
        ValueError: It cannot be read.
    """
    match = _LABEL.fullmatch(text)
    if not match or len(text) > _LONGEST:
        raise ValueError(f"cannot read the choice {text[:80]!r}: expected host:NAME or host:NAME(arguments of its row)")
    name, inner = match[1], match[3]
    if match[2] is None:
        return HostRow(name)
    if re.search(r"[&*!#]", inner):
        raise ValueError(f"cannot read the arguments of {text[:80]!r}: & * ! # have no place in them")
    try:
        given = yaml.safe_load(f"[{inner}]")
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ValueError(
            f"cannot read the arguments of {text[:80]!r}: expected them as in a model YAML, such as (64, 3, True)"
        ) from None
    return make_host_row(name, given)


def make_host_row(name: str, given: object) -> HostRow:
    """Return a class with the arguments of a list, as a space file or a label has them.

    Raises:
        ValueError: An argument cannot stand in a row.
    """
    if not isinstance(given, list):
        raise ValueError(f"host:{name}: expected a list of arguments as in a model YAML, such as {{host:{name}: [3]}}")
    repeats = None
    if given and isinstance(given[-1], str) and (found := _REPEATS.fullmatch(given[-1].strip())):
        repeats = int(found[1])
        given = given[:-1]
        if repeats < 1:
            raise ValueError(f"host:{name}: repeats={repeats}; expected at least 1")
    return HostRow(name, tuple(_plain(name, evaluated(a)) for a in given), repeats)


def evaluated(value: Any) -> Any:
    """Return an argument as ``parse_model`` reads it: text that is a Python literal, such as ``1e-4``, is its value."""
    if not isinstance(value, str):
        return value
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value
    if isinstance(found, str | bytes | complex | set | dict):
        return found if isinstance(found, str) else value
    return list(found) if isinstance(found, tuple) else found


def format_arg(value: RowArg) -> str:
    """Return an argument as labels have it; `parse_host_row` reads it back."""
    if value is None:
        return "None"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(map(format_arg, value))}]"
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    return str(value)


def _is_word(text: str) -> bool:
    """Return whether a text is itself where YAML and ``parse_model`` read it without quotes."""
    return bool(_BARE.fullmatch(text)) and yaml.safe_load(f"[{text}]") == [text] and evaluated(text) == text


def _plain(name: str, value: Any, depth: int = 0) -> RowArg:
    if isinstance(value, str) and not _is_word(value):
        raise ValueError(f"host:{name}: the text {value[:40]!r} cannot be written in a choice: expected plain words")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple) and depth < _DEEPEST and len(value) <= 64:
        return tuple(_plain(name, v, depth + 1) for v in value)
    raise ValueError(f"host:{name}: {str(value)[:40]!r} cannot stand in a row: expected numbers, text, true or lists")
