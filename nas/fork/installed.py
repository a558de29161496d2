"""Where the installed Ultralytics is, and which release: without importing it, or anything that does."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

from nas.fork.source import Package

TASKS = "ultralytics.nn.tasks"
"""The module whose names a model YAML can use."""


def package() -> Package | None:
    """Return the installed Ultralytics; None where there is none."""
    spec = importlib.util.find_spec("ultralytics")
    return package_at(Path(spec.origin).parent) if spec and spec.origin else None


@cache
def package_at(folder: Path) -> Package:
    """Return the package in a folder called ``ultralytics``."""
    return Package(folder)


def host_version() -> str:
    """Return name and release of the installed Ultralytics, for messages."""
    found = package()
    tree = found.tree("ultralytics") if found else None
    said = re.search(r"""^__version__ = ["']([^"']+)""", tree[0].read_text(encoding="utf-8"), re.M) if tree else None
    return f"Ultralytics {said[1]}" if said else "Ultralytics"
