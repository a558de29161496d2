"""A crew: several trainings side by side, each in a process of its own, driven by a thread each."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol, TypeVar


class Member(Protocol):
    """Who can be made to stop from another thread, in the middle of what it does."""

    def kill(self) -> None:
        """End what it does, for good; whoever waits for it hears of a failure."""


M = TypeVar("M", bound=Member)


def run_parallel(members: Sequence[M], do: Callable[[M, threading.Event], None]) -> None:
    """Let every member do its work; the first failure, or Ctrl-C, stops all of them.

    Args:
        members: Who works. A single one works in this thread.
        do: Its work; it ends early when the event is set.

    Raises:
        BaseException: What the first of them raises.
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
    """Who trains on one device just now."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._entered = 0
        self._waiting = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[Callable[[], bool]]:
        """Train beside others, after those that have to be alone; gives what says whether there were others."""
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
    def alone(self) -> Iterator[None]:
        """Train when nobody else does; nobody begins meanwhile."""
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
