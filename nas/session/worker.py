"""A worker that joins a study: it does what is asked for, beside whoever works on it already."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from nas.data.dataset import Dataset
from nas.errors import StudyError, Unreachable
from nas.search import loop as searching
from nas.search.runner import SearchObserver
from nas.search.runners import runners_of
from nas.session.settings import as_it_was
from nas.study.location import StudyLocation
from nas.study.study import Study
from nas.workers.process import trainers_of

_LOOK_S = 5.0
_pause = time.sleep


def _wait_for(where: StudyLocation, until: float) -> None:
    """Wait for a study to be made.

    Raises:
        StudyError: It is not, or its server does not answer, until then by the monotonic clock; or something else is
            wrong with the server.
    """
    while True:
        try:
            if Study.is_made(where):
                return
        except Unreachable:
            if time.monotonic() >= until:
                raise
        if time.monotonic() >= until:
            raise StudyError(
                f"no study {where.name!r} in {where.shown} to join; `nas search SPACE --study {where.name}` makes "
                "one, and --wait MINUTES waits for it"
            )
        _pause(_LOOK_S)


@dataclass(frozen=True)
class Joining:
    """A study that a worker joins, with the dataset at hand.

    Attributes:
        study: Open for writing.
        dataset: Checked; its fingerprint is the study's.
        cache: Where training processes may write.
        workers: How many train side by side.
    """

    study: Study
    dataset: Dataset
    cache: Path
    workers: int

    @classmethod
    def open(cls, cache: Path, where: StudyLocation, *, data: str | None, workers: int, wait: float) -> Joining:
        """Open a study to join it.

        Args:
            cache: Where training processes may write.
            where: The study's place.
            data: Where the dataset is here, if not where the study says.
            workers: How many train side by side.
            wait: Minutes to wait for the study to be made, and for its server to answer.

        Raises:
            NasError: There is no such study, or its trials cannot be trained here as elsewhere.
        """
        _wait_for(where, time.monotonic() + 60 * wait)
        study = Study.load(where, write=True)
        if study.settings.table:
            raise StudyError(f"the study {where.name!r} replays a table: there is nothing to train")
        otherwise = (
            f"this worker cannot join the study {where.name!r}, where trainings would not be what they are elsewhere"
        )
        dataset = as_it_was(study, otherwise, data)
        return cls(study, dataset, cache, workers)

    def run(self, observer: SearchObserver) -> None:
        """Do what the study asks for until nothing is left."""
        name = self.study.location.name
        observer.note(
            f"joining the study {name} ({self.study.location.shown}): {self.study.spent} of {self.study.target} "
            "trials are done or under way"
        )
        with (
            trainers_of(self.cache, self.workers) as trainers,
            runners_of(self.study, self.dataset, self.cache, observer, trainers) as runners,
        ):
            searching.search(self.study, runners)
        observer.note(f"nothing is left to do in the study {name}; `nas rank {name}` shows what came of it")
