"""The result of a calibration, as a search reads it from its file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nas.calibration.calibrator import CALIBRATION_SUFFIX
from nas.errors import CalibrationError, shown
from nas.files import dataclass_from_plain, from_plain, parse_json
from nas.study.settings import SHARED
from nas.training.recipe import Recipe
from nas.training.scores import SCORES

RESULT_SCHEMA = 1
DEFAULT_SCORE = "map_last"
"""The score that ranks without a calibration."""
RESULT_FILE = "calibration.json"


@dataclass(frozen=True)
class CalibrationResult:
    """The chosen proxy of a calibration, its score, and how reliable that is.

    Attributes:
        proxy: Name of the proxy.
        score: The score that ranks.
        recipe: Its recipe; machine settings such as the device are those of the search.
        error: Standard deviation of one run's score in mAP50-95, between variants under the same seed.
        resolution: Smallest difference of mAP50-95 of two variants whose sign one run each gets right in 9 of 10 cases.
        spread: Standard deviation of mAP50-95 between variants.
        spearman: Spearman of one run with full training.
        spearman_interval: Its 95 % interval; None if it could not be estimated.
        on: Description of the variants and data that were used.
        fingerprint: Fingerprint of that dataset.
        base: Base and scale of the variants.
        degrees: Degrees of freedom of `error`.
        departures: Differences of a study's recipe from the calibrated one, one per line.
        baselines: As `nas.study.settings.Settings.baselines`.
    """

    proxy: str
    score: str
    recipe: Recipe
    error: float
    resolution: float
    spread: float
    spearman: float
    spearman_interval: tuple[float, float] | None
    on: str
    fingerprint: str
    base: str
    degrees: int = 0
    departures: tuple[str, ...] = ()
    baselines: str = SHARED

    def under(self, recipe: Recipe) -> CalibrationResult:
        """Return the result for a study with this recipe, with its differences from the calibrated one."""
        machine = ("device", "weights", "weights_digest", "base_lr0")
        same = replace(recipe, **{key: getattr(self.recipe, key) for key in machine})
        return replace(self, departures=tuple(self.recipe.differences(same)))

    def to_json(self) -> str:
        """Return it as text that a study stores."""
        return json.dumps({**asdict(self), "recipe": None}, sort_keys=True)


def load_result(path: Path) -> CalibrationResult:
    """Read the result of a calibration.

    Raises:
        CalibrationError: The file cannot be read, or is not a calibration.
    """
    try:
        body = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CalibrationError(f"cannot read the calibration {path}: {error.strerror or error}") from None
    except ValueError:
        raise CalibrationError(f"{path} is not a calibration: it is not JSON") from None
    try:
        if body["schema"] != RESULT_SCHEMA:
            raise CalibrationError(f"{path} was written by another version of the tool: calibrate again")
        chosen, made = body["chosen"], body["calibration"]
        recipe = replace(from_plain(Recipe, chosen["recipe"], "recipe"), weights="", weights_digest="")
        found = {
            **{key: chosen[key] for key in ("proxy", "score", "error", "resolution", "spread", "spearman")},
            "spearman_interval": chosen["spearman_interval"] or None,
            "on": f"{chosen['variants']} variants of {made['space']['name']} on {made['data'] or 'the demo data'}",
            "fingerprint": made["fingerprint"],
            "base": made["space"]["base"] + made["space"]["scale"],
            "degrees": (chosen["variants"] - 1) * (chosen["seeds"] - 1),
            "baselines": made.get("baselines", SHARED) if recipe.trains_baseline else SHARED,
        }
        result = dataclass_from_plain(CalibrationResult, found, "the result", recipe=recipe)
        if result.score not in SCORES:
            raise ValueError(f"the score {shown(result.score)} is unknown")
        if not 0 <= result.error < math.inf:
            raise ValueError(f"the error is {result.error}, expected a number of at least 0")
    except CalibrationError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise CalibrationError(f"{path} is not a calibration: {error}") from None
    return result


def calibration_file(text: str) -> Path:
    """Return the file of a calibration, given as a path, as its folder, or by its name below ``studies/``.

    Raises:
        CalibrationError: It does not exist, or is not finished.
    """
    named = Path("studies") / f"{text}{CALIBRATION_SUFFIX}" / RESULT_FILE
    for path in (Path(text), Path(text) / RESULT_FILE, named):
        if path.is_file():
            return path
    folder = named.parent
    if folder.is_dir():
        raise CalibrationError(f"the calibration {text!r} is not finished: resume it with `nas calibrate`")
    raise CalibrationError(f"no calibration {text!r}: neither that file nor {named} exists; `nas calibrate` makes one")
