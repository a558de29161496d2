"""What the installed Ultralytics would not build of a model YAML, before it is asked to: by line, in words."""

from __future__ import annotations

from collections.abc import Iterable

from nas.fork.heads import unknown_head
from nas.fork.installed import host_version
from nas.fork.names import host_has, host_names, registered_name
from nas.ops import registry

_MOST, _FEW = 40, 8
"""Lines of a message: up to so many all, of more so many."""


def unknown_module(name: str) -> str:
    """Return that a name is neither registered nor a class of the host, and what is near; empty if it is one."""
    if registered_name(name) or host_has(name):
        return ""
    known = registry.entries()
    close = registry.did_you_mean(name, {**known, **host_names()})
    hint = f" ({close[2:]})" if "mean" in close else ""
    return f"{name} is not registered{hint}, and {host_version()} has no such class"


def as_lines(file: str, problems: Iterable[tuple[int, str]]) -> list[str]:
    """Return line and text of problems as messages have them, by line; of very many the first few."""
    lines = [f"{file}:{line}: {text}" for line, text in sorted(set(problems))]
    return lines if len(lines) <= _MOST else [*lines[:_FEW], f"and {len(lines) - _FEW} more lines"]


def row_problems(rows: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return line and text of each row whose class cannot be built as a part of a model of any task.

    Args:
        rows: Line and class of each row, the head last.
    """
    given = list(rows)
    found = [(line, f"row {number}: {unknown_module(name)}") for number, (line, name) in enumerate(given)]
    found = [(line, text) for line, text in found if not text.endswith(": ")]
    if given and (head := unknown_head(given[-1][1])):
        found.append((given[-1][0], head))
    return found
