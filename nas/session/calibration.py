"""From the options of ``nas calibrate`` to a calibration that can run, and from a name to a finished one's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nas.bank.artifacts import ArtifactStore
from nas.calibration.calibrator import (
    CALIBRATION_SUFFIX,
    DEFAULT_PROXIES,
    Calibration,
    CalibrationObserver,
    Calibrator,
    full_recipe,
    proxy_recipe,
)
from nas.calibration.given import GivenFull
from nas.data.dataset import load_or_demo, write_resolved
from nas.data.fidelity import Fidelity, check_windows, fidelity_of
from nas.device import describe_device
from nas.errors import OptionError
from nas.session.options import CalibrationOptions
from nas.session.recipe import sound, weights_file
from nas.session.settings import searched_task
from nas.space.space_file import load_space
from nas.study.location import locate
from nas.study.settings import PER_SEED, SHARED, baselines_of, current_versions
from nas.training.recipe import Recipe, make_recipe
from nas.workers.count import fitting_workers
from nas.workers.process import ProxyWorker


def open_calibrator(
    cache: Path, observer: CalibrationObserver, options: CalibrationOptions, given: GivenFull | None = None
) -> Calibrator:
    """Return the calibration that the options of ``nas calibrate`` ask for, ready to run.

    Args:
        cache: Where training processes may write.
        observer: Called on progress.
        options: The options.
        given: Full trainings on the same data, which are taken with their variants instead of making others.

    Raises:
        NasError: Anything about the space, the dataset or the options is wrong.
    """
    space = options.apply(load_space(options.space))
    dataset = load_or_demo(options.data, searched_task(space).name)
    for line in space.left_out:
        observer.note(line)
    if given:
        given.check(space.base, space.scale)
    proxy = fidelity_of(options.imgsz, None, options.window) or Fidelity(options.imgsz)
    common = make_recipe(
        init="bank",
        epochs=0,
        imgsz=proxy.imgsz,
        windows_at=proxy.windows_at,
        batch=options.batch,
        base_epochs=options.base_epochs,
        device=options.device,
        weights=weights_file(options.weights),
        amp=options.amp,
    )
    if options.tune_epochs and not common.weights:
        raise OptionError(
            f"--tune-epochs {options.tune_epochs} starts from trained weights: give them by --weights FILE.pt"
        )
    observer.note(describe_device(common.device, common.amp))
    if options.bank_epochs is not None:
        common = replace(common, bank_epochs=options.bank_epochs)
    names = options.proxies or DEFAULT_PROXIES
    calibration = Calibration(
        space=space,
        variants=len(given.variants) - 1 if given else options.variants,
        data=str(Path(options.data).resolve()) if options.data else "",
        fingerprint=dataset.fingerprint,
        full=_full(common, options, given),
        full_seeds=given.seeds if given else options.full_seeds,
        proxies=tuple((name, sound(proxy_recipe(name, common))) for name in dict.fromkeys(names)),
        seeds=options.seeds,
        versions=current_versions(),
        baselines=baselines_of(common, options.baseline_per_seed),
        tuned=full_recipe(common, options.tune_epochs, tuned=True) if options.tune_epochs else None,
        given=given,
    )
    recipes = [calibration.full, *(recipe for _, recipe in calibration.proxies)]
    check_windows(dataset, [Fidelity(recipe.imgsz, recipe.windows_at) for recipe in recipes])
    name = locate(options.name or Path(options.space).stem).name
    folder = Path("studies") / f"{name}{CALIBRATION_SUFFIX}"
    largest = max(recipe.imgsz for recipe in recipes)
    workers = options.workers or fitting_workers(common.device, common.batch, largest, space.width)
    weights = ArtifactStore(
        folder=Path("studies") / "weights",
        space=space,
        data=write_resolved(dataset, folder),
        fingerprint=dataset.fingerprint,
        versions=calibration.versions,
        seed=0,
        worker=ProxyWorker(cache),
        observer=observer,
        scratch=folder / "run",
        per_seed=calibration.baselines == PER_SEED,
    )
    made = Calibrator(calibration, folder, weights, workers, cache, observer)
    return _as_started(made) if options.baseline_per_seed is None else made


def _full(common: Recipe, options: CalibrationOptions, given: GivenFull | None) -> Recipe:
    """Return the recipe of full training; of one that is given, its epochs and image size."""
    if given is None:
        return full_recipe(common, options.full_epochs)
    return replace(full_recipe(common, given.epochs), imgsz=given.imgsz)


def _as_started(made: Calibrator) -> Calibrator:
    """Return the calibration with one shared baseline if it was started so, as those of earlier versions were."""
    as_one = replace(made.calibration, baselines=SHARED)
    one = replace(made, calibration=as_one, weights=replace(made.weights, per_seed=False))
    if made.calibration.baselines == SHARED or made.has_begun or not one.has_begun:
        return made
    made.observer.note(
        f"{made.folder} was started with one shared baseline and keeps it; under another --name each seed has its own"
    )
    return one
