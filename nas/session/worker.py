"""A worker that joins a study and runs its remaining trials, in parallel with its other workers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from nas.data.dataset import Dataset
from nas.device import choose_device, describe_device
from nas.errors import StudyError, Unreachable
from nas.search import loop as searching
from nas.search.runner import SearchObserver
from nas.search.runners import runners_of
from nas.session.settings import auto_workers, unchanged_dataset
from nas.study.location import StudyLocation
from nas.study.study import Study
from nas.workers.process import trainers_of

_LOOK_S = 5.0
_pause = time.sleep


def _wait_for(where: StudyLocation, until: float) -> None:
    """Wait until a study is created.

    Raises:
        StudyError: It is not created, or its server does not respond, until then by the monotonic clock; or the server
            fails in another way.
    """
    while True:
        try:
            if Study.is_created(where):
                return
        except Unreachable:
            if time.monotonic() >= until:
                raise
        if time.monotonic() >= until:
            raise StudyError(
                f"no study {where.name!r} in {where.shown} to join; `nas search SPACE --study {where.name}` creates "
                "it, and --wait MINUTES waits for it"
            )
        _pause(_LOOK_S)


@dataclass(frozen=True)
class Joining:
    """A study that a worker joins, with its dataset.

    Attributes:
        study: Open for writing.
        dataset: Checked; its fingerprint is the study's.
        cache: Where training processes may write.
        workers: Number of parallel trainings; None is as many as fit.
    """

    study: Study
    dataset: Dataset
    cache: Path
    workers: int | None

    @classmethod
    def open(cls, cache: Path, where: StudyLocation, *, data: str | None, workers: int | None, wait: float) -> Joining:
        """Open a study to join it.

        Args:
            cache: Where training processes may write.
            where: The study's place.
            data: Path of the dataset here, if it is not the study's.
            workers: Number of parallel trainings; None is as many as fit.
            wait: Minutes to wait for the study to be created and for its server to respond.

        Raises:
            NasError: There is no such study, or its trials cannot be trained here as elsewhere.
        """
        _wait_for(where, time.monotonic() + 60 * wait)
        study = Study.load(where, write=True)
        if study.settings.table:
            raise StudyError(f"the study {where.name!r} replays a table: there is nothing to train")
        otherwise = (
            f"this worker cannot join the study {where.name!r}: its trainings would differ from those of other workers"
        )
        dataset = unchanged_dataset(study, otherwise, data)
        return cls(study, dataset, cache, workers)

    def run(self, observer: SearchObserver) -> None:
        """Run the remaining trials until none is left."""
        name = self.study.location.name
        observer.note(
            f"joining the study {name} ({self.study.location.shown}): {self.study.spent} of {self.study.target} "
            "trials are done or under way"
        )
        recipe = self.study.settings.recipe
        observer.note(describe_device(choose_device(recipe.device), recipe.amp))
        with (
            trainers_of(self.cache, self.workers or auto_workers(self.study.settings)) as trainers,
            runners_of(self.study, self.dataset, self.cache, observer, trainers) as runners,
        ):
            searching.run_search(self.study, runners)
        observer.note(f"the study {name} has no trials left; `nas rank {name}` shows its ranking")
