"""The Python files of own modules: their texts in this process, and the modules that each has registered.

`nas.own` imports them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import ModuleFileError

if TYPE_CHECKING:
    from nas.ops.registry import Entry

OWN = "nas.own"
"""The package below which they are imported."""


@dataclass(frozen=True)
class ModuleFile:
    """A Python file with modules of the user.

    Attributes:
        name: File name, such as ``my_block.py``.
        text: Its content, with plain line ends.
    """

    name: str
    text: str

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.name.removesuffix(".py")

    @property
    def digest(self) -> str:
        """The first 8 hex digits of the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]

    @property
    def import_name(self) -> str:
        """Its import name, such as ``nas.own.my_block_1a2b3c4d``."""
        return f"{OWN}.{self.stem}_{self.digest}"

    @property
    def label(self) -> str:
        """Its name in tracebacks."""
        return f"<{self.name} {self.digest}>"


AT_HAND: dict[str, ModuleFile] = {}
"""Files whose text is known to this process, by import name."""
REGISTERED: dict[str, dict[str, Entry]] = {}
"""The modules that each imported file has registered, by import name and module."""


def read_file(path: Path) -> ModuleFile:
    """Read a file; it is not imported.

    Raises:
        ModuleFileError: It cannot be read, or Python cannot import a file with its name.
    """
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ModuleFileError(f"{path}: expected a Python file whose name can be imported, such as my_block.py")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModuleFileError(f"cannot read {path}: {error}") from None
    return ModuleFile(path.name, text)


def given(import_name: str) -> ModuleFile | None:
    """Return a file whose text is known to this process, by its import name."""
    return AT_HAND.get(import_name)


def files_of(modules: Sequence[str]) -> tuple[ModuleFile, ...]:
    """Return the files that the registered modules of these names come from, by file name; built-in ones have none."""
    from nas.ops import registry

    known = registry.entries()
    found = {
        name: AT_HAND[name]
        for module in modules
        for name, entries in REGISTERED.items()
        if module in entries and entries[module] is known.get(module)
    }
    return tuple(sorted(found.values(), key=lambda file: file.name))


def file_differences(ours: Sequence[ModuleFile], theirs: Sequence[ModuleFile]) -> list[str]:
    """Return how two lists of files differ, one line per file."""
    mine, other = ({file.name: file.digest for file in files} for files in (ours, theirs))
    return [
        f"modules: {name} was {mine.get(name, 'not there')}, is {other.get(name, 'not there')} now"
        for name in sorted({*mine, *other})
        if mine.get(name) != other.get(name)
    ]


def from_files() -> frozenset[str]:
    """Return the names of the registered modules that come from own files."""
    from nas.ops import registry

    known = registry.entries()
    return frozenset(n for entries in REGISTERED.values() for n, e in entries.items() if known.get(n) is e)
