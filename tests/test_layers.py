"""The import tree has no circles, and runs one way: what stands below knows nothing of what stands above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def module_files() -> dict[str, Path]:
    """Return every module's file by its long name."""
    found = {}
    for top, package in (("nas", "nas"), ("ops", "nas.ops"), ("templates", "nas.templates")):
        for file in (ROOT / top).rglob("*.py"):
            parts = [p for p in file.relative_to(ROOT / top).with_suffix("").parts if p != "__init__"]
            found[".".join([package, *parts])] = file
    return found


def imports_in(text: str) -> Iterator[tuple[str, str]]:
    """Give module and name of each import of this package, also those inside of functions and for types alone."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "always import by the long name"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def needs() -> dict[str, set[str]]:
    """Return what each module imports of this package; `nas` itself only names what is public, and is left out."""
    files = module_files()
    found = {}
    for name, file in files.items():
        if name == "nas":
            continue
        named = imports_in(file.read_text(encoding="utf-8"))
        theirs = {f"{module}.{what}" if f"{module}.{what}" in files else module for module, what in named}
        found[name] = {other for other in theirs if other in files and other not in ("nas", name)}
    return found


def test_imports_are_found():
    text = "from nas.space.search_space import SearchSpace\ndef f():\n    import nas.own\n    from nas import emit\n"
    assert set(imports_in(text)) == {("nas.space.search_space", "SearchSpace"), ("nas.own", ""), ("nas", "emit")}
    assert {"nas.training.jobs", "nas.ops.registry"} <= needs().keys()
    assert "nas.training.jobs" in needs()["nas.workers.process"]
    assert "nas.ops.registry" in needs()["nas.ops.carafe"]


def test_no_module_needs_itself_by_a_way_round():
    try:
        list(TopologicalSorter(needs()).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize("lower", ["nas.ops", "nas.templates"])
def test_what_stands_below_knows_nothing_of_nas(lower):
    above = {
        (name, other)
        for name, others in needs().items()
        if name.startswith(lower)
        for other in others
        if not other.startswith(lower)
    }
    assert not above
