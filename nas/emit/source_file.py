"""A source file, parsed for `nas.emit.standalone`: its statements, the names they define, and its imports."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import nas
from nas.errors import ModuleFileError
from nas.own.files import OWN, given

PACKAGE = "nas.ops."
_REGISTRY = "nas.ops.registry"
_REGISTER = (_REGISTRY, "register")
"""A decorator that is dropped: it is of no use outside of this package."""


@dataclass
class SourceFile:
    """A source file of `nas.ops`, or one of the user's own modules.

    Attributes:
        name: Its import name.
        title: Its name in comments and messages.
        lines: Its text.
        statements: Its top-level statements.
        defined: Indices of the statements that define a name.
        ours: Names imported from this package: the file, and the name there (empty for the file itself).
        whole: Names bound to the package itself, as after ``import nas``; in files of own modules only.
        imports: Statement texts by the name that imports from outside of this package bind.
        always: Statements of an own file that are always needed: they define nothing, but have side effects.
        used: Indices of the statements that are needed.
    """

    name: str
    title: str
    lines: list[str]
    statements: list[ast.stmt]
    defined: dict[str, list[int]] = field(default_factory=dict)
    ours: dict[str, tuple[str, str]] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    imports: dict[str, list[str]] = field(default_factory=dict)
    always: list[int] = field(default_factory=list)
    used: set[int] = field(default_factory=set)

    @property
    def is_own(self) -> bool:
        """True for a file of the user's own modules."""
        return self.name.startswith(f"{OWN}.")

    def public(self, name: str) -> str:
        """Return a top-level name in the assembled file: private ones of `nas.ops` get their file's name as prefix."""
        if self.is_own or not name.startswith("_"):
            return name
        return f"_{self.name.removeprefix(PACKAGE).replace('.', '_')}{name}"

    def meaning(self, node: ast.AST) -> tuple[str, str] | None:
        """Return the name of this package that a name or an attribute refers to: its file, and the name there."""
        if isinstance(node, ast.Name):
            found = self.ours.get(node.id)
            return found if found and found[1] else None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            source, inner = self.ours.get(node.value.id, ("", "-"))
            if not inner:
                return source, node.attr
            if node.value.id in self.whole:
                return self.published(node.attr, node.lineno)
        return None

    def published(self, name: str, line: int) -> tuple[str, str]:
        """Return the file of a public name of ``nas``, and the name there.

        Raises:
            ModuleFileError: A file without this package cannot have it.
        """
        found = nas.PUBLIC.get(name)
        if found is None or found[0] != _REGISTRY:
            known = ", ".join(f"nas.{n}" for n, (source, _) in nas.PUBLIC.items() if source == _REGISTRY)
            raise self.problem(line, f"it uses nas.{name}; what own modules may use of nas is {known}")
        return found

    def problem(self, line: int, why: str) -> ModuleFileError:
        """Return the error for a file that cannot be assembled with others."""
        return ModuleFileError(f"{self.title}:{line}: cannot be put into one file with other modules: {why}")

    def drops(self, decorator: ast.expr) -> bool:
        """Return whether a decorator, or a call, only registers a module."""
        if not isinstance(decorator, ast.Call):
            return False
        local = isinstance(decorator.func, ast.Name) and decorator.func.id == "register" and not self.is_own
        return local or self.meaning(decorator.func) == _REGISTER

    def kept_nodes(self, statement: ast.stmt) -> Iterator[ast.AST]:
        """Yield all nodes of a statement but those of decorators that are dropped."""
        left = [d for d in getattr(statement, "decorator_list", []) if self.drops(d)]
        gone = {id(node) for decorator in left for node in ast.walk(decorator)}
        yield from (node for node in ast.walk(statement) if id(node) not in gone)


def read_source(name: str) -> SourceFile:
    """Read a file by its import name.

    Raises:
        ModuleFileError: It is a file of own modules with a statement that cannot be collected.
    """
    mine = given(name)
    text = mine.text if mine else inspect.getsource(importlib.import_module(name))
    title = f"{mine.name} ({mine.digest})" if mine else name.removeprefix(PACKAGE)
    file = SourceFile(name, title, text.splitlines(), ast.parse(text).body)
    last = 0
    for place, statement in enumerate(file.statements):
        if file.is_own and statement.lineno == last:
            raise file.problem(last, "two statements are on one line")
        last = int(statement.end_lineno or statement.lineno)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            _read_import(file, statement)
            continue
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING" and not file.is_own:
            for inner in statement.body:
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    _read_import(file, inner)
            continue
        for defined in defines(statement):
            file.defined.setdefault(defined, []).append(place)
        if file.is_own and _acts(file, statement):
            file.always.append(place)
    return file


def _read_import(file: SourceFile, statement: ast.Import | ast.ImportFrom) -> None:
    source = str(statement.module) if isinstance(statement, ast.ImportFrom) else ""
    if isinstance(statement, ast.ImportFrom) and (statement.level or statement.names[0].name == "*"):
        raise file.problem(statement.lineno, "it imports from its own folder, or *")
    for alias in statement.names:
        bound = alias.asname or alias.name.split(".")[0]
        inner = f"{source}.{alias.name}"
        if source == "nas":
            file.ours[bound] = file.published(alias.name, statement.lineno)
        elif source.startswith("nas."):
            file.ours[bound] = (inner, "") if is_module(inner) else (source, alias.name)
        elif alias.name == "nas":
            file.whole.add(bound)
        elif file.is_own and bound == "nas":
            raise file.problem(statement.lineno, f"it imports {alias.name}; `import nas` has what own modules may use")
        else:
            one = type(statement)(**{**vars(statement), "names": [alias]})
            file.imports.setdefault(bound, []).append(ast.unparse(one))


def _acts(file: SourceFile, statement: ast.stmt) -> bool:
    """Return whether a statement of an own file has side effects, in addition to what it defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign):
        return False
    if isinstance(statement, ast.Expr):
        value = statement.value
        registers = isinstance(value, ast.Call) and file.drops(value.func)
        return not (isinstance(value, ast.Constant) or registers)
    return "__main__" not in ast.unparse(statement.test) if isinstance(statement, ast.If) else True


@cache
def is_module(name: str) -> bool:
    """Return whether a dotted name is a module, rather than a name in one."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def defines(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        if statement.name != "_":
            yield statement.name
        return
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif isinstance(child, ast.Tuple | ast.List):
            yield from (n.id for n in child.elts if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in child.names)
        elif isinstance(child, ast.stmt | ast.excepthandler):
            yield from defines(child)  # type: ignore[arg-type]  # a handler has statements as a statement has


def subject(statement: ast.stmt) -> str:
    """Return the definition that a statement completes, such as the operator of a gradient; empty if none."""
    call: ast.expr
    if isinstance(statement, ast.FunctionDef) and statement.name == "_" and statement.decorator_list:
        call = statement.decorator_list[0]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
    elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute | ast.Subscript):
        base = statement.targets[0].value
        return base.id if isinstance(base, ast.Name) else ""
    else:
        return ""
    function = call.func if isinstance(call, ast.Call) else call
    if isinstance(function, ast.Attribute):
        return function.value.id if isinstance(function.value, ast.Name) else ""
    arguments = call.args if isinstance(call, ast.Call) else []
    return next((a.id for a in arguments if isinstance(a, ast.Name)), "")


def is_text(statement: ast.stmt | None) -> bool:
    """Return whether a statement is nothing but a string."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
