"""User modules: Python files of the user, imported as ``nas.own.NAME_DIGEST``.

``nas.own.my_block_1a2b3c4d`` is the file ``my_block.py`` whose text has a SHA-256 with this prefix. Checkpoints store
their classes under this path, so a model is always loaded with the code that it was trained with: an edited file is a
new module, and two files of the same name are two modules. The text is taken from the study, the training job or
`nas.load_modules`; otherwise from the copy in the cache; otherwise from a file with this name and content in a folder
of NAS_MODULES, in the current folder, or on Python's path.

Importing a file registers the classes that it decorates with ``@nas.module(...)``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from nas.errors import ModuleFileError
from nas.files import cache_dir, write_atomic
from nas.import_hook import register_now, try_register
from nas.own.files import AT_HAND, OWN, REGISTERED, ModuleFile, from_files, read_file
from nas.own.trust import check_trusted, trust_files

if TYPE_CHECKING:
    from nas.ops.registry import Entry

_NAME = re.compile(rf"{re.escape(OWN)}\.(?P<stem>[A-Za-z_]\w*)_(?P<digest>[0-9a-f]{{8}})")


def load_modules(*paths: str | Path) -> None:
    """Load Python files whose classes are decorated with ``@nas.module(...)``, and register these.

    Args:
        paths: The files. Each is self-contained, except for installed packages.

    Raises:
        ModuleFileError: A file cannot be read, fails, registers nothing, or registers a name that is taken.
        HostError: Ultralytics has a module with that name.
    """
    files = [read_file(Path(path)) for path in paths]
    use(files)
    trust_files(files)


def own_modules_lacking(text: str) -> list[str]:
    """Return the file names of own modules that an emitted file names and that are not imported; it imports none."""
    named = {match[0]: f"{match['stem']}.py" for match in _NAME.finditer(text)}
    return sorted({file for import_name, file in named.items() if import_name not in REGISTERED})


def use_stored(files: Sequence[ModuleFile], whose: str) -> None:
    """Import the module files that came with a study, as `use`, if the user trusts them.

    Args:
        files: The files.
        whose: What they came with, for the message.

    Raises:
        TrustError: The user has not said that they may run.
        ModuleFileError: As `use`.
    """
    check_trusted(files, whose)
    use(files)


def use(files: Sequence[ModuleFile]) -> None:
    """Import files and register their modules, in place of any with the same names and other content.

    Raises:
        ModuleFileError: A file fails, registers nothing, or registers a name that is taken.
    """
    for file in files:
        AT_HAND[file.import_name] = file
        importlib.import_module(file.import_name)
        keep_copy(file)
        _put(REGISTERED[file.import_name])
    _check_distinct(files)
    tasks = sys.modules.get("ultralytics.nn.tasks")
    if files and tasks is not None:
        register_now()


def keep_copy(file: ModuleFile) -> None:
    """Keep a copy in the cache, for checkpoints that are loaded later; skip it if the cache cannot be written."""
    path = _copy_of(file.import_name)
    with contextlib.suppress(OSError):
        if not path.exists():
            write_atomic(path, file.text)


def _copy_of(import_name: str) -> Path:
    return cache_dir() / "modules" / f"{import_name.rpartition('.')[2]}.py"


def _put(entries: dict[str, Entry]) -> None:
    from nas.ops import registry

    for entry in entries.values():
        registry.replace(entry)


def _check_distinct(files: Sequence[ModuleFile]) -> None:
    """Raise ModuleFileError if two files have the same name, or register the same module."""
    owners: dict[str, ModuleFile] = {}
    names: dict[str, ModuleFile] = {}
    for file in files:
        if names.setdefault(file.name, file).text != file.text:
            raise ModuleFileError(f"two files are called {file.name}: rename one of them")
        for module in REGISTERED[file.import_name]:
            if owners.setdefault(module, file) != file:
                raise ModuleFileError(
                    f"{owners[module].name} and {file.name} both register {module}: rename one of them"
                )


class _Finder(importlib.abc.MetaPathFinder):
    """Finds ``nas.own.NAME_DIGEST``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        match = _NAME.fullmatch(fullname)
        if match is None:
            return None
        file = AT_HAND.get(fullname) or _found(fullname, match["stem"])
        return importlib.machinery.ModuleSpec(fullname, _Loader(file), origin=file.label)


def _found(import_name: str, stem: str) -> ModuleFile:
    """Find a file by name and content.

    Raises:
        ModuleFileError: It is not found. A ModuleNotFoundError would make Ultralytics search a package index for it.
    """
    others = []
    for path in _places(import_name, stem):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            file = ModuleFile(f"{stem}.py", path.read_text(encoding="utf-8-sig"))
            if file.import_name == import_name:
                AT_HAND[import_name] = file
                keep_copy(file)
                return file
            others.append(f"{path} has other content ({file.digest})")
    raise ModuleFileError(
        f"{import_name} is the file {stem}.py whose SHA-256 starts with {import_name[-8:]}, and it is not here"
        + "".join(f"; {other}" for other in others)
        + "; put it into the current folder, or name its folder in NAS_MODULES"
    )


def _places(import_name: str, stem: str) -> Iterator[Path]:
    yield _copy_of(import_name)
    named = [part for part in os.environ.get("NAS_MODULES", "").split(os.pathsep) if part]
    for folder in dict.fromkeys([*named, "", *sys.path]):
        path = Path(folder) / f"{stem}.py"
        if path.is_file():
            yield path


class _Loader(importlib.abc.InspectLoader):
    """Runs a file's text and records the modules that it registers."""

    def __init__(self, file: ModuleFile) -> None:
        self.file = file

    def get_source(self, fullname: str) -> str:
        return self.file.text

    def get_code(self, fullname: str) -> CodeType:
        try:
            return compile(self.file.text, self.file.label, "exec", dont_inherit=True)
        except SyntaxError as error:
            line = f":{error.lineno}" if error.lineno else ""
            raise ModuleFileError(f"{self.file.name}{line}: {error.msg}") from None
        except ValueError as error:  # a null byte
            raise ModuleFileError(f"{self.file.name}: {error}") from None

    def exec_module(self, module: ModuleType) -> None:
        from nas.ops import registry

        file = self.file
        lines = file.text.splitlines(keepends=True)
        linecache.cache[file.label] = (len(file.text), None, lines, file.label)
        module.__file__ = file.label
        before = registry.entries()
        ours = {name: entry for name, entry in before.items() if name in from_files()}
        for name in ours:  # one with other content may take the name
            registry.drop(name)
        try:
            exec(self.get_code(module.__name__), module.__dict__)
        except ModuleFileError:
            raise
        except Exception as error:  # the file can raise anything
            raise ModuleFileError(_explained(file, error)) from error
        finally:
            kept = {name: entry for name, entry in before.items() if name not in ours}
            mine = {n: e for n, e in registry.entries().items() if kept.get(n) is not e}
            for name in mine:
                registry.drop(name)
            _put(ours)
        lost = [
            n for n, e in mine.items() if e.cls.__module__ == module.__name__ and getattr(module, n, None) is not e.cls
        ]
        if lost:
            raise ModuleFileError(
                f"{file.name}: {lost[0]} is not at the top level of the file under its own name, where checkpoints "
                "would look for it"
            )
        if not mine:
            raise ModuleFileError(f"{file.name} registers no module: decorate its class with @nas.module(...)")
        REGISTERED[module.__name__] = mine
        _put(mine)
        try_register(ended=module.__name__)


def _explained(file: ModuleFile, error: Exception) -> str:
    """Return the text of an error in a file, with its line."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file.label]
    where = f"{file.name}:{lines[-1]}" if lines else file.name
    return f"{where}: {type(error).__name__}: {error}"


if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())
