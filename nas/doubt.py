"""Trainings that failed for what may be the machine's reasons: whose failure it was shows when the next one trains."""

from __future__ import annotations

from collections.abc import Iterable

from nas.errors import StudyError
from nas.open_trial import OpenTrial
from nas.trial import Status, Trial

DOUBTFUL = ("error", "died")
"""Kinds of failures that may be the machine's."""
MOST_TRIES = 2
"""How often the same run may be among those that stop a worker, before its failure is held against its variant."""
_MOST = 3
"""Trainings in a row that may fail so before a worker stops."""


class Doubts:
    """The failures of one worker that nothing has trained after. They stay open until they are settled."""

    def __init__(self) -> None:
        self._open: list[OpenTrial] = []
        self._has_trained = False

    @property
    def has_trained(self) -> bool:
        """Whether a training has ended well."""
        return self._has_trained

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, handle: OpenTrial) -> bool:
        return handle in self._open

    def add(self, handle: OpenTrial) -> None:
        """Keep a failure; its trial says what it was.

        Raises:
            StudyError: It is one too many in a row. None of them is held against its variant.
        """
        self._open.append(handle)
        if len(self._open) >= _MOST:
            self._settle("interrupted")
            raise StudyError(
                f"{_MOST} trainings in a row failed, and not by what their variants are; the last: "
                f"{handle.trial.failure}\nmend that and start the search again: it will try them anew"
            )

    def trained(self) -> None:
        """Hear that a training has ended well, so that the failures before it were the variants'."""
        self._has_trained = True
        self._settle("failed")

    def give_up(self, *, theirs: bool) -> None:
        """Settle them when there is nothing else to train that could show whose failure it is.

        Args:
            theirs: Whether they are held against their variants: something has trained here, or nobody else trains.

        Raises:
            StudyError: They are not: nothing has trained here yet, while others do, so it may well be this machine.
        """
        if theirs:
            return self._settle("failed")
        text = self._open[-1].trial.failure
        self._settle("interrupted")
        raise StudyError(
            f"every training of this worker has failed, and not by what the variants are, while others train; the "
            f"last: {text}\nmend that and let it join again"
        )

    def _settle(self, status: Status) -> None:
        for handle in self._open:
            handle.end(status=status)
        self._open = []


def tries_in_doubt(trial: Trial, runs: Iterable[Trial]) -> int:
    """Return how often the same run has been among those that stopped a worker."""
    before = [t for t in runs if t.key == trial.key and t.status == "interrupted"]
    return sum(t.failure.split(":")[0] in DOUBTFUL for t in before)
