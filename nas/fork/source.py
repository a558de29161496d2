"""Names in the source files of a Python package, resolved without importing it.

A fork's files may import what is not installed, and importing Ultralytics takes seconds. What a name of a file stands
for can be read from its text: a class, a function, or an import of one, also by ``*`` and within ``try`` and ``if``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_DEEPEST = 12
"""Imports that are followed from file to file."""


@dataclass(frozen=True)
class Definition:
    """What a name stands for.

    Attributes:
        name: The name in the file that defines it.
        module: That file's import name, such as ``ultralytics.nn.modules.conv``.
        file: The file; None for a name of another package.
        node: The class or function; None for other values, and for names of other packages.
    """

    name: str
    module: str
    file: Path | None = None
    node: ast.ClassDef | ast.FunctionDef | None = field(default=None, compare=False)

    @property
    def where(self) -> str:
        """File and line, as far as they are known."""
        return f"{self.file}:{self.node.lineno}" if self.file and self.node else self.module


class Package:
    """A package folder whose files are read when a name of theirs is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._trees: dict[str, tuple[Path, ast.Module, bool] | None] = {}
        self._bound: dict[str, tuple[dict[str, ast.stmt], list[ast.ImportFrom]]] = {}

    def tree(self, module: str) -> tuple[Path, ast.Module, bool] | None:
        """Return file, syntax tree, and whether it is an ``__init__``, of a module; None where it cannot be read."""
        if module not in self._trees:
            base = self.folder.parent.joinpath(*module.split("."))
            self._trees[module] = None
            for path in (base.with_suffix(".py"), base / "__init__.py"):
                if path.is_file():
                    try:
                        tree = ast.parse(path.read_text(encoding="utf-8-sig"))
                    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError):
                        break
                    self._trees[module] = (path, tree, path.name == "__init__.py")
                    break
        return self._trees[module]

    def names(self, module: str, depth: int = 0) -> dict[str, str]:
        """Return the names that a module binds at its top level, with the module that each comes from."""
        found: dict[str, str] = {}
        bound, stars = self._bindings(module)
        for star in stars:
            source = self._source_of(module, star)
            if source and source.split(".")[0] == self.folder.name and depth < _DEEPEST:
                listed = self._listed(source)
                inner = self.names(source, depth + 1)
                found |= {n: source for n in inner if (n in listed if listed else not n.startswith("_"))}
        return found | dict.fromkeys(bound, module)

    def resolve(self, name: str, module: str, depth: int = 0) -> Definition | None:
        """Return what a name of a module stands for; None if the module does not bind it."""
        entry = self.tree(module)
        if entry is None or depth > _DEEPEST:
            return None
        bound, stars = self._bindings(module)
        statement = bound.get(name)
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            return Definition(name, module, entry[0], statement)
        if isinstance(statement, ast.ImportFrom):
            source = self._source_of(module, statement)
            inner = next((a.name for a in statement.names if (a.asname or a.name) == name), name)
            if source.split(".")[0] != self.folder.name:
                return Definition(inner, source)
            return self.resolve(inner, source, depth + 1) or Definition(inner, source)
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name) and statement.value.id != name:
            return self.resolve(statement.value.id, module, depth + 1)
        if statement is not None:
            return Definition(name, module, entry[0])
        for star in reversed(stars):
            source = self._source_of(module, star)
            listed = self._listed(source) or self.names(source)
            if source.split(".")[0] == self.folder.name and name in listed and name in self.names(source):
                return self.resolve(name, source, depth + 1)
        return None

    def bases(self, definition: Definition) -> Iterator[Definition]:
        """Yield the base classes of a class, as far as its package defines them; others by their dotted text."""
        if not isinstance(definition.node, ast.ClassDef):
            return
        for base in definition.node.bases:
            if isinstance(base, ast.Name):
                yield self.resolve(base.id, definition.module) or Definition(base.id, definition.module)
            else:
                text = ast.unparse(base)
                yield Definition(text.rpartition(".")[2], text.rpartition(".")[0])

    def is_module_class(self, definition: Definition, depth: int = 0) -> bool:
        """Return whether a class of this package derives from ``torch.nn.Module``."""
        if not isinstance(definition.node, ast.ClassDef):
            return False
        found = list(self.bases(definition))
        return depth < _DEEPEST and any(
            (b.node is None and (b.name == "Module" or b.module.split(".")[0] in ("nn", "torch")))
            or (b.node is not None and self.is_module_class(b, depth + 1))
            for b in found
        )

    def parameters(self, definition: Definition, depth: int = 0) -> tuple[str, ...] | None:
        """Return the parameters of a class's constructor or a function, without ``self``; None where unknown.

        One that takes any further arguments ends with ``*``.
        """
        node = definition.node
        if isinstance(node, ast.FunctionDef):
            return _parameters(node)
        if not isinstance(node, ast.ClassDef) or depth > _DEEPEST:
            return None
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                return _parameters(statement)[1:]
        for base in self.bases(definition):
            found = self.parameters(base, depth + 1)
            if found is not None:
                return found
        return None

    def outside(self, start: str) -> dict[str, Path]:
        """Return the top-level packages that importing a module needs, each with the first file that imports it."""
        found: dict[str, Path] = {}
        waiting, seen = [start], set()
        while waiting:
            module = waiting.pop()
            entry = self.tree(module)
            if module in seen or entry is None:
                continue
            seen.add(module)
            waiting.append(module.rpartition(".")[0])  # a package's __init__ runs before its files
            for statement in _top(entry[1].body, guarded=False):
                names: list[str] = []
                if isinstance(statement, ast.Import):
                    names = [a.name for a in statement.names]
                elif isinstance(statement, ast.ImportFrom):
                    source = self._source_of(module, statement)
                    names = [source, *(f"{source}.{a.name}" for a in statement.names)]
                for name in names:
                    if name.split(".")[0] == self.folder.name:
                        waiting.append(name)
                    else:
                        found.setdefault(name.split(".")[0], entry[0])
        return found

    def _bindings(self, module: str) -> tuple[dict[str, ast.stmt], list[ast.ImportFrom]]:
        """Return the statements that bind the names of a module, the last for each, and its imports of ``*``."""
        if module not in self._bound:
            bound: dict[str, ast.stmt] = {}
            stars: list[ast.ImportFrom] = []
            entry = self.tree(module)
            for statement in _top(entry[1].body if entry else []):
                if isinstance(statement, ast.ClassDef | ast.FunctionDef):
                    bound[statement.name] = statement
                elif isinstance(statement, ast.ImportFrom):
                    if any(a.name == "*" for a in statement.names):
                        stars.append(statement)
                    bound |= {a.asname or a.name: statement for a in statement.names if a.name != "*"}
                elif isinstance(statement, ast.Assign):
                    bound |= {t.id: statement for t in statement.targets if isinstance(t, ast.Name)}
            self._bound[module] = (bound, stars)
        return self._bound[module]

    def _source_of(self, module: str, statement: ast.ImportFrom) -> str:
        """Return the import name of the module that an import takes its names from."""
        if not statement.level:
            return statement.module or ""
        entry = self.tree(module)
        parts = module.split(".")
        up = statement.level - (1 if entry and entry[2] else 0)
        parts = parts[: len(parts) - up] if up else parts
        return ".".join([*parts, *([statement.module] if statement.module else [])])

    def _listed(self, module: str) -> frozenset[str]:
        """Return the names in a module's ``__all__``; none where it has none that can be read."""
        found: set[str] = set()
        entry = self.tree(module)
        for statement in _top(entry[1].body if entry else []):
            value = statement.value if isinstance(statement, ast.Assign | ast.AugAssign) else None
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if isinstance(statement, ast.AugAssign):
                targets = [statement.target]
            if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                parts = value.elts if isinstance(value, ast.List | ast.Tuple) else []
                found |= {p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)}
        return frozenset(found)


def _top(body: list[ast.stmt], *, guarded: bool = True) -> Iterator[ast.stmt]:
    """Yield the statements that run when a file is imported; without those of a ``try`` unless `guarded`."""
    for statement in body:
        if isinstance(statement, ast.If):
            if "TYPE_CHECKING" in ast.unparse(statement.test):
                continue
            yield from _top([*statement.body, *statement.orelse], guarded=guarded)
        elif isinstance(statement, ast.Try):
            if guarded:
                inner = [s for handler in statement.handlers for s in handler.body]
                yield from _top([*inner, *statement.body, *statement.orelse, *statement.finalbody])
        elif isinstance(statement, ast.With):
            yield from _top(statement.body, guarded=guarded)
        else:
            yield statement


def _parameters(function: ast.FunctionDef) -> tuple[str, ...]:
    given = function.args
    names = [a.arg for a in [*given.posonlyargs, *given.args]]
    return (*names, *(["*"] if given.vararg else []))
