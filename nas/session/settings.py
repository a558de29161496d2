"""From options to the settings of a study: new ones, or stored ones with what the options change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nas.calibration.result import DEFAULT_SCORE, CalibrationResult, calibration_file, load_result
from nas.data.dataset import Dataset, load_or_demo
from nas.data.fidelity import Fidelity, check_windows
from nas.engines import SEPARATE
from nas.errors import DataError, OptionError, SpaceError, StudyError
from nas.own import use_stored
from nas.samplers import AUTO, current_name
from nas.session.options import SearchOptions
from nas.session.recipe import changed_recipe, new_recipe
from nas.session.target import target_of
from nas.space.bases import task_of_base
from nas.space.search_space import SearchSpace
from nas.space.space_file import load_space
from nas.study.budget import ETA, Rung, read_rungs
from nas.study.objective import Goal
from nas.study.settings import SHARED, Settings, baselines_of, current_versions
from nas.study.study import Study
from nas.task.task import TASKS, Task
from nas.training.recipe import Recipe
from nas.workers.count import fitting_workers


def searched_task(space: SearchSpace) -> Task:
    """Return the task of a space.

    Raises:
        SpaceError: No proxies of it are trained.
    """
    task = task_of_base(space.base)
    if not task.has_proxies:
        able = ", ".join(other.words for other in TASKS.values() if other.has_proxies)
        raise SpaceError(
            f"{space.base} is a base of {task.words}, of which no proxies are trained; searches and calibrations are "
            f"of {able}. `nas space check`, `nas cost`, `nas import` and `nas emit-yaml` take it, and its emitted "
            "scripts train"
        )
    return task


def new_settings(space: SearchSpace, options: SearchOptions) -> tuple[Settings, Dataset]:
    """Return the settings of a new study, and its dataset."""
    space = options.apply(space)
    dataset = load_or_demo(options.data, searched_task(space).name)
    calibrated = _calibrated(options)
    target = target_of(space, options, dataset, calibrated)
    recipe = new_recipe(options, calibrated, target)
    each = options.baseline_per_seed
    if each is None and calibrated and calibrated.baselines == SHARED:
        each = False
    baselines = baselines_of(recipe, each)
    settings = Settings(
        space=space,
        recipe=recipe,
        score=calibrated.score if calibrated else DEFAULT_SCORE,
        calibration=_under(calibrated, recipe, baselines),
        data=str(Path(options.data).resolve()) if options.data else "",
        fingerprint=dataset.fingerprint,
        classes=dataset.names,
        images=(len(dataset.train), len(dataset.val)),
        seed=options.seed or 0,
        floor=options.floor if options.floor is not None else 0.02,
        versions=current_versions(),
        sampler=options.sampler or AUTO,
        objective=options.objective or Goal().objective,
        latency_on=_latency_on(
            space, recipe, options.objective, bool(options.latency or options.budget_latency), options.engine
        ),
        engine=options.engine,
        budgets=options.budgets,
        baselines=baselines,
        rungs=_rungs(options, recipe, ()),
        eta=options.eta or ETA,
        target=target.imgsz,
        levels=target.levels,
    )
    rungs = [Fidelity(rung.imgsz, rung.windows_at) for rung in settings.rungs]
    check_windows(dataset, [Fidelity(recipe.imgsz, recipe.windows_at), *rungs])
    return settings, dataset


def changed_settings(study: Study, options: SearchOptions) -> tuple[Settings, Dataset]:
    """Return a study's settings with what the options change of them, and its dataset."""
    kept = study.settings
    data = options.data or kept.data or None
    with _data_may_have_moved(study, data):
        dataset = load_or_demo(data, task_of_base(kept.space.base).name)
    calibrated = _calibrated(options)
    recipe = changed_recipe(kept.recipe, options, calibrated)
    if not options.space:
        use_stored(kept.space.modules, study.shown)
    each = options.baseline_per_seed
    baselines = kept.baselines if each is None else baselines_of(recipe, each)
    wanted = replace(
        kept,
        space=options.apply(load_space(options.space) if options.space else kept.space),
        recipe=recipe,
        score=calibrated.score if calibrated else kept.score,
        calibration=_under(calibrated, recipe, baselines) if calibrated else kept.calibration,
        data=str(Path(data).resolve()) if data else "",
        fingerprint=dataset.fingerprint,
        seed=kept.seed if options.seed is None else options.seed,
        floor=kept.floor if options.floor is None else options.floor,
        versions=current_versions(),
        sampler=options.sampler or current_name(kept.sampler),
        budgets=options.budgets or kept.budgets,
        objective=options.objective or kept.objective,
        baselines=baselines,
        rungs=_rungs(options, recipe, kept.rungs),
        eta=options.eta or kept.eta,
        target=options.target_imgsz or kept.target,
    )
    measured = bool(kept.latency_on or options.latency)
    engine = options.engine if options.latency else kept.engine
    if engine == SEPARATE:
        _check_separate(wanted)
        return wanted, dataset
    on = _latency_on(wanted.space, recipe, wanted.objective, measured, engine)
    return replace(wanted, latency_on=on, engine=engine), dataset


def settings_as_created(study: Study, options: SearchOptions) -> tuple[Settings, Dataset, SearchOptions]:
    """Return the settings of a study created as this one was, with the options changed; its dataset; all options."""
    kept, stored = study.settings, study.options
    trials = options.trials or study.request
    if stored is None:  # a study of a version that did not store them
        return *changed_settings(study, options), replace(options, trials=trials)
    space = load_space(options.space) if options.space else kept.space
    if not options.space:
        use_stored(space.modules, study.shown)
    known = {"data": kept.data or None, **stored, "sampler": current_name(kept.sampler)}
    if kept.data:  # one of an earlier version has no target, and stays so
        known.setdefault("target_imgsz", kept.target)
    whole = options.completed(known, same_space=space.name == kept.space.name)
    if "trials" in stored:
        whole = replace(whole, trials=trials)
    with _data_may_have_moved(study, whole.data):
        return *new_settings(space, whole), whole


def unchanged_dataset(study: Study, otherwise: str, data: str | None = None) -> Dataset:
    """Return the dataset of a study, after checking that its trials would be trained here as before.

    Args:
        study: With its settings.
        otherwise: How the message starts if they cannot.
        data: Path of the dataset here, if it is not the study's.

    Raises:
        NasError: The data are missing or different, or versions differ.
    """
    wanted, dataset = changed_settings(study, SearchOptions(data=data))
    if differences := study.settings.differences(wanted):
        raise StudyError(f"{otherwise}:\n  " + "\n  ".join(differences))
    return dataset


@contextlib.contextmanager
def _data_may_have_moved(study: Study, data: str | None) -> Iterator[None]:
    """Add to an error of the dataset what helps if it was moved."""
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{error}\nthe study {study.location.name!r} was made on {data}; if it moved, give --data"
        ) from None


def auto_workers(settings: Settings) -> int:
    """Return the number of parallel trainings for ``--workers auto``; one where latencies are measured."""
    recipe, width = settings.recipe, settings.space.width
    return 1 if settings.measures_latency else fitting_workers(recipe.device, recipe.batch, recipe.imgsz, width)


def _under(calibrated: CalibrationResult | None, recipe: Recipe, baselines: str) -> str:
    """Return a calibration as a study stores it, with what differs from the calibrated recipe; empty without one."""
    if calibrated is None:
        return ""
    calibrated = calibrated.under(recipe)
    if calibrated.baselines != baselines:
        more = f"trained baselines: {calibrated.baselines}, not {baselines}"
        calibrated = replace(calibrated, departures=(*calibrated.departures, more))
    return calibrated.to_json()


def _calibrated(options: SearchOptions) -> CalibrationResult | None:
    """Return the calibration that is given."""
    return load_result(calibration_file(options.proxy)) if options.proxy else None


def _rungs(options: SearchOptions, recipe: Recipe, kept: tuple[Rung, ...]) -> tuple[Rung, ...]:
    """Return the requested rungs, or those that are stored.

    Raises:
        OptionError: They cannot be used, or --eta is given without any.
    """
    rungs = read_rungs(options.rungs, recipe) if options.rungs else kept
    if options.eta and not rungs:
        raise OptionError(f"--eta {options.eta} is the halving factor of rungs: give --rungs too")
    return rungs


def _check_separate(settings: Settings) -> None:
    """Raise OptionError if a search needs latencies, and the study's are measured separately."""
    limited = {quantity for budget in settings.budgets for quantity, *_ in budget.limits} | dict(
        settings.space.limits
    ).keys()
    if settings.goal.needs_latency or limited & {"latency_ms", "max_latency_ms"}:
        raise OptionError(
            f"a search cannot measure the latencies of this study, which `nas latency` stored: they are of "
            f"{settings.latency_on}; for an objective, limit or budget of latency, start another study"
        )


def _latency_on(space: SearchSpace, recipe: Recipe, objective: str | None, wanted: bool, engine: str) -> str:
    """Return the machine that latencies are measured on; empty where none is needed."""
    if wanted or Goal(objective or "map").needs_latency or "max_latency_ms" in dict(space.limits):
        from nas.engines.meter import study_machine

        return study_machine(engine, recipe.device)
    return ""
