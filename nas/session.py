"""From the options of ``nas search`` to a study that can run: a new one, or an old one that takes no other settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas import search as searching
from nas.answer import DEFAULT_SCORE, Answer, load_answer
from nas.asked import OF_A_SPACE, OF_A_STUDY, kept_options, merged
from nas.calibration_options import calibration_file
from nas.confirm import Confirm
from nas.data import Dataset, load_or_demo
from nas.errors import DataError, StudyError
from nas.fleet import runners_of
from nas.lease import alone_at
from nas.objective import Goal
from nas.own import use
from nas.place import StudyPlace, place
from nas.proxy import ProxyWorker, available_cores, trainers_of
from nas.recipe import Recipe
from nas.recipe_options import CALIBRATED, RECIPE_OPTIONS, changed_recipe, new_recipe
from nas.rungs import ETA, Rung, read_rungs, trainings
from nas.runner import Observer
from nas.samplers import AUTO
from nas.settings import EACH, ONE, Settings, baselines_of, current_versions
from nas.space import SearchSpace
from nas.space_file import load_space
from nas.study import Study

_DEMO_SPACE = "quick"
_MOST_TRIALS = 40
DEFAULT_CONFIRM = Confirm(3, 3)
"""How a new study is confirmed unless something else is asked for."""


@dataclass(frozen=True)
class Session:
    """A study with its dataset at hand, and how many trials are asked for now.

    Attributes:
        study: Open for writing.
        dataset: Checked; its fingerprint is the study's.
        trials: What was asked for; None finishes what was asked for before.
        seeds: Seeds of every variant, and `confirm` how the first are confirmed; None leaves them as they are.
        cache: Where training processes may write.
        news: What the options have changed; empty if nothing.
    """

    study: Study
    dataset: Dataset
    trials: int | None
    cache: Path
    seeds: int | None = None
    confirm: Confirm | None = None
    news: str = ""

    @classmethod
    def open(cls, cache: Path, **options: Any) -> Session:
        """Make or resume a study; see ``nas search --help`` for the options, None for what was not given.

        Raises:
            NasError: Anything about the space, the dataset or the storage is wrong, or the study has other settings.
        """
        space = options["space"]
        name = options["study"] or (Path(space).stem if space else _DEMO_SPACE)
        try:
            where = place(name, options["storage"])
        except StudyError as error:
            raise StudyError(f"{error}; --study names it" if not options["study"] else str(error)) from None
        if not Study.is_made(where):
            if options["study"] and not space:
                raise StudyError(
                    f"no study {name!r} in {where.shown} to resume; "
                    f"name a SPACE to begin it: nas search seeds --study {name}"
                )
            return cls._begin(cache, where, load_space(space or _DEMO_SPACE), options)
        study = Study.load(where, write=True)
        if study.settings.table:
            raise StudyError(f"the study {name!r} replays a table: give it by --replay TABLE to go on")
        kept, news = study.settings, []
        # A first attempt that could not work must not block the name; on a server others may be making its baseline.
        if study.is_barren and not where.server:
            wanted, dataset, whole = _as_begun(study, options)
            if differences := kept.differences(wanted):
                return cls._begin_anew(cache, study, wanted, dataset, whole, differences)
        else:
            wanted, dataset = _wanted(study, options)
        if differences := kept.differences(wanted):
            raise StudyError(
                f"the study {name!r} was made with other settings, and scores under different ones cannot be ranked "
                "together:\n  " + "\n  ".join(differences) + "\ngive another --study NAME to begin a new one"
            )
        if wanted.sampler != kept.sampler:
            news.append(f"sampler: {wanted.sampler} from here on, {kept.sampler} so far; scores do not depend on it")
        if wanted.calibration != kept.calibration:
            news.append("calibration: intervals and verdicts go by what it says now; scores do not depend on it")
        study.settings = wanted  # the data and the weights to inherit from may have moved
        return cls(study, dataset, options["trials"], cache, options["seeds"], options["confirm"], "\n".join(news))

    @classmethod
    def _begin(cls, cache: Path, where: StudyPlace, space: SearchSpace, options: dict[str, Any]) -> Session:
        settings, dataset = _new(space, options)
        seeds, confirm = options["seeds"] or 1, options["confirm"]
        with alone_at(where):
            if not Study.exists(where):
                study = Study.create(
                    where,
                    settings,
                    options["trials"] or _most_trials(settings),
                    seeds=seeds,
                    confirm=DEFAULT_CONFIRM if confirm is None else confirm,
                    options=kept_options(options),
                )
                return cls(study, dataset, None, cache)
        return cls.open(cache, **options)  # the same command on another machine was a moment earlier

    @classmethod
    def _begin_anew(
        cls,
        cache: Path,
        study: Study,
        settings: Settings,
        dataset: Dataset,
        options: dict[str, Any],
        differences: Sequence[str],
    ) -> Session:
        """Put a study in the place of one of which nothing has come.

        Args:
            cache: Where training processes may write.
            study: The one of which nothing has come.
            settings: Of the one in its place.
            dataset: As they say.
            options: What was asked for, then and now.
            differences: What was otherwise before.
        """
        made = study.replaced(
            settings,
            options["trials"] or _most_trials(settings),
            seeds=options["seeds"] or study.seeds,
            confirm=study.confirm if options["confirm"] is None else options["confirm"],
            options=kept_options(options),
        )
        before = "\n  ".join(differences)
        news = f"nothing had come of {study.place.name!r}, so it is begun anew; before:\n  {before}"
        return cls(made, dataset, None, cache, news=news)

    def run(self, observer: Observer, trainers: Sequence[ProxyWorker]) -> None:
        """Run the trials that are asked for, side by side in these processes."""
        study = self.study
        todo = searching.plan(study, self.trials)
        study.ask_for_seeds(self.seeds, self.confirm)
        name = study.place.name
        if self.news:
            study.keep_settings()
            observer.note(self.news)
        if searching.is_finished(study, todo):
            more = "--trials N runs N more" + ("" if study.confirm.top else ", --confirm 3:3 confirms the first 3")
            return observer.note(f"the study {name} has all {todo.spent} trials that were asked for; {more}")
        if todo.spent >= todo.target:
            observer.note(f"study {name}: {todo.spent} trials are done; some are still to get their further seeds")
        elif todo.finishing and todo.spent:
            observer.note(f"study {name}: {todo.spent} of {todo.target} trials are done; finishing what was asked for")
        elif todo.spent:
            observer.note(f"study {name}: {todo.spent} trials are done; {todo.target - todo.spent} more")
        else:
            s = study.settings
            observer.note(
                f"study {name} ({study.place.shown}): {todo.target} trials of {s.space.size} variants of "
                f"{s.space.base}{s.space.scale} on {s.data or 'the demo data'} "
                f"({s.images[0]} training, {s.images[1]} validation images, {len(s.classes)} classes)"
            )
            if s.rungs:
                counts = trainings(todo.target - 1, s.rungs, s.eta)
                names = [*(rung.words for rung in s.rungs), "the study's own recipe"]
                steps = "; ".join(f"{count} with {name}" for count, name in zip(counts, names, strict=True))
                observer.note(f"rungs: {steps}; and the baseline on each")
            if hint := hint_of(s, len(trainers), available_cores()):
                observer.note(hint)
        with runners_of(study, self.dataset, self.cache, observer, trainers) as runners:
            searching.search(study, runners)
        return None


def hint_of(settings: Settings, workers: int, cores: int) -> str:
    """Return how a search would make more trials an hour on this machine; empty where it would not, or must not."""
    if workers > 1 or cores < 2 or settings.recipe.device != "cpu" or settings.latency_on:
        return ""
    return (
        f"one training at a time, with {cores} threads: --workers {cores} makes more trials an hour, {cores} side by "
        "side with a thread each, and takes a gigabyte of memory or more for each"
    )


def train_baseline_seeds(cache: Path, study: Study, count: int, observer: Observer) -> Study:
    """Train a study's baseline until it has so many seeds, and return the study open for writing.

    Raises:
        NasError: Its data are gone, its settings are not those of this version, its baseline has not finished, or it
            replays a table.
    """
    if study.settings.table:
        raise StudyError(f"the study {study.place.name!r} replays a table: there is nothing to train")
    opened = Study.load(study.place, write=True)
    dataset = as_it_was(opened, f"the baseline of {study.place.name!r} cannot be trained as it was")
    there = sum(t.status == "done" and t.variant.is_baseline for t in opened.trials())
    if opened.settings.baselines == EACH and there < count:
        epochs = opened.settings.recipe.base_epochs
        observer.note(f"each further seed has a baseline of its own to inherit from, trained for {epochs} epochs first")
    with opened.locked(), trainers_of(cache, 1) as one, runners_of(opened, dataset, cache, observer, one) as (runner,):
        searching.train_baseline(runner, count)
    return opened


def as_it_was(study: Study, otherwise: str, data: str | None = None) -> Dataset:
    """Return the dataset of a study whose trials can be trained here as they were.

    Args:
        study: With what it was made of.
        otherwise: What it means that they cannot, for the message.
        data: Where the dataset is here, if not where the study says.

    Raises:
        NasError: The data are gone or others, or versions differ.
    """
    options = {**dict.fromkeys((*OF_A_STUDY, "sampler", *RECIPE_OPTIONS)), "enable": (), "data": data}
    wanted, dataset = _wanted(study, options)
    if differences := study.settings.differences(wanted):
        raise StudyError(f"{otherwise}:\n  " + "\n  ".join(differences))
    return dataset


def _as_begun(study: Study, options: dict[str, Any]) -> tuple[Settings, Dataset, dict[str, Any]]:
    """Return the settings of a study begun as this one was but for the options, its dataset, and all options."""
    kept, before = study.settings, study.options
    asked = {"trials": options["trials"] or study.request}
    if before is None:  # it does not say how it was begun
        return *_wanted(study, options), {**options, **asked}
    space = kept.space
    if options["space"]:
        space = load_space(options["space"])
        if space.name != kept.space.name:  # to which what was said of the other one may not apply
            before = {key: value for key, value in before.items() if key not in OF_A_SPACE}
    else:
        use(space.modules)
    whole = merged({"data": kept.data or None, **before, "sampler": kept.sampler}, options)
    if "trials" in before:
        whole.update(asked)
    with _data_may_have_moved(study, whole["data"]):
        return *_new(space, whole), whole


def _wanted(study: Study, options: dict[str, Any]) -> tuple[Settings, Dataset]:
    """Return a study's settings with what the options change of them, and its dataset."""
    kept = study.settings
    data = options["data"] or kept.data or None
    with _data_may_have_moved(study, data):
        dataset = load_or_demo(data)
    answer = _answer(options)
    recipe = kept.recipe
    if answer:
        asked = ("init", "epochs", "imgsz", "batch", "base_epochs", *CALIBRATED)
        recipe = replace(recipe, **{key: getattr(answer.recipe, key) for key in asked})
    recipe = changed_recipe(recipe, options)
    if not options["space"]:
        use(kept.space.modules)
    each = options["baseline_per_seed"]
    baselines = kept.baselines if each is None else baselines_of(recipe, each)
    wanted = replace(
        kept,
        space=_limited(load_space(options["space"]) if options["space"] else kept.space, options),
        recipe=recipe,
        score=answer.score if answer else kept.score,
        calibration=_under(answer, recipe, baselines) if answer else kept.calibration,
        data=str(Path(data).resolve()) if data else "",
        fingerprint=dataset.fingerprint,
        seed=kept.seed if options["seed"] is None else options["seed"],
        floor=kept.floor if options["floor"] is None else options["floor"],
        versions=current_versions(),
        sampler=options["sampler"] or kept.sampler,
        objective=options["objective"] or kept.objective,
        baselines=baselines,
        rungs=_rungs(options, recipe, kept.rungs),
        eta=options["eta"] or kept.eta,
    )
    measured = bool(kept.latency_on) or options["latency"]
    return replace(wanted, latency_on=_latency_on(wanted.space, recipe, wanted.objective, measured)), dataset


@contextlib.contextmanager
def _data_may_have_moved(study: Study, data: str | None) -> Iterator[None]:
    """Add to an error in a study's dataset what would do if it is no longer where it was."""
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{error}\nthe study {study.place.name!r} was made on {data}; if it moved, give --data"
        ) from None


def _new(space: SearchSpace, options: dict[str, Any]) -> tuple[Settings, Dataset]:
    """Return the settings of a new study, and its dataset."""
    space = _limited(space, options)
    dataset = load_or_demo(options["data"])
    answer = _answer(options)
    recipe = new_recipe(options, answer)
    each = options["baseline_per_seed"]
    if each is None and answer and answer.baselines == ONE:
        each = False
    baselines = baselines_of(recipe, each)
    settings = Settings(
        space=space,
        recipe=recipe,
        score=answer.score if answer else DEFAULT_SCORE,
        calibration=_under(answer, recipe, baselines),
        data=str(Path(options["data"]).resolve()) if options["data"] else "",
        fingerprint=dataset.fingerprint,
        classes=dataset.names,
        images=(len(dataset.train), len(dataset.val)),
        seed=options["seed"] or 0,
        floor=options["floor"] if options["floor"] is not None else 0.02,
        versions=current_versions(),
        sampler=options["sampler"] or AUTO,
        objective=options["objective"] or Goal().objective,
        latency_on=_latency_on(space, recipe, options["objective"], options["latency"]),
        baselines=baselines,
        rungs=_rungs(options, recipe, ()),
        eta=options["eta"] or ETA,
    )
    return settings, dataset


def _most_trials(settings: Settings) -> int:
    """Return how many trials a study gets that says nothing of them: the baseline and every swap alone, if not many."""
    every = 1 + len(settings.space.single_swaps())
    return min(every, _MOST_TRIALS) if settings.data else every + 1


def _under(answer: Answer | None, recipe: Recipe, baselines: str) -> str:
    """Return what a calibration says of a study, with what of it is not as it was calibrated; empty without one."""
    if answer is None:
        return ""
    answer = answer.under(recipe)
    if answer.baselines != baselines:
        more = f"trained baselines: {answer.baselines}, not {baselines}"
        answer = replace(answer, departures=(*answer.departures, more))
    return answer.to_json()


def _answer(options: dict[str, Any]) -> Answer | None:
    """Return the calibration that is given."""
    return load_answer(calibration_file(options["proxy"])) if options["proxy"] else None


def _rungs(options: dict[str, Any], recipe: Recipe, kept: tuple[Rung, ...]) -> tuple[Rung, ...]:
    """Return the rungs that are asked for, or those that are kept.

    Raises:
        StudyError: They cannot be used, or --eta is there without any.
    """
    rungs = read_rungs(options["rungs"], recipe) if options["rungs"] else kept
    if options["eta"] and not rungs:
        raise StudyError(f"--eta {options['eta']} says how many go on from a rung: give --rungs too")
    return rungs


def _latency_on(space: SearchSpace, recipe: Recipe, objective: str | None, wanted: bool) -> str:
    """Return the machine that latencies are measured on; empty where nothing asks for them."""
    if wanted or Goal(objective or "map").needs_latency or "max_latency_ms" in dict(space.limits):
        from nas.latency import machine

        return machine(recipe.device)
    return ""


def _limited(space: SearchSpace, options: dict[str, Any]) -> SearchSpace:
    """Return the space with what the options change of it."""
    if options["scale"]:
        space = space.with_scale(options["scale"])
    return space.enable(options["enable"]).with_limits(
        max_gflops=options["max_gflops"],
        max_params=options["max_params"],
        max_latency_ms=options["max_latency"],
        min_map=options["min_map"],
    )
