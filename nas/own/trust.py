"""Consent to run the Python code that came with a study: given once, kept in the cache by the code's full SHA-256.

A study holds the texts of its own modules, so resuming it, joining it or emitting from it would run what somebody else
may have written. Files that the user names himself (``--modules``, a space file with ``modules:``) are his choice: they
are trusted when they are read, so that he is not asked about his own studies.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from nas.errors import TrustError
from nas.files import cache_dir, write_atomic
from nas.own.files import ModuleFile

_given = False
"""Whether ``--trust`` was given to the command that runs."""


@contextlib.contextmanager
def given() -> Iterator[None]:
    """Let ``--trust`` be given while a command runs."""
    global _given
    before, _given = _given, True
    try:
        yield
    finally:
        _given = before


def digest_of(file: ModuleFile) -> str:
    """Return the SHA-256 of a file's name and text, 64 hex digits."""
    return hashlib.sha256(f"{file.name}\0{file.text}".encode("utf-8", "surrogatepass")).hexdigest()


def is_trusted(file: ModuleFile) -> bool:
    """Return whether the user has said that a file may run."""
    return _answer(file).is_file()


def trust_files(files: Sequence[ModuleFile]) -> None:
    """Keep the answer that files may run; skip it if the cache cannot be written."""
    for file in files:
        with contextlib.suppress(OSError):
            if not is_trusted(file):
                write_atomic(_answer(file), f"{file.name}\n")


def check_trusted(files: Sequence[ModuleFile], whose: str) -> None:
    """Check that the user trusts the module files that came with a study; nothing is imported.

    Args:
        files: The files.
        whose: What they came with, for the message.

    Raises:
        TrustError: The user has not said that they may run. The message names them; copies to read are in the cache.
    """
    unknown = [file for file in files if not is_trusted(file)]
    if not unknown:
        return
    if _given:
        trust_files(unknown)
        return
    listed = "\n".join(
        f"  {file.name}, {len(file.text.splitlines())} lines, SHA-256 {digest_of(file)[:32]}{_copy_to_read(file)}"
        for file in unknown
    )
    raise TrustError(
        f"{whose} brings Python code of own modules, which this command would run on this machine:\n{listed}\n"
        "read it; if you trust those who wrote it, repeat the command with --trust (the answer is kept)"
    )


def _copy_to_read(file: ModuleFile) -> str:
    """Write a copy that cannot be imported, and return where it is, for the message."""
    path = cache_dir() / "untrusted" / f"{Path(file.stem).name}-{digest_of(file)[:32]}.txt"
    try:
        write_atomic(path, file.text.encode("utf-8", "replace"))
    except OSError:
        return ""
    return f", to read: {path}"


def _answer(file: ModuleFile) -> Path:
    return cache_dir() / "trusted" / digest_of(file)
