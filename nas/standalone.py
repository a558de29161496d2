"""Modules as one Python file that needs this package no more.

The file is put together from the sources of `nas.ops`: the definitions that the asked modules use, directly or through
others, with their comments, in an order in which each stands after what it needs at import. Imports of this package
fall away; private names get their file's name before them, so that none hides another; CUDA sources become texts.
Operators move to a namespace of their own, so that the file and this package can be imported together.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

from nas.ops import registry
from nas.ops.kernels import runtime

_PACKAGE = "nas.ops."
_RUNTIME = "nas.ops.kernels.runtime"
_DROPPED = {"register"}
"""Decorators of no use outside of this package."""


_SOURCE = '''@functools.cache
def source(name: str) -> str:
    """Return a CUDA source."""
    return _CUDA_SOURCES[name]'''
"""Stands in for the function that reads the sources from files."""


@dataclass
class _File:
    """A source file of `nas.ops`.

    Attributes:
        name: As it is imported.
        lines: Its text.
        statements: Its top-level statements.
        defined: Which statement defines a name.
        ours: Names imported from this package: the file, and the name there (empty for the file itself).
        imports: Statement texts by the name that outside imports bind.
        used: Statements that are needed.
    """

    name: str
    lines: list[str]
    statements: list[ast.stmt]
    defined: dict[str, int] = field(default_factory=dict)
    ours: dict[str, tuple[str, str]] = field(default_factory=dict)
    imports: dict[str, list[str]] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)

    def public(self, name: str) -> str:
        """Return what a top-level name is called in the one file."""
        if not name.startswith("_"):
            return name
        return f"_{self.name.removeprefix(_PACKAGE).replace('.', '_')}{name}"


class _Assembly:
    """Collects definitions from the files of `nas.ops`."""

    def __init__(self) -> None:
        self.files: dict[str, _File] = {}
        self.order: list[_File] = []
        self.imports: set[str] = set()

    def file(self, name: str) -> _File:
        """Return a file, read at first use; those that it imports come before it in `order`."""
        if name in self.files:
            return self.files[name]
        text = inspect.getsource(importlib.import_module(name))
        file = self.files[name] = _File(name, text.splitlines(), ast.parse(text).body)
        for place, statement in enumerate(file.statements):
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("nas."):
                for alias in statement.names:
                    bound, source = alias.asname or alias.name, str(statement.module)
                    inner = f"{source}.{alias.name}"
                    file.ours[bound] = (inner, "") if _is_module(inner) else (source, alias.name)
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                for alias in statement.names:
                    one = type(statement)(**{**vars(statement), "names": [alias]})
                    file.imports.setdefault(alias.asname or alias.name.split(".")[0], []).append(ast.unparse(one))
            else:
                for name_ in _defines(statement):
                    file.defined[name_] = place
        for source, _ in file.ours.values():
            self.file(source)
        self.order.append(file)
        return file

    def need(self, file: _File, name: str) -> None:
        """Collect what `name` means in a file, and all that it uses."""
        if name in file.defined:
            self._use(file, file.defined[name])
        elif name in file.ours:
            source, inner = file.ours[name]
            if inner:
                self.need(self.file(source), inner)
        elif name in file.imports:
            self.imports.update(file.imports[name])

    def _use(self, file: _File, place: int) -> None:
        if place in file.used:
            return
        file.used.add(place)
        statement = file.statements[place]
        for node in _kept_nodes(statement):
            if isinstance(node, ast.Name):
                self.need(file, node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                source, inner = file.ours.get(node.value.id, ("", "-"))
                if not inner:
                    self.need(self.file(source), node.attr)
        # What completes it: calls and registrations that name it first.
        names = set(_defines(statement))
        for other, candidate in enumerate(file.statements):
            if _subject(candidate) in names:
                self._use(file, other)

    def text(self, namespace: str) -> str:
        """Return the collected definitions."""
        names = [file.public(n) for file in self.order for i in file.used for n in _defines(file.statements[i])]
        assert len(names) == len(set(names)), f"defined twice: {sorted(n for n in names if names.count(n) > 1)}"
        parts = []
        for file in self.order:
            if file.used:
                parts.append(_title(file))
            parts += [_rewritten(self, file, place) for place in sorted(file.used)]
        text = (
            "\n\n\n".join(parts)
            .replace('"nas::', f'"{namespace}::')
            .replace("torch.ops.nas.", f"torch.ops.{namespace}.")
        )
        return text + "\n"


def standalone(modules: Iterable[str]) -> str:
    """Return Python source that defines registered modules, with their kernels and costs, and imports no ``nas``.

    Args:
        modules: Names of registered modules. Those of Ultralytics are imported from there.

    Raises:
        ValueError: A module is not registered.
    """
    assembly = _Assembly()
    for name in sorted(set(modules)):
        cls = registry.get(name).cls
        if cls.__module__.startswith(_PACKAGE):
            assembly.need(assembly.file(cls.__module__), name)
        else:
            assembly.imports.add(f"from {cls.__module__} import {name}")
    assembly.need(assembly.file("nas.ops.registry"), "macs_rules")
    kernels = sorted(
        file.name.rpartition(".")[2]
        for file in assembly.order
        if file.name.startswith(f"{_PACKAGE}functional.") and "Kernel" in file.ours and file.used
    )
    sources = "".join(f'    "{name}": r"""\n{runtime.source(name)}""",\n' for name in kernels)
    if kernels:
        sources = f"_CUDA_SOURCES = {{\n{sources}}}\n\n\n"
    assembly.imports.discard("from importlib import resources")  # which the sources were read by
    digest = hashlib.sha256((assembly.text("") + sources).encode()).hexdigest()[:8]
    imports = "\n".join(sorted(assembly.imports, key=lambda line: (line.startswith("from"), line)))
    text = f"{imports}\n\n{sources}{assembly.text(f'swapnas_{digest}')}"
    text = text.replace("pip install 'swapnas[cuda]'", "pip install cuda-core cuda-bindings")
    return re.sub(r"\bnas\.ops\.(?:\w+\.)*(\w+)", r"\1", text)


@cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _defines(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        if statement.name != "_":
            yield statement.name
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                yield target.id
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def _subject(statement: ast.stmt) -> str:
    """Return which definition a statement completes, such as the operator that it gives a gradient; empty if none."""
    call: ast.expr
    if isinstance(statement, ast.FunctionDef) and statement.name == "_" and statement.decorator_list:
        call = statement.decorator_list[0]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
    else:
        return ""
    function = call.func if isinstance(call, ast.Call) else call
    if isinstance(function, ast.Attribute):
        return function.value.id if isinstance(function.value, ast.Name) else ""
    arguments = call.args if isinstance(call, ast.Call) else []
    return next((a.id for a in arguments if isinstance(a, ast.Name)), "")


def _dropped(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id in _DROPPED


def _kept_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """Yield all nodes of a statement but those of decorators that fall away."""
    left = [d for d in getattr(statement, "decorator_list", []) if _dropped(d)]
    gone = {id(node) for decorator in left for node in ast.walk(decorator)}
    yield from (node for node in ast.walk(statement) if id(node) not in gone)


def _rewritten(assembly: _Assembly, file: _File, place: int) -> str:
    """Return a statement's text with the names of the one file, and the documentation that follows a constant."""
    statement = file.statements[place]
    if file.name == _RUNTIME and list(_defines(statement)) == ["source"]:
        return _SOURCE
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(d.lineno for d in decorators)])
    last = int(statement.end_lineno or statement.lineno)
    following = file.statements[place + 1] if place + 1 < len(file.statements) else None
    if isinstance(statement, ast.Assign | ast.AnnAssign) and _is_text(following):
        last = int(following.end_lineno or last) if following else last
    edits: list[tuple[int, int, int, str]] = []
    for node in _kept_nodes(statement):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            source, inner = file.ours.get(node.value.id, ("", "-"))
            if not inner:
                new = assembly.file(source).public(node.attr)
                edits.append((node.lineno, node.col_offset, int(node.end_col_offset or 0), new))
        elif isinstance(node, ast.Name) and (new := _renamed(assembly, file, node.id)) != node.id:
            edits.append((node.lineno, node.col_offset, int(node.end_col_offset or 0), new))
    lines = {number: file.lines[number - 1] for number in range(first, last + 1)}
    for number, start, end, new in sorted(edits, reverse=True):
        # Columns count bytes.
        line = lines[number].encode()
        lines[number] = (line[:start] + new.encode() + line[end:]).decode()
    if (
        isinstance(statement, ast.FunctionDef | ast.ClassDef)
        and statement.name.startswith("_")
        and statement.name != "_"
    ):
        lines[statement.lineno] = lines[statement.lineno].replace(statement.name, file.public(statement.name), 1)
    for decorator in decorators:
        if _dropped(decorator):
            for number in range(decorator.lineno, int(decorator.end_lineno or 0) + 1):
                lines.pop(number)
    return "\n".join(lines.values())


def _title(file: _File) -> str:
    """Return what a file says of itself, as a comment: papers, origin, deliberate differences."""
    said = ast.get_docstring(ast.Module(file.statements, [])) or ""
    lines = [f"# ---- {file.name.removeprefix(_PACKAGE)} ----", *(f"# {line}".rstrip() for line in said.splitlines())]
    return "\n".join(lines)


def _renamed(assembly: _Assembly, file: _File, name: str) -> str:
    if name in file.defined:
        return file.public(name)
    source, inner = file.ours.get(name, ("", ""))
    return assembly.file(source).public(inner) if inner else name


def _is_text(statement: ast.stmt | None) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
