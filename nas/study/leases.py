"""Leases: which worker has which trial, and which workers are gone.

Any number of processes can work on one study. What each of them does next follows from what the study holds, so
looking, choosing and claiming have to be one step: `Leases.alone`. A claimed trial belongs to its worker until it ends,
or until the worker is gone; then another takes it over.

On one machine a worker is there as long as its lock file is held, which goes with its process at once. Beyond one
machine it is there as long as the number that it counts up beside its trial goes on. Whoever looks on measures by their
own clock how long it has stood still while they could see it, so neither clocks that differ nor a server that was away
make a worker look dead.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import sqlalchemy
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from nas.errors import LockError
from nas.locks import awaited, is_free, try_lock
from nas.study.location import StudyLocation
from nas.study.storage import server_engine, translate_errors, with_retry

BEAT_S = 15.0
"""How often a worker counts on beside each trial that it has, where its study lives on a server."""
GRACE_S = 120.0
"""How long a worker's count may stand still until its trials are taken over."""
_LOCK_WAIT_S = 120.0
"""How long a worker waits for its turn to claim something."""


class LeaseLost(LockError):
    """A turn did not come, or may not have been alone, so that what was claimed in it may be another's too."""


class Leases(Protocol):
    """One process's part in a study's leases.

    Attributes:
        owner: What its trials are known by; of no other process, past or present.
    """

    owner: str

    def alone(self) -> AbstractContextManager[None]:
        """Be the only one that claims trials of the study, after waiting for that.

        Raises:
            LockError: It takes too long.
            LeaseLost: At the end, when it is not certain that no other was let in.
        """

    def is_gone(self, trial: int, owner: str, beat: int) -> bool:
        """Whether the worker that has a trial is gone.

        Args:
            trial: The storage's id of the trial.
            owner: Who has it; empty in studies that are older than leases.
            beat: What that has counted to.
        """

    def are_others(self) -> bool:
        """Whether other processes work on the study, or may; call it within `alone`."""

    def keep(self, trial: int) -> None:
        """Begin to count for a trial that this process has claimed."""

    def release(self, trial: int) -> None:
        """End that."""


def leases_of(where: StudyLocation, count: Callable[[int, int], None], look: Callable[[], Mapping[int, int]]) -> Leases:
    """Return this process's part in the leases of a study.

    Args:
        where: The study's place.
        count: Stores for a trial (the storage's id) what has been counted to.
        look: Returns for every trial that some worker has what that has counted to.
    """
    return ServerLeases(where, count, look) if where.server else FileLeases(where)


@contextlib.contextmanager
def alone_at(where: StudyLocation) -> Iterator[None]:
    """Be the only one that claims trials of a study, or makes it; see `Leases.alone`."""
    if not where.server:
        with awaited(where.workers / "turn", _LOCK_WAIT_S):
            yield
        return
    with contextlib.ExitStack() as stack:
        with translate_errors(where):
            connection = with_retry(where, lambda: _server_lock(where))
            stack.callback(_hang_up, connection)
        yield
        try:  # a server that lost this connection has let another one in
            connection.execute(sqlalchemy.text("SELECT 1"))
        except SQLAlchemyError:
            raise LeaseLost(f"the connection to {where.shown} was lost") from None


def _server_lock(where: StudyLocation) -> sqlalchemy.Connection:
    """Wait for the study's lock on the server, which goes with the connection, and return that."""
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


def _hang_up(connection: sqlalchemy.Connection) -> None:
    with contextlib.suppress(SQLAlchemyError):
        connection.close()


def _new_owner() -> str:
    """Return a name for this process that no other has: machine, process, and what chance gives."""
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class FileLeases:
    """Leases of a study in a file: the workers are on one machine, and each holds a lock file as long as it lives."""

    def __init__(self, where: StudyLocation) -> None:
        """Begin to hold a lock file.

        Raises:
            LockError: It cannot be written.
        """
        self._where = where
        self._folder = where.workers
        self._mine: set[int] = set()
        self.owner = _new_owner()
        path = self._lock_of(self.owner)
        with self.alone():  # so that nobody looks at it before it is held, and takes it for a dead one's
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._held = open(path, "w", encoding="utf-8")  # noqa: SIM115  # for the life of the process
            except OSError as error:
                raise LockError(f"cannot write {path}: {error.strerror or error}") from None
            try_lock(self._held)
        atexit.register(path.unlink, missing_ok=True)

    def _lock_of(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"

    def alone(self) -> AbstractContextManager[None]:
        """See `Leases`."""
        return alone_at(self._where)

    def is_gone(self, trial: int, owner: str, beat: int) -> bool:
        """See `Leases`; call it within `alone`."""
        del beat  # the lock file says it all
        if owner == self.owner:
            return trial not in self._mine  # nobody handles it any more
        path = self._lock_of(owner)
        gone = not owner or not path.exists() or is_free(path)
        if gone and owner:
            path.unlink(missing_ok=True)
        return gone

    def keep(self, trial: int) -> None:
        """See `Leases`: there is nothing to count."""
        self._mine.add(trial)

    def release(self, trial: int) -> None:
        """See `Leases`."""
        self._mine.discard(trial)

    def are_others(self) -> bool:
        """See `Leases`."""
        mine = self._lock_of(self.owner)
        return any(path != mine and not is_free(path) for path in self._folder.glob("*.lock"))


@dataclass
class _Seen:
    """What an onlooker has seen of a count, by its own clock in seconds."""

    beat: int
    since: float
    last: float


class ServerLeases:
    """Leases of a study on a server: each worker counts beside its trials, and watches how others do."""

    def __init__(
        self, where: StudyLocation, count: Callable[[int, int], None], look: Callable[[], Mapping[int, int]]
    ) -> None:
        self._where, self._count, self._look = where, count, look
        self.owner = _new_owner()
        self._mine: dict[int, int] = {}
        self._seen: dict[int, _Seen] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def alone(self) -> AbstractContextManager[None]:
        """See `Leases`."""
        return alone_at(self._where)

    def is_gone(self, trial: int, owner: str, beat: int) -> bool:
        """See `Leases`."""
        if owner == self.owner:
            with self._lock:
                return trial not in self._mine  # made, and not heard of: the connection was lost between
        return self._stands_still(trial, beat) >= GRACE_S

    def are_others(self) -> bool:
        """See `Leases`: it cannot be known."""
        return True

    def _stands_still(self, trial: int, beat: int) -> float:
        """Note what a count has come to; return for how many seconds it has been seen to stand still."""
        now = time.monotonic()
        with self._lock:
            seen = self._seen.get(trial)
            if seen is None or seen.beat != beat or now - seen.last > GRACE_S / 2:  # it may have counted unseen
                self._seen[trial] = _Seen(beat, now, now)
                return 0.0
            seen.last = now
            return now - seen.since

    def keep(self, trial: int) -> None:
        """See `Leases`."""
        with self._lock:
            self._mine[trial] = 0
            if self._thread is None:
                self._thread = threading.Thread(target=self._go_on_counting, daemon=True)
                self._thread.start()

    def release(self, trial: int) -> None:
        """See `Leases`."""
        with self._lock:
            self._mine.pop(trial, None)

    def _go_on_counting(self) -> None:
        while True:
            time.sleep(BEAT_S)
            with self._lock:
                for trial in self._mine:
                    self._mine[trial] += 1
                counted = dict(self._mine)
            for trial, beat in counted.items():
                # Whatever goes wrong passes, or shows where the trial's end is stored; a thread that died of it would
                # let a living worker look dead.
                with contextlib.suppress(Exception):
                    self._count(trial, beat)
            with contextlib.suppress(Exception):  # who is busy for an hour still sees who is gone
                for trial, beat in self._look().items():
                    self._stands_still(trial, beat)
