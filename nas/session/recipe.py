"""From options to a recipe: a new one, or a stored one with what the options change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nas.bank.maturity import BASE_UNTIL
from nas.calibration.result import CalibrationResult
from nas.data.demo import WEIGHTS, current_path
from nas.data.fidelity import Fidelity, fidelity_of
from nas.device import choose_device, choose_precision, plain_name
from nas.errors import OptionError, WeightsError
from nas.session.options import SearchOptions
from nas.session.target import NO_TARGET, TARGET_IMGSZ, Target
from nas.space.search_space import SearchSpace
from nas.training.recipe import BASE_EPOCHS, KINDS, SCRATCH_LR0, Recipe, digest_of, make_recipe

_DEMO_RECIPE = (2, 160, 8, 16)  # epochs, pixels, images a step, epochs of the baseline: minutes on two cores
_DEMO_FINE_TUNING = 3  # epochs of the baseline from the demo's own weights
_DEMO_NEW_HEAD = 6  # the same where the task's part of the head is not in these weights
_DEMO_CLASS_IMGSZ = 64  # pixels, of classification: its images are parts of scenes
_DEMO_BANK_EPOCHS = 3
_EPOCHS = {"bank": 4, "scratch": 8, "baseline": 8}
_EPOCHS_FROM_FILE = 8


def new_recipe(options: SearchOptions, calibrated: CalibrationResult | None, target: Target = NO_TARGET) -> Recipe:
    """Return the recipe of a new study: the calibrated or the default one, with what its target and options change."""
    init = _init(options.init or (calibrated.recipe.init if calibrated else "bank"))
    demo_epochs, imgsz, batch, base_epochs = _DEMO_RECIPE
    epochs: int = _EPOCHS.get(init, _EPOCHS_FROM_FILE)
    if calibrated:
        r = calibrated.recipe
        epochs, imgsz, batch, base_epochs = r.epochs, r.imgsz, r.batch, r.base_epochs
    elif options.data:
        imgsz, batch, base_epochs = 160, 16, BASE_EPOCHS
    else:
        epochs = min(epochs, demo_epochs)
        tuning = _DEMO_NEW_HEAD if target.new_head else _DEMO_FINE_TUNING
        base_epochs = tuning if target.weights == str(WEIGHTS) else base_epochs
        imgsz = imgsz if target.has_objects else _DEMO_CLASS_IMGSZ
    proxy = target.proxy or Fidelity(options.imgsz or imgsz)
    given = calibrated or options.weights or target.weights or options.base_epochs is not None
    matures = bool(target.imgsz) and init in ("bank", "baseline") and not given
    recipe = make_recipe(
        epochs=epochs if options.epochs is None else options.epochs,
        imgsz=proxy.imgsz,
        windows_at=proxy.windows_at,
        batch=options.batch or batch,
        base_epochs=base_epochs if options.base_epochs is None else options.base_epochs,
        init=init,
        device=options.device,
        weights=weights_file(options.weights or target.weights),
        base_until=BASE_UNTIL if matures else 0,
        amp=options.amp,
    )
    if target.new_head:
        recipe = replace(recipe, base_lr0=SCRATCH_LR0)
    if calibrated:
        recipe = _as_calibrated(recipe, calibrated.recipe)
        if options.amp is None and recipe.device == calibrated.recipe.device == "cpu":
            recipe = replace(recipe, amp=calibrated.recipe.amp)
    if options.bank_epochs is not None:
        recipe = replace(recipe, bank_epochs=options.bank_epochs)
    elif not (options.data or calibrated):
        recipe = replace(recipe, bank_epochs=_DEMO_BANK_EPOCHS)
    return sound(recipe)


def sound(recipe: Recipe) -> Recipe:
    """Return the recipe.

    Raises:
        OptionError: Its trainings could not tell variants apart.
    """
    if recipe.init == "scratch" and not recipe.epochs:
        raise OptionError("--epochs 0 only validates inherited weights; with --init scratch there are none")
    if not recipe.base_epochs and recipe.init in ("bank", "baseline") and not recipe.weights:
        raise OptionError("--base-epochs 0 uses the baseline without training: give a trained one by --weights FILE.pt")
    return recipe


def check_weights(options: SearchOptions, space: SearchSpace) -> None:
    """Check that the files of weights that options name fit the baseline of a space, before a study is created.

    Raises:
        WeightsError: One does not; the message says why.
    """
    from nas.model.weights_file import weights_problem

    for option, text in (("--weights", options.weights), ("--init", options.init)):
        if text and text not in KINDS and (problem := weights_problem(weights_file(text), space.base, space.scale)):
            raise WeightsError(f"{option} {text} cannot be used: {problem}")


def changed_recipe(recipe: Recipe, options: SearchOptions, calibrated: CalibrationResult | None) -> Recipe:
    """Return the recipe of a study that is resumed, with what a calibration and the options change of it.

    The digests are those of the files of weights as they are now.

    Raises:
        OptionError: An option cannot be used: a device that is not here, for example.
    """
    if calibrated:
        r = calibrated.recipe
        recipe = _as_calibrated(recipe, r)
        recipe = replace(recipe, init=r.init, epochs=r.epochs, imgsz=r.imgsz, batch=r.batch, base_epochs=r.base_epochs)
        recipe = replace(recipe, windows_at=r.windows_at)
    given = options.of_recipe()
    given.update(_changed_images(recipe, options))
    given["init"] = _init(given.get("init", recipe.init))
    given["weights"] = weights_file(given.get("weights", current_path(recipe.weights)))
    given["init_digest"], given["weights_digest"] = digest_of(given["init"]), digest_of(given["weights"])
    if "device" in given:
        given["device"] = choose_device(given["device"])
        if given["device"] == plain_name(recipe.device):  # stored by an earlier version, as it was given
            del given["device"]
    if given.get("amp"):
        choose_precision(choose_device(given.get("device", recipe.device)), given["amp"])
    return sound(replace(recipe, **given))


def _as_calibrated(recipe: Recipe, calibrated: Recipe) -> Recipe:
    """Return the recipe with what a calibration decides in addition to what options can change."""
    return replace(
        recipe,
        start=calibrated.start,
        bank_epochs=calibrated.bank_epochs,
        bank_lr0=calibrated.bank_lr0,
        validations=calibrated.validations,
        validated_on=calibrated.validated_on,
        base_until=calibrated.base_until,
        lrf=calibrated.lrf,
        weight_decay=calibrated.weight_decay,
        optimizer=calibrated.optimizer,
    )


def _changed_images(recipe: Recipe, options: SearchOptions) -> dict[str, int]:
    """Return what --imgsz, --window and --target-imgsz change of a stored recipe, and --base-epochs with them."""
    changed = {} if options.base_epochs is None else {"base_until": 0}
    target = options.target_imgsz or recipe.windows_at or TARGET_IMGSZ
    proxy = fidelity_of(target, options.imgsz, options.window)
    return {**changed, "imgsz": proxy.imgsz, "windows_at": proxy.windows_at} if proxy else changed


def _init(text: str) -> str:
    """Return a kind of start, or the absolute path of a file that exists.

    Raises:
        OptionError: It is none of these.
    """
    return text if text in KINDS else weights_file(text, f"expected {', '.join(KINDS)}, or a .pt file that exists")


def weights_file(text: str | None, expected: str = "expected a .pt file that exists") -> str:
    """Return the absolute path of a file of weights; empty without one.

    Raises:
        OptionError: There is no such file.
    """
    if not text:
        return ""
    path = Path(text)
    if path.suffix != ".pt" or not path.is_file():
        raise OptionError(f"cannot inherit from {text!r}: {expected}")
    return str(path.resolve())
