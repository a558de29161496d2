"""Locks between processes of one machine. Each goes with its process, however that ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas.errors import LockError, OutputError


@contextlib.contextmanager
def held(path: Path, what: str, hint: str = "let it end first") -> Iterator[None]:
    """Hold a lock file, with the number of this process in it.

    Args:
        path: The lock file.
        what: What it stands for, for the message.
        hint: What to do where another one holds it.

    Raises:
        LockError: Another process holds it, or it cannot be written.
    """
    with _opened(path) as file:
        if not try_lock(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise LockError(f"another search works on {what} (process {holder}); {hint}")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


@contextlib.contextmanager
def awaited(path: Path, patience: float) -> Iterator[None]:
    """Hold a lock file, waiting for it.

    Args:
        path: The lock file.
        patience: Seconds to wait at most.

    Raises:
        LockError: Another process holds it all the time, or it cannot be written.
    """
    until = time.monotonic() + patience
    with _opened(path) as file:
        while not try_lock(file):
            if time.monotonic() > until:
                raise LockError(f"another process has held {path} for {patience:.0f} s; is one stopped, or hanging?")
            time.sleep(random.uniform(0.002, 0.01))
        yield


def private_folder(parent: Path, name: str) -> Path:
    """Make a folder for the life of this process, and remove those of processes that are gone.

    Raises:
        OutputError: It cannot be made.
        LockError: The lock beside it cannot be taken.
    """
    mine = parent.absolute() / name
    with awaited(parent / ".lock", 60.0):
        for other in parent.iterdir():
            lock = other / ".lock"
            if other != mine and lock.exists() and is_free(lock):
                shutil.rmtree(other, ignore_errors=True)
        try:
            mine.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {mine}: {error.strerror or error}") from None
        file = _opened(mine / ".lock")
        try_lock(file)
    atexit.register(_remove, mine, file)
    return mine


def is_free(path: Path) -> bool:
    """Whether nobody holds a lock file."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            return try_lock(file)
    except OSError:  # held so that nobody else may open it
        return False


def _remove(folder: Path, lock: Any) -> None:
    lock.close()
    shutil.rmtree(folder, ignore_errors=True)


def _opened(path: Path) -> Any:
    """Open a lock file.

    Raises:
        LockError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise LockError(f"cannot write {path}: {error.strerror or error}") from None


def try_lock(file: Any) -> bool:
    """Take an exclusive lock on an open file, without waiting."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(2**30)  # far behind the content: a locked byte cannot be read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]  # Windows
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
