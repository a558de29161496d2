"""Lock files between processes of one machine. The system releases a lock when its process ends, even by SIGKILL."""

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
    """Hold a lock file that contains the PID of this process.

    Args:
        path: The lock file.
        what: What it protects, for the message.
        hint: How to proceed when another process holds it, for the message.

    Raises:
        LockError: Another process holds it, or it cannot be written.
    """
    with open_lock(path) as file:
        if not try_lock(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise LockError(f"another search works on {what} (process {holder}); {hint}")
        try:
            file.truncate(0)
            os.write(file.fileno(), str(os.getpid()).encode())  # unbuffered: closing would try a failed write again
        except OSError as error:
            raise LockError(f"cannot write {path}: {error.strerror or error}") from None
        yield
        file.truncate(0)


@contextlib.contextmanager
def awaited(path: Path, patience: float) -> Iterator[None]:
    """Wait for a lock file and hold it.

    Args:
        path: The lock file.
        patience: Timeout in seconds.

    Raises:
        LockError: Other processes held it until the timeout, or it cannot be written.
    """
    until = time.monotonic() + patience
    with open_lock(path) as file:
        while not try_lock(file):
            if time.monotonic() > until:
                raise LockError(f"another process has held {path} for {patience:.0f} s; is one stopped, or hanging?")
            time.sleep(random.uniform(0.002, 0.01))
        yield


def private_folder(parent: Path, name: str) -> Path:
    """Make a folder that is removed when this process ends, and remove those of processes that were killed.

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
        file = open_lock(mine / ".lock")
        try_lock(file)
    atexit.register(_remove, mine, file)
    return mine


def is_free(path: Path) -> bool:
    """Return whether no process holds a lock file."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            return try_lock(file)
    except OSError:  # it cannot be opened, so whether it is held is unknown
        return False


def _remove(folder: Path, lock: Any) -> None:
    lock.close()
    shutil.rmtree(folder, ignore_errors=True)


def open_lock(path: Path) -> Any:
    """Open a lock file for `try_lock`; closing it releases the lock.

    Raises:
        LockError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise LockError(f"cannot write {path}: {error.strerror or error}") from None


# Not the filelock package. Under SIGKILL, between racing processes and with child processes it is as good, but what its
# releases do to the file differs, and on one machine several of them can work on one study (two virtual environments):
# - 3.12 to 3.29 truncate the file at each attempt, so the holder's PID is lost to the first process that is refused;
# - 3.21 to 3.29 delete the file on release: with another release, or an older version of this tool, that waits on the
#   deleted file, two processes hold the lock at once (measured: 21 of 2,957 turns of three racing processes).
def try_lock(file: Any) -> bool:
    """Take an exclusive lock on an open file and return whether that succeeded, without waiting."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(2**30)  # far beyond the content: a locked byte cannot be read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]  # Windows
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
