"""What a study was asked for: the options that it was begun with, kept so that it can be begun anew with others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.calibration_options import calibration_file
from nas.recipe import KINDS
from nas.recipe_options import RECIPE_OPTIONS

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
