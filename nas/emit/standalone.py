"""Assembles modules into one Python file that does not need this package, by tree shaking.

The file has the definitions of `nas.ops` that the given modules use, directly or indirectly, with their comments, each
after what it needs at import. Imports of this package are dropped; private names get their file's name as prefix, so
that none shadows another; CUDA sources become strings. Operators get a separate namespace, so that the file and this
package can be imported together.

Files of own modules are treated in the same way, including statements with side effects. Their names are kept; one with
two meanings in the assembled file is an error.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable

from nas.emit.source_file import PACKAGE, SourceFile, defines, is_text, read_source, subject
from nas.errors import ModuleFileError
from nas.ops import registry
from nas.ops.kernels import runtime
from nas.own.files import OWN
from nas.task.task import TASKS

_RUNTIME = "nas.ops.kernels.runtime"
_RESERVED = {task.host_trainer[1] for task in TASKS.values()} | {
    "Trainer",
    "counts_macs",
    "macs_rules",
    "register_modules",
    "_ANCHOR",
    "_BRANCH",
}
"""Names that a bundle's module file defines in addition to the modules."""

_SOURCE = '''@functools.cache
def source(name: str) -> str:
    """Return a CUDA source."""
    return _CUDA_SOURCES[name]'''
"""Replaces the function that reads the sources from files."""


class _Assembly:
    """Collects definitions from files. `meanings` has the meanings of each name of the assembled file."""

    def __init__(self) -> None:
        self.files: dict[str, SourceFile] = {}
        self.order: list[SourceFile] = []
        self.imports: set[str] = set()
        self.meanings: dict[str, dict[str, SourceFile]] = {}

    def file(self, name: str) -> SourceFile:
        """Return a file, read at first use; those that it imports come before it in `order`."""
        if name in self.files:
            return self.files[name]
        file = self.files[name] = read_source(name)
        sources = [source for source, _ in file.ours.values()] + (["nas.ops.registry"] if file.whole else [])
        for source in sources:
            self.file(source)
        self.order.append(file)
        for place in file.always:
            self._use(file, place)
        return file

    def need(self, file: SourceFile, name: str) -> None:
        """Collect the definition of `name` in a file, and everything that it uses."""
        if name in file.defined:
            for place in file.defined[name]:
                self._use(file, place)
        elif name in file.ours:
            source, inner = file.ours[name]
            if inner:
                self.need(self.file(source), inner)
        elif name in file.imports:
            self.imports.update(file.imports[name])
            meaning = f"import {name}" if f"import {name}" in file.imports[name] else file.imports[name][0]
            self.meanings.setdefault(name, {}).setdefault(meaning, file)

    def _use(self, file: SourceFile, place: int) -> None:
        if place in file.used:
            return
        file.used.add(place)
        statement = file.statements[place]
        for node in file.kept_nodes(statement):
            meaning = file.meaning(node)
            if isinstance(node, ast.Name):
                if file.is_own and (node.id == "__file__" or node.id in file.whole) and not _is_base(statement, node):
                    raise file.problem(node.lineno, f"it uses {node.id} itself")
                self.need(file, node.id)
            elif meaning:
                self.need(self.file(meaning[0]), meaning[1])
        # Statements that complete it: calls and registrations whose first argument it is.
        names = set(defines(statement))
        for name in names:
            self.meanings.setdefault(file.public(name), {}).setdefault(file.name, file)
        for other, candidate in enumerate(file.statements):
            if subject(candidate) in names and not _registers(file, candidate):
                self._use(file, other)

    def text(self, namespace: str) -> str:
        """Return the collected definitions.

        Raises:
            ModuleFileError: A name of an own file means something else in another one.
        """
        for name, meanings in self.meanings.items():
            files = sorted(meanings.values(), key=lambda file: file.is_own)
            if files[-1].is_own and (len(files) > 1 or name in _RESERVED):
                raise ModuleFileError(
                    f"{files[-1].title}: {name} means something else "
                    + (f"in {files[0].title}" if len(files) > 1 else "in the file of a bundle")
                    + ", and one file is to hold both: rename it"
                )
            assert len(files) == 1, (name, meanings)
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


def standalone_source(modules: Iterable[str]) -> str:
    """Return Python source that defines registered modules, with their kernels and costs, and imports no ``nas``.

    Args:
        modules: Names of registered modules. Those of Ultralytics are imported from there.

    Raises:
        ValueError: A module is not registered.
        ModuleFileError: The file of an own one cannot be assembled with others; the message says why.
    """
    assembly = _Assembly()
    for name in sorted(set(modules)):
        cls = registry.get(name).cls
        if cls.__module__.startswith((PACKAGE, f"{OWN}.")):
            assembly.need(assembly.file(cls.__module__), name)
        else:
            assembly.imports.add(f"from {cls.__module__} import {name}")
    assembly.need(assembly.file("nas.ops.registry"), "macs_rules")
    kernels = sorted(
        file.name.rpartition(".")[2]
        for file in assembly.order
        if file.name.startswith(f"{PACKAGE}functional.") and "Kernel" in file.ours and file.used
    )
    sources = "".join(f'    "{name}": r"""\n{runtime.source(name)}""",\n' for name in kernels)
    if kernels:
        sources = f"_CUDA_SOURCES = {{\n{sources}}}\n\n\n"
    assembly.imports.discard("from importlib import resources")  # by which the sources were read
    digest = hashlib.sha256((assembly.text("") + sources).encode()).hexdigest()[:8]
    imports = "\n".join(sorted(assembly.imports, key=lambda line: (line.startswith("from"), line)))
    text = f"{imports}\n\n{sources}{assembly.text(f'swapnas_{digest}')}"
    # How this package's extras are installed, and the same without it.
    text = re.sub(r"pip install 'swapnas\[cuda(\d+|\{major\})\]'", r"pip install 'cuda-core[cu\1]'", text)
    text = text.replace("'swapnas[cuda13]'", "'cuda-core[cu13]'")
    return re.sub(r"\bnas\.ops\.(?:\w+\.)*(\w+)", r"\1", text)


def _registers(file: SourceFile, statement: ast.stmt) -> bool:
    """Return whether a statement registers a class that is defined before it: ``nas.module(...)(MyBlock)``."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Call) and file.drops(value.func)


def _is_base(statement: ast.stmt, name: ast.Name) -> bool:
    """Return whether a name is followed by a dot."""
    return any(isinstance(node, ast.Attribute) and node.value is name for node in ast.walk(statement))


def _rewritten(assembly: _Assembly, file: SourceFile, place: int) -> str:
    """Return a statement's text with the names of the assembled file, and the string that documents a constant."""
    statement = file.statements[place]
    if file.name == _RUNTIME and list(defines(statement)) == ["source"]:
        return _SOURCE
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(d.lineno for d in decorators)])
    last = int(statement.end_lineno or statement.lineno)
    following = file.statements[place + 1] if place + 1 < len(file.statements) else None
    if isinstance(statement, ast.Assign | ast.AnnAssign) and is_text(following):
        last = int(following.end_lineno or last) if following else last
    edits: list[tuple[int, int, int, str]] = []
    for node in file.kept_nodes(statement):
        meaning = file.meaning(node) if isinstance(node, ast.Attribute) else None
        if meaning and isinstance(node, ast.Attribute):
            new = assembly.file(meaning[0]).public(meaning[1])
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
        if file.drops(decorator):
            for number in range(decorator.lineno, int(decorator.end_lineno or 0) + 1):
                lines.pop(number)
    return "\n".join(lines.values())


def _title(file: SourceFile) -> str:
    """Return a file's docstring as a comment: papers, origin, deliberate differences."""
    said = ast.get_docstring(ast.Module(file.statements, [])) or ""
    lines = [f"# ---- {file.title} ----", *(f"# {line}".rstrip() for line in said.splitlines())]
    return "\n".join(lines)


def _renamed(assembly: _Assembly, file: SourceFile, name: str) -> str:
    if name in file.defined:
        return file.public(name)
    source, inner = file.ours.get(name, ("", ""))
    return assembly.file(source).public(inner) if inner else name
