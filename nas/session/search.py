"""From the options of ``nas search`` to a study that can run: a new one, or one that is resumed with equal settings."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.bank.artifacts import Worker
from nas.data.dataset import Dataset
from nas.data.levels import read_labels
from nas.device import choose_device, describe_device
from nas.errors import OptionError, StudyError
from nas.ranking.rank import ranking_of
from nas.search import loop as searching
from nas.search.runner import SearchObserver
from nas.search.runners import runners_of
from nas.session.budget import further_trials, plan_new
from nas.session.options import SearchOptions
from nas.session.probe import measure_pace
from nas.session.recipe import check_weights
from nas.session.settings import auto_workers, changed_settings, new_settings, settings_as_created, unchanged_dataset
from nas.session.target import target_notes
from nas.session.yardstick import read_yardsticks, request_at_front, request_of_budgets, request_yardsticks
from nas.space.search_space import SearchSpace
from nas.space.space_file import load_space
from nas.study.budget import Confirm, variants_per_rung
from nas.study.leases import claim_lock
from nas.study.location import StudyLocation, locate
from nas.study.objective import Budget
from nas.study.settings import PER_SEED, Settings
from nas.study.study import Study
from nas.workers.process import ProxyWorker, trainers_of

_DEMO_SPACE = "quick"
_MOST_TRIALS = 40
DEFAULT_CONFIRM = Confirm(3, 3)
"""The default confirmation of a new study."""


@dataclass(frozen=True)
class Session:
    """A study with its dataset at hand, and how many trials are requested now.

    Attributes:
        study: Open for writing.
        dataset: Checked; its fingerprint is the study's.
        trials: The request; None finishes the last one.
        seeds: Seeds of every variant, and `confirm` how the first are confirmed; None leaves them as they are.
        cache: Where training processes may write.
        news: What the options change; empty if nothing.
        yardsticks: Budgets of yardsticks that are requested, besides those that the study has.
        at_front: Whether yardsticks of the variants on the front are requested.
        planned: What a budget has decided; empty without one.
    """

    study: Study
    dataset: Dataset
    trials: int | None
    cache: Path
    seeds: int | None = None
    confirm: Confirm | None = None
    news: str = ""
    yardsticks: tuple[Budget, ...] = ()
    at_front: bool = False
    planned: str = ""

    @classmethod
    def open(cls, cache: Path, options: SearchOptions, worker: Worker | None = None) -> Session:
        """Make or resume a study; see ``nas search --help`` for the options, None for what was not given.

        Args:
            cache: Where training processes may write.
            options: The options.
            worker: Makes the timed probe of a budget; None starts a process for it.

        Raises:
            NasError: Anything about the space, the dataset or the storage is wrong, or the study has other settings.
        """
        if options.budget is not None and not 0 < options.budget < math.inf:  # NaN neither
            raise OptionError(f"--budget {options.budget:g}: expected minutes, a finite number above 0")
        budgets, at_front = read_yardsticks(options.yardstick) if options.yardstick else ((), False)
        return replace(cls._open(cache, options, worker), yardsticks=budgets, at_front=at_front)

    @classmethod
    def _open(cls, cache: Path, options: SearchOptions, worker: Worker | None = None) -> Session:
        """Make or resume a study without its yardsticks."""
        space = options.space
        name = options.study or (Path(space).stem if space else _DEMO_SPACE)
        try:
            where = locate(name, options.storage)
        except StudyError as error:
            raise StudyError(f"{error}; --study names it" if not options.study else str(error)) from None
        if not Study.is_created(where):
            if options.study and not space:
                raise StudyError(
                    f"no study {name!r} in {where.shown} to resume; "
                    f"name a SPACE to create it: nas search seeds --study {name}"
                )
            return cls._create(cache, where, load_space(space or _DEMO_SPACE), options, worker)
        study = Study.load(where, write=True)
        if study.settings.table:
            raise StudyError(f"the study {name!r} replays a table: give --replay TABLE to resume it")
        if options.budget:
            return cls._within_budget(cache, study, options)
        kept, news = study.settings, []
        # A failed first attempt must not block the name; on a server other workers may be training its baseline.
        if study.has_no_results and not where.server:
            wanted, dataset, whole = settings_as_created(study, options)
            if differences := kept.differences(wanted):
                return cls._recreate(cache, study, wanted, dataset, whole, differences)
        else:
            wanted, dataset = changed_settings(study, options)
        if differences := kept.differences(wanted):
            raise StudyError(
                f"the study {name!r} was made with other settings, and scores under different ones cannot be ranked "
                "together:\n  " + "\n  ".join(differences) + "\ngive another --study NAME to create a new one"
            )
        if wanted.sampler != kept.sampler:
            news.append(f"sampler: {wanted.sampler} from here on, {kept.sampler} so far; scores do not depend on it")
        if wanted.budgets != kept.budgets:
            budgets = "; ".join(map(str, wanted.budgets))
            news.append(f"budgets: {budgets} from here on; scores do not depend on them")
        if wanted.calibration != kept.calibration:
            news.append("calibration: intervals and verdicts now use its error; scores do not depend on it")
        study.settings = wanted  # the data and the weights to inherit from may have moved
        return cls(study, dataset, options.trials, cache, options.seeds, options.confirm, "\n".join(news))

    @classmethod
    def _within_budget(cls, cache: Path, study: Study, options: SearchOptions) -> Session:
        """Resume a study with as many further trials as a budget allows."""
        minutes = options.budget or 0.0
        if options.trials:
            raise OptionError(f"--budget {minutes:g} and --trials {options.trials} both limit the study: give one")
        workers = options.workers or auto_workers(study.settings)
        trials, words = further_trials(study, minutes, workers)
        return replace(cls._open(cache, replace(options, budget=None, trials=trials)), planned=words)

    @classmethod
    def _create(
        cls, cache: Path, where: StudyLocation, space: SearchSpace, options: SearchOptions, worker: Worker | None
    ) -> Session:
        settings, dataset = new_settings(space, options)
        check_weights(options, settings.space)
        planned = ""
        if minutes := options.budget:
            with contextlib.ExitStack() as stack:
                maker = worker or stack.enter_context(ProxyWorker(cache, threads=1))
                plan = plan_new(
                    settings,
                    read_labels(dataset)[0],
                    options,
                    DEFAULT_CONFIRM if options.confirm is None else options.confirm,
                    _most_trials(settings),
                    lambda fidelity: measure_pace(maker, settings, dataset, fidelity),
                )
            options, planned = plan.apply(options), plan.words(minutes)
            settings, dataset = new_settings(space, options)
        seeds, confirm = options.seeds or 1, options.confirm
        with claim_lock(where):
            if not Study.exists(where):
                study = Study.create(
                    where,
                    settings,
                    options.trials or _most_trials(settings),
                    seeds=seeds,
                    confirm=DEFAULT_CONFIRM if confirm is None else confirm,
                    options=options.to_store(),
                )
                return cls(study, dataset, None, cache, news="\n".join(space.left_out), planned=planned)
        return cls._open(cache, options, worker)  # the same command on another machine was a moment earlier

    @classmethod
    def _recreate(
        cls,
        cache: Path,
        study: Study,
        settings: Settings,
        dataset: Dataset,
        options: SearchOptions,
        differences: Sequence[str],
    ) -> Session:
        """Replace a study that has no results.

        Args:
            cache: Where training processes may write.
            study: The one without results.
            settings: Of its replacement.
            dataset: As they say.
            options: Those of then, completed by those of now.
            differences: Settings that were different before.
        """
        check_weights(options, settings.space)
        made = study.recreate(
            settings,
            options.trials or _most_trials(settings),
            seeds=options.seeds or study.seeds,
            confirm=study.confirm if options.confirm is None else options.confirm,
            options=options.to_store(),
        )
        before = "\n  ".join(differences)
        news = f"the study {study.location.name!r} had no results and is created again; before:\n  {before}"
        return cls(made, dataset, None, cache, news=news)

    def run(self, observer: SearchObserver, trainers: Sequence[ProxyWorker]) -> None:
        """Run the requested trials in parallel in these processes."""
        study = self.study
        for line in (*request_yardsticks(study, self.yardsticks), *request_of_budgets(study)):
            observer.note(line)
        todo = searching.plan(study, self.trials)
        study.set_seeds(self.seeds, self.confirm)
        name = study.location.name
        if self.news:
            study.store_settings()
            observer.note(self.news)
        if self.planned:
            observer.note(self.planned)
        if searching.is_finished(study, todo):
            if self._asks_front(observer):
                with runners_of(study, self.dataset, self.cache, observer, trainers) as runners:
                    searching.run_search(study, runners)
                return None
            more = "--trials N runs N more" + ("" if study.confirm.top else ", --confirm 3:3 confirms the first 3")
            return observer.note(f"the study {name} has all {todo.spent} requested trials; {more}")
        if todo.spent >= todo.target:
            observer.note(f"study {name}: {todo.spent} trials are done; some still need further seeds")
        elif todo.finishing and todo.spent:
            observer.note(f"study {name}: {todo.spent} of {todo.target} trials are done; finishing the request")
        elif todo.spent:
            observer.note(f"study {name}: {todo.spent} trials are done; {todo.target - todo.spent} more")
        else:
            s = study.settings
            observer.note(
                f"study {name} ({study.location.shown}): {todo.target} trials of {s.space.size} variants of "
                f"{s.space.stock} on {s.data or 'the demo data'} "
                f"({s.images[0]} training, {s.images[1]} validation images, {len(s.classes)} classes)"
            )
            for line in target_notes(s, self.dataset):
                observer.note(line)
            if s.rungs:
                counts = variants_per_rung(todo.target - 1, s.rungs, s.eta)
                names = [*(rung.words for rung in s.rungs), "the study's own recipe"]
                steps = "; ".join(f"{count} with {name}" for count, name in zip(counts, names, strict=True))
                observer.note(f"rungs: {steps}; and the baseline on each")
            observer.note(describe_device(choose_device(s.recipe.device), s.recipe.amp))
            if len(trainers) > 1 and s.recipe.device == "cpu":
                observer.note(
                    f"{len(trainers)} trainings in parallel, one thread each"
                    if trainers[0].threads == 1
                    else f"{len(trainers)} trainings in parallel, {trainers[0].threads} threads each"
                )
        with runners_of(study, self.dataset, self.cache, observer, trainers) as runners:
            searching.run_search(study, runners)
            if self._asks_front(observer):
                searching.run_search(study, runners)
        return None

    def _asks_front(self, observer: SearchObserver) -> bool:
        """Request the yardsticks of the front, if that was asked for; return whether there are new ones."""
        lines = request_at_front(self.study, ranking_of(self.study)) if self.at_front else []
        for line in lines:
            observer.note(line)
        return bool(lines)


def _most_trials(settings: Settings) -> int:
    """Return the default number of trials: the baseline and every single swap, up to a maximum."""
    every = 1 + len(settings.space.single_swaps())
    return min(every, _MOST_TRIALS) if settings.data else every + 1


def train_baseline_seeds(cache: Path, study: Study, count: int, observer: SearchObserver) -> Study:
    """Train a study's baseline until it has so many seeds, and return the study open for writing.

    Raises:
        NasError: Its data are gone, its settings are not those of this version, its baseline has not finished, or it
            replays a table.
    """
    if study.settings.table:
        raise StudyError(f"the study {study.location.name!r} replays a table: there is nothing to train")
    opened = Study.load(study.location, write=True)
    dataset = unchanged_dataset(opened, f"the baseline of {study.location.name!r} cannot be trained as it was")
    there = sum(t.status == "done" and t.variant.is_baseline for t in opened.trials())
    if opened.settings.baselines == PER_SEED and there < count:
        epochs = opened.settings.recipe.base_epochs
        observer.note(f"each further seed starts from its own baseline, which is trained for {epochs} epochs first")
    with opened.locked(), trainers_of(cache, 1) as one, runners_of(opened, dataset, cache, observer, one) as (runner,):
        searching.train_baseline(runner, count)
    return opened
