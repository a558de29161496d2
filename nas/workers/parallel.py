"""Parallel trainings: a thread for each training process, and a lock for each device."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol, TypeVar


class Member(Protocol):
    """Can be stopped from another thread at any time."""

    def kill(self) -> None:
        """Stop for good; a caller that waits for it gets an error."""


M = TypeVar("M", bound=Member)


def run_parallel(members: Sequence[M], do: Callable[[M, threading.Event], None]) -> None:
    """Run `do` for every member in parallel; the first error, or Ctrl-C, stops all of them.

    Args:
        members: The members; a single one runs in this thread.
        do: Its work; it ends early when the event is set.

    Raises:
        BaseException: The first error.
    """
    stop = threading.Event()
    if len(members) == 1:
        return do(members[0], stop)
    with ThreadPoolExecutor(len(members)) as pool:
        try:
            futures = [pool.submit(do, member, stop) for member in members]
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            for member in members:
                member.kill()
            raise
    return None


class DeviceLock:
    """A readers-writer lock of one device: trainings share it, or one training has it exclusively.

    A training that waits for exclusive use goes before others that would share.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._entered = 0
        self._waiting = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[Callable[[], bool]]:
        """Share the device; gives a function that returns whether there has been another training meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)
            before = self._entered
            others = self._inside
            self._inside += 1
            self._entered += 1
        try:
            yield lambda: others > 0 or self._entered > before + 1
        finally:
            self._leave()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Use the device with no other training on it."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._inside)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._waiting -= 1
            self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()
