"""Lock files between processes of one machine. The system releases a lock when its process ends, even by SIGKILL."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import threading
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


# ---- locks of which a stopped process is deprived -------------------------------------------------------------------

BEAT_S = 5.0
"""Seconds between two signs of life of a process that holds a `Lease`."""
LEASE_S = 60.0
"""Seconds without a sign of life after which others take a lease: its process is stopped, or its machine sleeps."""


class Watch:
    """Measures by this process's own clock for how long a value of another process has not changed.

    Time in which nobody looked does not count: this process may have been stopped itself.
    """

    def __init__(self) -> None:
        self._seen: dict[object, tuple[object, float, float]] = {}

    def __len__(self) -> int:
        """Return how many values have been seen."""
        return len(self._seen)

    def seconds_still(self, key: object, value: object, gap: float) -> float:
        """Record a value, and return for how many seconds it has been seen unchanged.

        Args:
            key: What the value is of.
            value: The value.
            gap: Seconds between two looks above which the count starts again.
        """
        now = time.monotonic()
        before = self._seen.get(key)
        if before is None or before[0] != value or now - before[2] > gap:
            self._seen[key] = (value, now, now)
            return 0.0
        self._seen[key] = (value, before[1], now)
        return now - before[1]


def life_of(path: Path) -> object:
    """Return what changes with each sign of life of the process that holds a lock file; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


class Lease:
    """A lock on a file that is lost by who gives no sign of life: a stopped process, which the system keeps its locks.

    A process that holds it touches the file every `BEAT_S`. Who waits sees that the file is not touched for `LEASE_S`,
    and puts a new file in its place; the lock on the old one is worth nothing then. So a holder has to ask `is_kept`
    before it relies on what it has done, as it may have been stopped meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._watch = Watch()
        self._over = threading.Event()

    def try_acquire(self) -> bool:
        """Take the lease, also from a process that gives no sign of life, and return whether that succeeded.

        Raises:
            LockError: The file cannot be written.
        """
        file = open_lock(self.path)
        if try_lock(file) and self._is_current(file):
            self._file = file
            threading.Thread(target=self._beat, args=(file, self._over), daemon=True).start()
            return True
        life = life_of(self.path)
        file.close()
        if life is not None and self._watch.seconds_still(self.path, life, LEASE_S / 2) >= LEASE_S:
            self._deprive(life)
        return False

    @property
    def is_kept(self) -> bool:
        """Whether this process, which has acquired it, has not been deprived of it."""
        return self._file is not None and self._is_current(self._file)

    def release(self) -> None:
        """Release the lease."""
        self._over.set()
        self._over = threading.Event()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _is_current(self, file: Any) -> bool:
        """Return whether an open file is still the one of the path."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: it has been closed
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        return False

    def _beat(self, file: Any, over: threading.Event) -> None:
        while self._is_current(file):
            with contextlib.suppress(OSError):
                os.utime(self.path)
            if over.wait(BEAT_S):
                return

    def _deprive(self, life: object) -> None:
        """Remove the file of a process that gives no sign of life, unless it or another has given one meanwhile."""
        with open_lock(self.path.with_name(f"{self.path.name}.taking")) as guard:  # one at a time may do so
            if try_lock(guard) and life_of(self.path) == life:
                with contextlib.suppress(OSError):  # on Windows an open file cannot be removed: it has to be waited for
                    self.path.unlink()


@contextlib.contextmanager
def leased(path: Path, patience: float) -> Iterator[Lease]:
    """Wait for a lease and hold it.

    Args:
        path: The lock file.
        patience: Timeout in seconds; more than `LEASE_S`, so that a stopped process is noticed before.

    Raises:
        LockError: Living processes held it until the timeout, or it cannot be written.
    """
    until = time.monotonic() + patience
    lease = Lease(path)
    while not lease.try_acquire():
        if time.monotonic() > until:
            raise LockError(f"another process has held {path} for {patience:.0f} s; is one stopped, or hanging?")
        time.sleep(random.uniform(0.002, 0.01))
    try:
        yield lease
    finally:
        lease.release()


def private_folder(parent: Path, name: str) -> Path:
    """Make a folder that is removed when this process ends, and remove those of processes that were killed.

    Raises:
        OutputError: It cannot be made.
        LockError: The lock beside it cannot be taken.
    """
    mine = parent.absolute() / name
    with leased(parent / ".lock", 2 * LEASE_S):
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
