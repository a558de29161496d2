"""The target of a new study: the image size that the user will train at, and a proxy that sees the same objects."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from nas.calibration.result import CalibrationResult
from nas.data.dataset import Dataset
from nas.data.demo import WEIGHTS, WEIGHTS_OF, current_path
from nas.data.fidelity import Comparison, Fidelity, check_labelled, check_target, compare, fidelity_of
from nas.data.levels import read_labels
from nas.device import CPU, choose_device
from nas.session.options import SearchOptions
from nas.space.bases import task_of_base
from nas.space.graph import with_letter
from nas.space.search_space import SearchSpace
from nas.study.settings import Settings
from nas.task.task import CLASSIFY, DETECT
from nas.training.recipe import Recipe

TARGET_IMGSZ = 640
"""Default image size of a target in pixels: the host's own."""


@dataclass(frozen=True)
class Target:
    """What the user will train, as far as a study has to know it.

    Attributes:
        imgsz: Long side of the images in pixels; 0 is no target, as in studies of earlier versions.
        comparison: Where the boxes fall there, and in the proxy; None without a target, and of classification.
        weights: Trained weights of the stock model that were found and can be used; empty if there are none.
        new_head: Whether a part of the head is not in these weights: those of the demo are a detector's.
        of_images: Of classification, the proxy's image size, which is the target's unless the options say another.
        has_objects: Whether the task has objects (`nas.task.task.Task.has_objects`).
    """

    imgsz: int = 0
    comparison: Comparison | None = None
    weights: str = ""
    new_head: bool = False
    of_images: int = 0
    has_objects: bool = True

    @property
    def proxy(self) -> Fidelity | None:
        """What the proxy sees; None without a target."""
        if self.of_images:
            return Fidelity(self.of_images)
        return self.comparison.proxy if self.comparison else None

    @property
    def levels(self) -> tuple[tuple[float, ...], ...]:
        """The shares of the detection levels at the target and in the proxy; empty without a target."""
        seen = self.comparison
        return (seen.wanted.of, seen.got.of) if seen else ()


NO_TARGET = Target()
"""Of a study without a target."""


def target_of(
    space: SearchSpace, options: SearchOptions, dataset: Dataset, calibrated: CalibrationResult | None
) -> Target:
    """Return the target of a new study, with a proxy that is chosen for it unless the options say which.

    Of classification, where there are no boxes, it is the target's own size, and windows are refused. Of the others, on
    a CPU, it is the cheapest in which the boxes fall on the detection levels as at the target; on a GPU the
    target's own size. The demo data have a target only if one is given.

    Raises:
        OptionError: The options contradict each other, or the target is no size that the host trains.
        DataError: The proxy would see no object, or the target would.
    """
    asked, recipe = options.target_imgsz, calibrated.recipe if calibrated else None
    windows_at = recipe.windows_at if recipe else 0
    task = task_of_base(space.base)
    own_start = options.init in (None, "bank", "baseline") and not options.weights
    if options.window:
        check_labelled(dataset)
    if asked == 0 or not (options.data or asked or options.window or windows_at):
        of_demo = (
            own_start
            and not (options.data or calibrated)
            and (space.base.removesuffix(task.mark), space.scale) == WEIGHTS_OF
        )
        untargeted = Target(weights=str(WEIGHTS), new_head=task is not DETECT) if of_demo else NO_TARGET
        return replace(untargeted, has_objects=task.has_objects)
    if not task.has_objects:
        return _of_images(space, options, recipe, own_start)
    target = check_target(asked) if asked else windows_at or TARGET_IMGSZ
    proxy = fidelity_of(target, options.imgsz, options.window)
    if not proxy and recipe:
        proxy = Fidelity(recipe.imgsz, recipe.windows_at)
    if not proxy and choose_device(options.device) != CPU:
        proxy = Fidelity(target)
    comparison = compare(read_labels(dataset)[0], target, proxy)
    found = find_weights(space.base, space.scale) if own_start and not recipe else None
    return Target(target, comparison, str(found[0]) if found and not found[1] else "")


def _of_images(space: SearchSpace, options: SearchOptions, recipe: Recipe | None, own_start: bool) -> Target:
    """Return the target of classification: there are no levels to compare, so a proxy has its image size."""
    target = check_target(options.target_imgsz) if options.target_imgsz else CLASSIFY.imgsz
    found = find_weights(space.base, space.scale) if own_start and not recipe else None
    weights = str(found[0]) if found and not found[1] else ""
    of_images = options.imgsz or (recipe.imgsz if recipe else target)
    return Target(target, None, weights, of_images=of_images, has_objects=False)


def target_notes(settings: Settings, dataset: Dataset) -> list[str]:
    """Return what a search says of its target before it starts; nothing for a study without one."""
    recipe = settings.recipe
    if not settings.target:
        if not recipe.weights or current_path(recipe.weights) != str(WEIGHTS):
            return []
        task = task_of_base(settings.space.base)
        rest = "" if task is DETECT else f", for detection; what {task.words} adds to the head is trained here"
        return [f"the baseline starts from weights that were trained on other scenes of the demo{rest}"]
    if task_of_base(settings.space.base).has_objects:
        seen = compare(read_labels(dataset)[0], settings.target, Fidelity(recipe.imgsz, recipe.windows_at))
        lines = [seen.line, *([seen.warning] if seen.warning else [])]
    else:
        lines = [f"target: images of {settings.target} px; the proxy's are of {recipe.imgsz} px"]
    if recipe.init not in ("bank", "baseline"):
        return lines
    if recipe.weights:
        return [*lines, f"the baseline starts from trained weights: {recipe.weights}"]
    found = find_weights(settings.space.base, settings.space.scale)
    name = f"{with_letter(settings.space.base, settings.space.scale)}.pt"
    if recipe.base_until:
        how = f"until its validation is flat, for {recipe.base_until} epochs at most"
        weights = f"{found[0]} is not used: {found[1]}" if found and found[1] else f"no {name} was found"
        lines.append(
            f"{weights}; the baseline is trained from scratch {how}. --weights FILE.pt starts from trained ones"
        )
    return lines


def find_weights(base: str, scale: str) -> tuple[Path, str] | None:
    """Return the file of a stock model's weights, such as yolov8n.pt, and why it cannot be used; None without one.

    It is in the working folder, or where the host keeps weights. It is not the user who names it, so nothing in it is
    run: one that does not load so cannot be used.
    """
    for folder in (Path.cwd(), *_host_folders()):
        file = folder / f"{with_letter(base, scale)}.pt"
        if file.is_file():
            from nas.model.weights_file import weights_problem

            return file.resolve(), weights_problem(str(file), base, scale)
    return None


def _host_folders() -> list[Path]:
    """Return the folder in which the user's Ultralytics keeps weights, if its settings name one."""
    home = Path.home()
    if sys.platform == "win32":
        configs = home / "AppData" / "Roaming"
    elif sys.platform == "darwin":
        configs = home / "Library" / "Application Support"
    else:
        configs = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    for folder in dict.fromkeys((Path(os.environ.get("YOLO_CONFIG_DIR") or configs), configs)):
        try:
            return [Path(json.loads((folder / "Ultralytics" / "settings.json").read_text("utf-8"))["weights_dir"])]
        except (OSError, ValueError, KeyError, TypeError):  # missing, or not as the host writes it
            continue
    return []
