"""Settings of a study, under which its trials are comparable; they are stored, and compared when it is resumed."""

from __future__ import annotations

import contextlib
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any

from nas.engines import ENGINES, SEPARATE
from nas.errors import OptionError, StudyError, one_line, shown
from nas.files import dataclass_from_plain, from_plain, parse_json
from nas.own.files import file_differences
from nas.space.search_space import SearchSpace
from nas.study import OBJECTIVES
from nas.study.budget import ETA, Rung
from nas.study.objective import Budget, Goal, Prior
from nas.training.recipe import Recipe
from nas.training.scores import SCORES

SHARED, PER_SEED = "one", "one for each seed"
"""Number of trained baselines: one for all seeds, or one for each."""
_SCHEMA = 3
"""Version 3 has several seeds per variant; studies of version 2 have one and can still be read."""
_READABLE = (2, 3)


@dataclass(frozen=True)
class Settings:
    """Settings of a study, under which its trials are comparable.

    Attributes:
        space: The search space.
        recipe: The recipe of the proxies.
        data: Path of the data.yaml, or empty for the demo data. It may move; its fingerprint may not change.
        fingerprint: Fingerprint of the dataset.
        classes: Class names.
        images: Training and validation images.
        seed: First seed of the proxies, and seed of the sampler.
        score: The score of `nas.training.scores.SCORES` that ranks.
        calibration: Result of a calibration of the proxy (`nas.calibration.result.CalibrationResult` as JSON); empty
            without one.
        floor: mAP50-95 that a variant may lose against the baseline before it is ranked below all that do not.
        versions: Versions of the tool and of the packages that influence results.
        sampler: As `nas.samplers.SAMPLERS`, or ``auto``; scores do not depend on it.
        objective: One of `nas.study.OBJECTIVES`.
        latency_on: The machine on which latencies are measured, as `nas.model.latency.machine`; empty if none are.
        engine: The engine that a search measures latencies with, as `nas.engines.ENGINES`; empty for PyTorch on the
            recipe's device. `nas.engines.SEPARATE` where it measures none, as they come from elsewhere. Part of
            `latency_on`.
        table: Digest of the table that is replayed instead of training; empty if proxies are trained.
        baselines: `SHARED`, one trained baseline for all runs, or `PER_SEED`, one for each seed.
        rungs: Rungs below the study's own recipe, the cheapest first.
        eta: Halving factor: 1/eta of the variants on a rung are promoted.
        target: Image size in pixels of the training that the study stands for; 0 is none, as in studies of earlier
            versions.
        budgets: What the variants may cost that the search looks for; scores do not depend on it.
        levels: Shares of the detection levels P3, P4 and P5 at the target, and in the proxy (`nas.data.levels`); empty
            without a target.
    """

    space: SearchSpace
    recipe: Recipe
    data: str
    fingerprint: str
    classes: tuple[str, ...]
    images: tuple[int, int]
    seed: int
    floor: float
    versions: tuple[tuple[str, str], ...]
    score: str = "map"
    calibration: str = ""
    sampler: str = "auto"
    objective: str = "map_per_gflop"
    latency_on: str = ""
    table: str = ""
    baselines: str = SHARED
    rungs: tuple[Rung, ...] = ()
    eta: int = ETA
    target: int = 0
    levels: tuple[tuple[float, ...], ...] = ()
    budgets: tuple[Budget, ...] = ()
    engine: str = ""

    @property
    def deployed_imgsz(self) -> int:
        """Image size in pixels at which latencies are measured: that of the target, or of the proxy without one."""
        return self.target or self.recipe.imgsz

    @property
    def measures_latency(self) -> bool:
        """Whether a search measures latencies."""
        return bool(self.latency_on) and self.engine != SEPARATE

    @property
    def goal(self) -> Goal:
        """The goal of the search."""
        return Goal(self.objective, dict(self.space.limits).get("min_map", 0.0), self.budgets)

    @property
    def fidelities(self) -> tuple[str, ...]:
        """The `nas.study.trial.Trial.fidelity` of each rung; the last is the study's own recipe."""
        return (*(rung.fidelity for rung in self.rungs), "")

    def fidelity_of_rung(self, rung: int | None) -> str:
        """Return the fidelity of the K-th rung, counted from the cheapest; None is the study's own recipe.

        Raises:
            StudyError: There is no such rung.
        """
        every = self.fidelities
        if rung is not None and rung > len(every):
            has = f"{len(every)} rungs" if len(every) > 1 else "no lower rungs: it was created without --rungs"
            raise StudyError(f"the study has {has}")
        return every[rung - 1] if rung else ""

    def rung_of(self, fidelity: str) -> Rung | None:
        """Return the rung of a fidelity; None for the study's own recipe."""
        return next((rung for rung in self.rungs if rung.fidelity == fidelity), None)

    def at(self, fidelity: str) -> Settings:
        """Return the settings by which trials of a rung are proposed and ranked.

        The calibration and the minimum mAP apply to the study's own recipe, not to a cheaper training.
        """
        rung = self.rung_of(fidelity)
        if rung is None:
            return self
        limits = tuple(pair for pair in self.space.limits if pair[0] != "min_map")
        return replace(self, space=replace(self.space, limits=limits), recipe=rung.recipe(self.recipe), calibration="")

    @property
    def calibrated(self) -> dict[str, Any]:
        """The result of the calibration; empty without one."""
        return {**from_plain(Mapping[str, Any], parse_json(self.calibration))} if self.calibration else {}

    @property
    def error(self) -> float | None:
        """Standard deviation of one score by the calibration; None unless that has the same `baselines`."""
        return self.calibrated.get("error") if self.calibrated.get("baselines", SHARED) == self.baselines else None

    @property
    def prior(self) -> Prior | None:
        """The error of a difference by the calibration; None unless data, base, recipe and `baselines` are the same.

        A calibration with one trained baseline has not measured the variance between baselines.
        """
        calibrated = self.calibrated
        here = (self.fingerprint, self.space.base + self.space.scale)
        if (
            (calibrated.get("fingerprint"), calibrated.get("base")) != here
            or calibrated.get("departures")
            or self.error is None
        ):
            return None
        if not calibrated.get("degrees") or not calibrated["error"]:
            return None
        return Prior(math.sqrt(2) * calibrated["error"], calibrated["degrees"])

    @property
    def halving(self) -> str:
        """Description of the rungs; empty without any."""
        return f"{', '.join(rung.fidelity for rung in self.rungs)}, keep 1/{self.eta}" if self.rungs else ""

    def to_json(self) -> str:
        """Return the settings as text."""
        body = {**asdict(self), "recipe": self.recipe.to_json(), "space": self.space.to_json(), "schema": _SCHEMA}
        unused = {"target", "levels"} if not self.target else set()  # studies without a target are stored as before
        unused |= {key for key in ("budgets", "engine") if not body[key]}
        return json.dumps({key: value for key, value in body.items() if key not in unused}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Return the settings that `to_json` wrote.

        Raises:
            StudyError: A version of the tool wrote them that stores studies differently, or they are damaged.
        """
        try:
            body = parse_json(text)
            if body.pop("schema") not in _READABLE:
                raise StudyError("it was made by another version of the tool, which stores studies differently")
            space = SearchSpace.from_json(body.pop("space"))
            found = dataclass_from_plain(cls, body, "settings", space=space)
            found._check()
        except StudyError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise StudyError(f"its settings are damaged: {one_line(error)}") from None
        return found

    def _check(self) -> None:
        """Raise ValueError for a value that no study has."""
        for key, value, known in (("objective", self.objective, OBJECTIVES), ("score", self.score, SCORES)):
            if value not in known:
                raise ValueError(f"{key} is {shown(value)}, expected one of {', '.join(known)}")
        if self.engine not in ("", SEPARATE, *ENGINES):
            raise ValueError(f"engine is {shown(self.engine)}, expected one of {', '.join(ENGINES)}")
        calibrated = parse_json(self.calibration) if self.calibration else {}
        for key in ("error", "degrees"):
            if not isinstance(calibrated.get(key, 0.0), int | float):
                raise ValueError(f"calibration: {key} is {shown(calibrated[key])}, expected a number")

    @staticmethod
    def upgraded(text: str) -> str | None:
        """Return stored settings of an older version in the current schema; None if they have it already.

        Once a study has a trial of this version, an older version must not read it.
        """
        body = parse_json(text)
        return None if body["schema"] == _SCHEMA else json.dumps({**body, "schema": _SCHEMA}, sort_keys=True)

    def differences(self, other: Settings) -> list[str]:
        """List what of `other` differs so that its trials would not be comparable, one per line."""
        found = []
        if self.space.fingerprint != other.space.fingerprint:
            found.append(f"space: it searches {_space_words(self.space)}, not {_space_words(other.space)}")
            found += file_differences(self.space.modules, other.space.modules)
        if self.fingerprint != other.fingerprint:
            found.append(
                f"data: it was made on {self.data or 'the demo data'} (fingerprint {self.fingerprint}), "
                f"{other.data or 'the demo data'} has {other.fingerprint}"
            )
        found += [f"recipe: {line}" for line in self.recipe.differences(other.recipe)]
        for key in ("seed", "floor", "score", "objective", "latency_on", "table", "halving", "baselines", "target"):
            if getattr(self, key) != getattr(other, key):
                mine, theirs = (getattr(s, key) for s in (self, other))
                found.append(f"{_WORDS.get(key, key)}: {_or_none(mine)}, not {_or_none(theirs)}")
        versions = dict(other.versions)
        found += [f"version of {k}: {v}, not {versions.get(k)}" for k, v in self.versions if versions.get(k) != v]
        return found


_WORDS = {
    "latency_on": "latency measured on", "table": "table that is replayed", "halving": "rungs",
    "baselines": "trained baselines", "target": "image size of the target",
}  # fmt: skip


def baselines_of(recipe: Recipe, each: bool | None) -> str:
    """Return `SHARED` or `PER_SEED`; without `each`, it is `PER_SEED` if the recipe trains its baseline.

    Raises:
        OptionError: One for each seed is requested, but the recipe trains none.
    """
    if each and not recipe.trains_baseline:
        raise OptionError(
            "--baseline-per-seed trains a baseline under every seed, and here none is trained: "
            + ("--base-epochs 0 takes it as it is" if recipe.init in ("bank", "baseline") else f"--init {recipe.init}")
        )
    return PER_SEED if (recipe.trains_baseline if each is None else each) else SHARED


def _or_none(value: object) -> object:
    return "none" if value == "" else value


def _space_words(space: SearchSpace) -> str:
    choices = sum(len(s.choices) - 1 for s in space.active)
    return f"{space.name} ({space.stock}, {len(space.active)} slots, {choices} swaps, {space.fingerprint})"


def current_versions() -> tuple[tuple[str, str], ...]:
    """Return the installed versions that influence results."""
    packages = (
        "swapnas", "torch", "torchvision", "ultralytics", "ultralytics-thop", "optuna", "numpy", "opencv-python",
        "opencv-python-headless",
    )  # fmt: skip
    found = [("python", ".".join(platform.python_version_tuple()[:2]))]
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append((package, metadata.version(package)))
    return tuple(found)
