"""Checks of the source tree that import-linter has no contract for: cycles through an `__init__`, sizes, names."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
MOST_FILES = 12
FAMILIES = {"ops"}
"""Folders without a limit: one file for each family of modules."""
UNSEARCHABLE = {
    *("barren", "crew", "doubt", "doubts", "goes", "hears", "heritage", "hurry", "keeper", "listener", "patiently"),
    *("shelf", "starved", "thaw", "untaught", "whoever"),
}
"""Words once used in identifiers in place of a standard term, such as ``keeper`` for a checkpointer."""


def files_of(*tops: str) -> list[Path]:
    """Return the Python files of some of the repository's folders."""
    return [file for top in tops for file in sorted((ROOT / top).rglob("*.py"))]


def module_files() -> dict[str, Path]:
    """Return every module's file by its long name."""
    found = {}
    for top, package in (("nas", "nas"), ("ops", "nas.ops"), ("templates", "nas.templates")):
        for file in files_of(top):
            parts = [p for p in file.relative_to(ROOT / top).with_suffix("").parts if p != "__init__"]
            found[".".join([package, *parts])] = file
    return found


def imports_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import, including those inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "always import by the long name"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


@functools.cache
def needs() -> dict[str, set[str]]:
    """Return each module's imports from this package; `nas` itself, which only names the public API, is left out."""
    files = module_files()
    found = {}
    for name, file in files.items():
        if name == "nas":
            continue
        named = imports_in(file.read_text(encoding="utf-8"))
        theirs = {f"{module}.{what}" if f"{module}.{what}" in files else module for module, what in named}
        found[name] = {other for other in theirs if other in files and other not in ("nas", name)}
    return found


def identifiers_in(text: str) -> Iterator[str]:
    """Yield the names that the code defines or uses."""
    for node in ast.walk(ast.parse(text)):
        for field in ("name", "id", "arg", "attr", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                yield name


def words_of(identifier: str) -> set[str]:
    """Return the words of a name in snake_case, UPPER_CASE or CamelCase."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)}


def test_imports_are_found():
    text = "from nas.space.search_space import SearchSpace\ndef f():\n    import nas.own\n    from nas import emit\n"
    assert set(imports_in(text)) == {("nas.space.search_space", "SearchSpace"), ("nas.own", ""), ("nas", "emit")}
    assert {"nas.training.jobs", "nas.ops.registry"} <= needs().keys()
    assert "nas.training.jobs" in needs()["nas.workers.process"]
    assert "nas.ops.registry" in needs()["nas.ops.carafe"]


def test_no_import_cycle():
    """A file and the `__init__` above it are not siblings, so import-linter misses a cycle of the two."""
    try:
        list(TopologicalSorter(needs()).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(reversed(error.args[1]))}")


def test_packages_are_small():
    counts = Counter(file.parent.relative_to(ROOT).as_posix() for file in files_of("nas", "ops"))
    assert not {folder: count for folder, count in counts.items() if count > MOST_FILES and folder not in FAMILIES}


def test_files_are_short():
    lines = {f.relative_to(ROOT).as_posix(): len(f.read_bytes().splitlines()) for f in files_of("nas", "ops", "tests")}
    assert not {file: count for file, count in lines.items() if count > MOST_LINES}


def test_identifiers_use_standard_terms():
    assert words_of("let_go") | words_of("_MAP") | words_of("HTTPError2") == {"let", "go", "map", "http", "error"}
    found = {
        f"{file.relative_to(ROOT).as_posix()}: {name}"
        for file in files_of("nas", "ops", "benchmarks")
        for name in identifiers_in(file.read_text(encoding="utf-8"))
        if words_of(name) & UNSEARCHABLE
    }
    assert not found
