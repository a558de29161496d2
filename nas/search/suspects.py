"""Trainings that failed for what may be the machine's reasons: whose failure it was shows when another one trains.

Where several fail in a row, or there is nothing else to train, that is the baseline: it trains wherever anything does.
"""

from __future__ import annotations

from nas.study.running_trial import RunningTrial
from nas.study.trial import Status

SUSPECT_KINDS = ("error", "died")
"""Kinds of failures that may be the machine's."""
_MANY = 3


class SuspectFailures:
    """The failures of one worker that nothing has trained after. They stay open until they are settled."""

    def __init__(self) -> None:
        self._open: list[RunningTrial] = []

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, handle: RunningTrial) -> bool:
        return handle in self._open

    @property
    def are_many(self) -> bool:
        """Whether so many in a row have failed that it has to be known why."""
        return len(self._open) >= _MANY

    @property
    def last(self) -> str:
        """What the last of them was."""
        return self._open[-1].trial.failure

    def add(self, handle: RunningTrial) -> None:
        """Keep a failure; its trial says what it was."""
        self._open.append(handle)

    def settle(self, status: Status) -> None:
        """End them all: ``failed`` holds them against their variants, ``interrupted`` does not."""
        while self._open:
            self._open[0].end(status=status)
            del self._open[0]
