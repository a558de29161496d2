"""Room on a device that several trainings share: what does not fit beside others is trained alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class Room:
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
