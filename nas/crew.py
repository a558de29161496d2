"""A crew: several trainings side by side, each in a process of its own, driven by a thread each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol, TypeVar

from nas.storage import hurry


class Member(Protocol):
    """Who can be made to stop from another thread, in the middle of what it does."""

    def kill(self) -> None:
        """End what it does, for good; whoever waits for it hears of a failure."""


M = TypeVar("M", bound=Member)


def side_by_side(members: Sequence[M], do: Callable[[M, threading.Event], None]) -> None:
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
            hurry()
            for member in members:
                member.kill()
            raise
    return None
