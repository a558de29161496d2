"""Leases: which worker runs which trial, and which workers are dead.

Any number of processes can work on one study. A worker reads the study, chooses its next step and claims a trial under
one lock, `Leases.claim_lock`, because the choice follows from what the study holds. It owns the trial until the trial
ends, or until its lease is stale; then another worker takes the trial over.

Studies in a file have all workers on one machine: each holds a lock file, which the system releases when its process
ends. A process that is stopped (SIGSTOP, a debugger) keeps its lock, so the file is touched as a heartbeat as well.
Studies on a server use heartbeats alone: a worker increments a counter of each of its trials. Observers measure with
their own clock for how long a heartbeat has not changed while they could read it, so neither different clocks, nor an
unreachable server, nor a laptop that slept make a living worker look dead.

What SQLite cannot do: a process that is stopped in the middle of a write to the file, which takes milliseconds, keeps
SQLite's own lock, and nobody can write until it continues or is killed. The others wait a minute, and then end with a
message that says so; the study can be resumed.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nas.errors import LockError
from nas.locks import Watch, is_free, leased, life_of, try_lock
from nas.study.location import StudyLocation
from nas.study.storage import server_engine, translate_errors, with_retry

if TYPE_CHECKING:
    import sqlalchemy

HEARTBEAT_S = 15.0
"""Seconds between heartbeats."""
GRACE_S = 120.0
"""Seconds without a heartbeat after which a lease is stale."""
_LOCK_WAIT_S = 120.0
"""Timeout in seconds of the claim lock."""


class LeaseLost(LockError):
    """The claim lock was not acquired in time, or was lost, so another worker may have claimed the same trial."""


class Leases(Protocol):
    """The leases of a study, as one process uses them.

    Attributes:
        owner: Unique ID of this process, stored with its trials.
    """

    owner: str

    def claim_lock(self) -> AbstractContextManager[None]:
        """Wait for the lock under which trials of the study are claimed, and hold it.

        Raises:
            LockError: Another process holds it until the timeout.
            LeaseLost: On exit: the connection was lost, so another process may have acquired it meanwhile.
        """

    def is_stale(self, trial: int, owner: str, beat: int) -> bool:
        """Return whether the worker that owns a running trial is dead.

        Args:
            trial: The storage's ID of the trial.
            owner: ID of the worker; empty in studies that are older than leases.
            beat: Its last heartbeat.
        """

    def has_others(self) -> bool:
        """Return whether other processes may be working on the study; call it within `claim_lock`."""

    def hold(self, trial: int) -> None:
        """Start the heartbeat of a trial that this process has claimed."""

    def release(self, trial: int) -> None:
        """Stop the heartbeat of a trial."""


def make_leases(
    where: StudyLocation, write_beat: Callable[[int, int], None], read_beats: Callable[[], Mapping[int, int]]
) -> Leases:
    """Return the leases of a study for this process.

    Args:
        where: Location of the study.
        write_beat: Stores the heartbeat of a trial (the storage's ID).
        read_beats: Returns the heartbeat of each running trial.
    """
    return ServerLeases(where, write_beat, read_beats) if where.server else FileLeases(where)


@contextlib.contextmanager
def claim_lock(where: StudyLocation) -> Iterator[None]:
    """Hold the lock under which trials of a study are claimed, and the study is created; see `Leases.claim_lock`."""
    if not where.server:
        with leased(where.workers / "turn", _LOCK_WAIT_S) as lease:
            yield
            if not lease.is_kept:  # this process was stopped meanwhile, and another took the lock
                raise LeaseLost(f"the lock of {where.shown} was lost, as this process was stopped")
        return
    with contextlib.ExitStack() as stack:
        with translate_errors(where):
            connection = with_retry(where, lambda: _server_lock(where))
            stack.callback(_close_quietly, connection)
        yield
        import sqlalchemy
        from sqlalchemy.exc import SQLAlchemyError

        try:  # if the server has lost this connection, it may have given the lock to another process
            connection.execute(sqlalchemy.text("SELECT 1"))
        except SQLAlchemyError:
            raise LeaseLost(f"the connection to {where.shown} was lost") from None


def _server_lock(where: StudyLocation) -> sqlalchemy.Connection:
    """Wait for the study's advisory lock, which the server releases with the connection, and return the connection."""
    import sqlalchemy
    from sqlalchemy.exc import OperationalError

    connection = server_engine(where).connect()
    key = int.from_bytes(hashlib.sha256(f"swapnas {where.name}".encode()).digest()[:8], "big", signed=True)
    try:
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S:.0f}s'"))
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
    except BaseException as error:
        connection.close()
        if isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", "") == _LOCK_NOT_AVAILABLE:
            raise LeaseLost(
                f"another process has held the study {where.name!r} of {where.shown} for {_LOCK_WAIT_S:.0f} s; is one "
                "stopped, or hanging?"
            ) from None
        raise
    return connection


_LOCK_NOT_AVAILABLE = "55P03"


def _close_quietly(connection: sqlalchemy.Connection) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    with contextlib.suppress(SQLAlchemyError):
        connection.close()


def _new_owner() -> str:
    """Return a unique ID of this process: host, PID and random digits."""
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _beat_while_held(leases: weakref.ref[FileLeases], path: Path) -> None:
    """Send the heartbeats of leases for as long as they are in use; the thread does not keep them in use."""
    while (held := leases()) and held.beat(path):
        del held
        time.sleep(HEARTBEAT_S)


class FileLeases:
    """Leases of a study in a file: all workers are on one machine, and each holds a lock file while it lives."""

    def __init__(self, where: StudyLocation) -> None:
        """Create the lock file of this process and hold it.

        Raises:
            LockError: It cannot be written.
        """
        self._where = where
        self._folder = where.workers
        self._mine: set[int] = set()
        self._watch = Watch()
        self.owner = _new_owner()
        path = self._lock_of(self.owner)
        with self.claim_lock():  # otherwise another could find the file before it is locked, and think its owner dead
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._held = open(path, "w", encoding="utf-8")  # noqa: SIM115  # for the life of the process
            except OSError as error:
                raise LockError(f"cannot write {path}: {error.strerror or error}") from None
            try_lock(self._held)
        atexit.register(path.unlink, missing_ok=True)
        threading.Thread(target=_beat_while_held, args=(weakref.ref(self), path), daemon=True).start()

    def _lock_of(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"

    def claim_lock(self) -> AbstractContextManager[None]:
        """See `Leases`."""
        return claim_lock(self._where)

    def is_stale(self, trial: int, owner: str, beat: int) -> bool:
        """See `Leases`; call it within `claim_lock`."""
        del beat  # the lock file is enough
        if owner == self.owner:
            return trial not in self._mine  # this process has abandoned it
        path = self._lock_of(owner)
        gone = not owner or not path.exists() or is_free(path)
        if gone and owner:
            path.unlink(missing_ok=True)
        return gone or self._seconds_still(path) >= GRACE_S

    def _seconds_still(self, path: Path) -> float:
        """Return for how many seconds this process has seen the lock file of another untouched."""
        return self._watch.seconds_still(path, life_of(path), GRACE_S / 2)

    def beat(self, path: Path) -> bool:
        """Touch the lock file of this process, and look at those of the others, as their trials may take hours.

        Returns:
            Whether this process still has it.
        """
        with contextlib.suppress(OSError):
            os.utime(path)
            for other in self._folder.glob("*.lock"):
                self._seconds_still(other)
        return not self._held.closed

    def hold(self, trial: int) -> None:
        """See `Leases`; the heartbeat is that of the process."""
        self._mine.add(trial)

    def release(self, trial: int) -> None:
        """See `Leases`."""
        self._mine.discard(trial)

    def has_others(self) -> bool:
        """See `Leases`."""
        mine = self._lock_of(self.owner)
        return any(path != mine and not is_free(path) for path in self._folder.glob("*.lock"))


class ServerLeases:
    """Leases of a study on a server: each worker writes heartbeats, and watches those of the others."""

    def __init__(
        self, where: StudyLocation, write_beat: Callable[[int, int], None], read_beats: Callable[[], Mapping[int, int]]
    ) -> None:
        self._where, self._write_beat, self._read_beats = where, write_beat, read_beats
        self.owner = _new_owner()
        self._mine: dict[int, int] = {}
        self._seen = Watch()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def claim_lock(self) -> AbstractContextManager[None]:
        """See `Leases`."""
        return claim_lock(self._where)

    def is_stale(self, trial: int, owner: str, beat: int) -> bool:
        """See `Leases`."""
        if owner == self.owner:
            with self._lock:
                return trial not in self._mine  # created, but the connection was lost before this process knew its ID
        return self._seconds_unchanged(trial, beat) >= GRACE_S

    def has_others(self) -> bool:
        """See `Leases`; on a server this cannot be known."""
        return True

    def _seconds_unchanged(self, trial: int, beat: int) -> float:
        """Record a heartbeat; return for how many seconds this process has seen it unchanged."""
        with self._lock:
            return self._seen.seconds_still(trial, beat, GRACE_S / 2)

    def hold(self, trial: int) -> None:
        """See `Leases`."""
        with self._lock:
            self._mine[trial] = 0
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat_forever, daemon=True)
                self._thread.start()

    def release(self, trial: int) -> None:
        """See `Leases`."""
        with self._lock:
            self._mine.pop(trial, None)

    def _beat_forever(self) -> None:
        while True:
            time.sleep(HEARTBEAT_S)
            with self._lock:
                for trial in self._mine:
                    self._mine[trial] += 1
                beats = dict(self._mine)
            for trial, beat in beats.items():
                # Any error is temporary, or is raised again where the trial's result is stored; if it ended this
                # thread, a living worker would look dead.
                with contextlib.suppress(Exception):
                    self._write_beat(trial, beat)
            with contextlib.suppress(Exception):  # so that a worker that trains for an hour still notices dead ones
                for trial, beat in self._read_beats().items():
                    self._seconds_unchanged(trial, beat)
