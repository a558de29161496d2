"""A search that trains nothing: a study whose scores come from a table (`nas.search.table`), in seconds.

The study is like any other: it is stored, ranked and resumed. Only the result of a training is looked up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.errors import OptionError, StudyError, TableError
from nas.files import from_plain
from nas.samplers import AUTO, current_name
from nas.search import loop as searching
from nas.search.runner import Runner, SearchObserver
from nas.search.table import Replay, Table, read_table
from nas.session.options import SearchOptions
from nas.study import OBJECTIVES
from nas.study.location import locate
from nas.study.objective import Goal
from nas.study.settings import SHARED, Settings, current_versions
from nas.study.study import Study
from nas.training.recipe import Recipe
from nas.workers.process import ProxyWorker


@dataclass(frozen=True)
class ReplaySession:
    """A study of a table, and how many trials are requested now.

    Attributes:
        study: Open for writing.
        replay: What answers in place of training.
        trials: The request; None finishes the last one.
    """

    study: Study
    replay: Replay
    trials: int | None

    @classmethod
    def open(cls, options: SearchOptions) -> ReplaySession:
        """Make or resume a study of a table; the options are those of ``nas search``, None for what was not given.

        Raises:
            OptionError: An option says how to train.
            TableError: The table cannot be used.
            StudyError: The study was made with other settings.
        """
        if idle := options.idle_in_replay():
            raise OptionError(
                f"--replay trains nothing, so there is nothing for {', '.join(idle)} to change: space, data and recipe "
                "are the table's"
            )
        assert options.replay
        path = Path(options.replay)
        table = read_table(path)
        where = locate(options.study or f"{path.stem}-replay", options.storage)
        if not Study.exists(where):
            settings = _settings(table, path, options, None)
            replay = Replay(table, settings.seed)
            wanted = options.trials or min(len(replay.assignments), 1 + len(table.space.single_swaps()))
            return cls(Study.create(where, settings, wanted), replay, None)
        study = Study.load(where, write=True)
        settings = _settings(table, path, options, study.settings)
        differences = study.settings.differences(settings)
        if differences:
            raise StudyError(
                f"the study {where.name!r} was made with other settings:\n  " + "\n  ".join(differences) + "\n"
                "give another --study NAME to create a new one"
            )
        study.settings = replace(study.settings, sampler=settings.sampler, budgets=settings.budgets)
        return cls(study, Replay(table, settings.seed), options.trials)

    def run(self, observer: SearchObserver) -> None:
        """Run the requested trials."""
        self.study.store_settings()  # the sampler may be another
        todo = searching.plan(self.study, self.trials)
        name, s = self.study.location.name, self.study.settings
        if todo.spent >= todo.target:
            return observer.note(f"the study {name} has all {todo.spent} trials; --trials N runs N more")
        size = len(self.replay.assignments)
        observer.note(
            f"study {name} ({self.study.location.shown}): replays {size} of {s.space.size} variants of "
            f"{s.space.stock} by sampler {s.sampler}, seed {s.seed}; nothing is trained"
        )
        with ProxyWorker(self.study.location.folder) as idle:  # it starts no process before it has a job
            searching.run_search(self.study, [Runner(self.study, Path(), idle, observer, replay=self.replay)])
        return None


_ABOUT: Mapping[str, Any] = {
    "floor": float,
    "recipe": Recipe,
    "data": str,
    "fingerprint": str,
    "classes": tuple[str, ...],
    "images": tuple[int, int],
    "latency_on": str,
    "baselines": str,
}
"""What a study of a table takes over from the settings in it."""


def _settings(table: Table, path: Path, options: SearchOptions, kept: Settings | None) -> Settings:
    """Return the settings of a study of a table; `kept` are those of one that is resumed.

    Raises:
        TableError: It lacks what the objective or a limit needs.
    """
    try:
        about = {key: from_plain(kind, table.about[key], key) for key, kind in _ABOUT.items() if key in table.about}
    except ValueError as error:
        raise TableError(f"cannot use the table {path}: {error}") from None
    seed = kept.seed if kept else table.seeds[0] if table.seeds else 0
    floor = kept.floor if kept else about.get("floor", 0.02)
    space = options.limit(kept.space if kept else table.space)
    objective = options.objective or (kept.objective if kept else Goal().objective)
    timed = all(row.latency_ms is not None for row in table.rows.values() if not row.failure)
    if (Goal(objective).needs_latency or "max_latency_ms" in dict(space.limits)) and not timed:
        raise TableError(
            f"the table {path} has no latencies, so it cannot be searched for {OBJECTIVES['map,latency']} or under a "
            "limit of latency"
        )
    return Settings(
        space=space,
        recipe=about["recipe"] if "recipe" in about else replace(Recipe(), init="scratch"),
        data=about.get("data", ""),
        fingerprint=about.get("fingerprint", ""),
        classes=about.get("classes", ()),
        images=about.get("images", (0, 0)),
        seed=seed if options.seed is None else options.seed,
        floor=floor if options.floor is None else options.floor,
        versions=current_versions(),
        sampler=options.sampler or (current_name(kept.sampler) if kept else AUTO),
        objective=objective,
        budgets=options.budgets or (kept.budgets if kept else ()),
        latency_on=about.get("latency_on", ""),
        baselines=about.get("baselines", SHARED),
        table=hashlib.sha256(table.to_json().encode()).hexdigest()[:16],
    )
