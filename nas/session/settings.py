"""From options to a study's settings: a new one's, or those of an old one with what the options change of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.calibration.result import DEFAULT_SCORE, CalibrationResult, calibration_file, load_result
from nas.data.dataset import Dataset, load_or_demo
from nas.errors import DataError, StudyError
from nas.own import use
from nas.samplers import AUTO, current_name
from nas.session.recipe import CALIBRATED, RECIPE_OPTIONS, changed_recipe, new_recipe
from nas.space.search_space import SearchSpace
from nas.space.space_file import load_space
from nas.study.budget import ETA, Rung, read_rungs
from nas.study.objective import Goal
from nas.study.settings import SHARED, Settings, baselines_of, current_versions
from nas.study.study import Study
from nas.training.recipe import KINDS, Recipe


def new_settings(space: SearchSpace, options: dict[str, Any]) -> tuple[Settings, Dataset]:
    """Return the settings of a new study, and its dataset."""
    space = _limited(space, options)
    dataset = load_or_demo(options["data"])
    calibrated = _calibrated(options)
    recipe = new_recipe(options, calibrated)
    each = options["baseline_per_seed"]
    if each is None and calibrated and calibrated.baselines == SHARED:
        each = False
    baselines = baselines_of(recipe, each)
    settings = Settings(
        space=space,
        recipe=recipe,
        score=calibrated.score if calibrated else DEFAULT_SCORE,
        calibration=_under(calibrated, recipe, baselines),
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


def changed_settings(study: Study, options: dict[str, Any]) -> tuple[Settings, Dataset]:
    """Return a study's settings with what the options change of them, and its dataset."""
    kept = study.settings
    data = options["data"] or kept.data or None
    with _data_may_have_moved(study, data):
        dataset = load_or_demo(data)
    calibrated = _calibrated(options)
    recipe = kept.recipe
    if calibrated:
        asked = ("init", "epochs", "imgsz", "batch", "base_epochs", *CALIBRATED)
        recipe = replace(recipe, **{key: getattr(calibrated.recipe, key) for key in asked})
    recipe = changed_recipe(recipe, options)
    if not options["space"]:
        use(kept.space.modules)
    each = options["baseline_per_seed"]
    baselines = kept.baselines if each is None else baselines_of(recipe, each)
    wanted = replace(
        kept,
        space=_limited(load_space(options["space"]) if options["space"] else kept.space, options),
        recipe=recipe,
        score=calibrated.score if calibrated else kept.score,
        calibration=_under(calibrated, recipe, baselines) if calibrated else kept.calibration,
        data=str(Path(data).resolve()) if data else "",
        fingerprint=dataset.fingerprint,
        seed=kept.seed if options["seed"] is None else options["seed"],
        floor=kept.floor if options["floor"] is None else options["floor"],
        versions=current_versions(),
        sampler=options["sampler"] or current_name(kept.sampler),
        objective=options["objective"] or kept.objective,
        baselines=baselines,
        rungs=_rungs(options, recipe, kept.rungs),
        eta=options["eta"] or kept.eta,
    )
    measured = bool(kept.latency_on) or options["latency"]
    return replace(wanted, latency_on=_latency_on(wanted.space, recipe, wanted.objective, measured)), dataset


def settings_as_begun(study: Study, options: dict[str, Any]) -> tuple[Settings, Dataset, dict[str, Any]]:
    """Return the settings of a study begun as this one was but for the options, its dataset, and all options."""
    kept, before = study.settings, study.options
    asked = {"trials": options["trials"] or study.request}
    if before is None:  # it does not say how it was begun
        return *changed_settings(study, options), {**options, **asked}
    space = kept.space
    if options["space"]:
        space = load_space(options["space"])
        if space.name != kept.space.name:  # to which what was said of the other one may not apply
            before = {key: value for key, value in before.items() if key not in OF_A_SPACE}
    else:
        use(space.modules)
    whole = merged({"data": kept.data or None, **before, "sampler": current_name(kept.sampler)}, options)
    if "trials" in before:
        whole.update(asked)
    with _data_may_have_moved(study, whole["data"]):
        return *new_settings(space, whole), whole


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
    wanted, dataset = changed_settings(study, options)
    if differences := study.settings.differences(wanted):
        raise StudyError(f"{otherwise}:\n  " + "\n  ".join(differences))
    return dataset


@contextlib.contextmanager
def _data_may_have_moved(study: Study, data: str | None) -> Iterator[None]:
    """Add to an error in a study's dataset what would do if it is no longer where it was."""
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{error}\nthe study {study.location.name!r} was made on {data}; if it moved, give --data"
        ) from None


def _under(calibrated: CalibrationResult | None, recipe: Recipe, baselines: str) -> str:
    """Return what a calibration says of a study, with what of it is not as it was calibrated; empty without one."""
    if calibrated is None:
        return ""
    calibrated = calibrated.under(recipe)
    if calibrated.baselines != baselines:
        more = f"trained baselines: {calibrated.baselines}, not {baselines}"
        calibrated = replace(calibrated, departures=(*calibrated.departures, more))
    return calibrated.to_json()


def _calibrated(options: dict[str, Any]) -> CalibrationResult | None:
    """Return the calibration that is given."""
    return load_result(calibration_file(options["proxy"])) if options["proxy"] else None


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
        from nas.model.latency import machine

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


OF_A_STUDY = (
    "data", "proxy", "space", "scale", "max_gflops", "max_params", "max_latency", "min_map", "seed", "floor",
    "objective", "latency", "rungs", "eta", "baseline_per_seed",
)  # fmt: skip
"""Options that decide what a study's scores are, beside those of its recipe."""
OF_A_SPACE = ("scale", "enable", "max_gflops", "max_params", "max_latency", "min_map")
"""Options that change the space."""
_KEPT = (*(key for key in OF_A_STUDY if key != "space"), "enable", "sampler", "trials", *RECIPE_OPTIONS)


def kept_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, as plain values that mean the same in any folder.

    The space is not among them: a study holds its own. Nor are seeds and confirmation, which may be asked for later.
    """
    given = {key: options[key] for key in _KEPT if _is_given(key, options[key])}
    for key in ("data", "weights", "init"):
        if key in given and given[key] not in KINDS:
            given[key] = str(Path(given[key]).resolve())
    if "proxy" in given:
        given["proxy"] = str(calibration_file(given["proxy"]).resolve())
    return given


def merged(kept: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, and those that were kept for what is not given."""
    before = {key: value for key, value in kept.items() if not _is_given(key, options[key])}
    if "enable" in before:
        before["enable"] = tuple(before["enable"])
    return {**options, **before}


def _is_given(key: str, value: Any) -> bool:
    """Whether an option has been given; `--latency` is a flag, and `--enable` may be given several times."""
    return bool(value) if key in ("latency", "enable") else value is not None
