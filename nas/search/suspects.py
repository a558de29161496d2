"""Failures that may be the machine's fault: held back, and charged to their variants once another training succeeds.

After several in a row, or when nothing else is left to train, the baseline is trained as a check: it succeeds on any
machine that works.
"""

from __future__ import annotations

from nas.study.running_trial import RunningTrial
from nas.study.trial import Status

SUSPECT_KINDS = ("error", "died")
"""Kinds of failure that may be the machine's fault."""
_MANY = 3


class SuspectFailures:
    """Failed trials of one worker since its last successful training; they stay running until they are settled."""

    def __init__(self) -> None:
        self._open: list[RunningTrial] = []

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, handle: RunningTrial) -> bool:
        return handle in self._open

    @property
    def are_many(self) -> bool:
        """Whether so many have failed in a row that the machine has to be checked."""
        return len(self._open) >= _MANY

    @property
    def last(self) -> str:
        """The failure text of the last one."""
        return self._open[-1].trial.failure

    def add(self, handle: RunningTrial) -> None:
        """Add a failed trial, whose record holds the failure text."""
        self._open.append(handle)

    def settle(self, status: Status) -> None:
        """End all of them: ``failed`` charges them to their variants, ``interrupted`` has them retried."""
        while self._open:
            self._open[0].end(status=status)
            del self._open[0]
