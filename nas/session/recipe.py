"""From options to a recipe: a new study's, or that of an old one with what the options change of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.calibration.result import CalibrationResult
from nas.errors import StudyError
from nas.training.recipe import BASE_EPOCHS, KINDS, Recipe, digest_of, make_recipe

RECIPE_OPTIONS = ("epochs", "imgsz", "batch", "init", "base_epochs", "bank_epochs", "weights", "device", "amp")
"""Options that a recipe is made of."""
CALIBRATED = ("start", "bank_epochs", "bank_lr0", "validations", "lrf", "weight_decay", "optimizer")
"""What a calibration decides of a recipe beside what options can change."""
_DEMO_RECIPE = (2, 128, 8, 16)  # epochs, pixels, images a step, epochs of the baseline: minutes on two cores
_EPOCHS = {"bank": 4, "scratch": 8, "baseline": 8}
_EPOCHS_FROM_FILE = 8


def new_recipe(options: dict[str, Any], calibrated: CalibrationResult | None) -> Recipe:
    """Return the recipe of a new study: a calibration's, or the default one, with what the options change of it."""
    init = _init(options["init"] or (calibrated.recipe.init if calibrated else "bank"))
    demo_epochs, imgsz, batch, base_epochs = _DEMO_RECIPE
    epochs: int = _EPOCHS.get(init, _EPOCHS_FROM_FILE)
    if calibrated:
        epochs, imgsz, batch, base_epochs = (
            getattr(calibrated.recipe, k) for k in ("epochs", "imgsz", "batch", "base_epochs")
        )
    elif options["data"]:
        imgsz, batch, base_epochs = 160, 16, BASE_EPOCHS
    else:
        epochs = min(epochs, demo_epochs)
    given = {key: options[key] for key in ("epochs", "imgsz", "batch", "base_epochs") if options[key] is not None}
    recipe = make_recipe(
        **{"epochs": epochs, "imgsz": imgsz, "batch": batch, "base_epochs": base_epochs, **given},
        init=init,
        device=options["device"],
        weights=weights_file(options["weights"]),
        amp=options["amp"],
    )
    if calibrated:
        recipe = replace(recipe, **{key: getattr(calibrated.recipe, key) for key in CALIBRATED})
        if options["amp"] is None and recipe.device == calibrated.recipe.device == "cpu":
            recipe = replace(recipe, amp=calibrated.recipe.amp)
    if options["bank_epochs"] is not None:
        recipe = replace(recipe, bank_epochs=options["bank_epochs"])
    return sound(recipe)


def sound(recipe: Recipe) -> Recipe:
    """Return the recipe.

    Raises:
        StudyError: It asks for what says nothing.
    """
    if recipe.init == "scratch" and not recipe.epochs:
        raise StudyError("--epochs 0 validates what is inherited; with --init scratch there is nothing to validate")
    if not recipe.base_epochs and recipe.init in ("bank", "baseline") and not recipe.weights:
        raise StudyError("--base-epochs 0 takes the baseline as it is: bring a trained one with --weights FILE.pt")
    return recipe


def changed_recipe(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """Return the recipe with what the options give, and the digest of the file to inherit from as it is now."""
    given: dict[str, Any] = {key: options[key] for key in RECIPE_OPTIONS if options[key] is not None}
    given["init"] = _init(given.get("init", recipe.init))
    given["weights"] = weights_file(given.get("weights", recipe.weights))
    given["init_digest"], given["weights_digest"] = digest_of(given["init"]), digest_of(given["weights"])
    return sound(replace(recipe, **given))


def _init(text: str) -> str:
    """Return a kind of start, or the absolute path of a file that exists.

    Raises:
        StudyError: It is none of these.
    """
    return text if text in KINDS else weights_file(text, f"expected {', '.join(KINDS)}, or a .pt file that exists")


def weights_file(text: str | None, expected: str = "expected a .pt file that exists") -> str:
    """Return the absolute path of a file of weights; empty without one.

    Raises:
        StudyError: There is no such file.
    """
    if not text:
        return ""
    path = Path(text)
    if path.suffix != ".pt" or not path.is_file():
        raise StudyError(f"cannot inherit from {text!r}: {expected}")
    return str(path.resolve())
