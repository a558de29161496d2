"""The options of `nas search` and `nas calibrate`, typed: one frozen dataclass travels from click to the study.

An option that was not given has its default, which is None, False or empty. A new option of `nas search` is a field of
`SearchOptions` and a click decorator of the same name; the type checker then finds who has to read it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.study.objective import Budget, read_budgets
from nas.training.recipe import KINDS, Recipe

if TYPE_CHECKING:
    from nas.space.search_space import SearchSpace
    from nas.study.budget import Confirm


def option(*, stored: bool, replay: bool = False, default: Any = None, flag: str = "") -> Any:
    """Return the dataclass field of an option.

    Args:
        stored: Whether a new study stores it, so that the same study can be created again with other options. Not for
            what may be requested anew at each resume (trials are: the first request belongs to the study).
        replay: Whether it has a meaning for `--replay`, where nothing is trained.
        default: Its value when it is not given.
        flag: What the user types, where that is not the field's name.
    """
    return field(default=default, metadata={"stored": stored, "replay": replay, "flag": flag})


@dataclass(frozen=True)
class SpaceOptions:
    """Options that change a search space."""

    scale: str | None = option(stored=True)
    enable: tuple[str, ...] = option(stored=True, default=())
    max_gflops: float | None = option(stored=True, replay=True)
    max_params: float | None = option(stored=True, replay=True)
    max_latency: float | None = option(stored=True, replay=True)
    min_map: float | None = option(stored=True, replay=True)

    def limit(self, space: SearchSpace) -> SearchSpace:
        """Return the space within the limits that are given."""
        return space.with_limits(
            max_gflops=self.max_gflops,
            max_params=self.max_params,
            max_latency_ms=self.max_latency,
            min_map=self.min_map,
        )

    def apply(self, space: SearchSpace) -> SearchSpace:
        """Return the space at the scale, with the slots and within the limits that are given."""
        if self.scale:
            space = space.with_scale(self.scale)
        return self.limit(space.enable(self.enable))


@dataclass(frozen=True)
class TrainingOptions(SpaceOptions):
    """Options that a search and a calibration share."""

    space: str | None = option(stored=False, flag="SPACE")
    data: str | None = option(stored=True)
    imgsz: int | None = option(stored=True)
    window: int | None = option(stored=True)
    batch: int | None = option(stored=True)
    base_epochs: int | None = option(stored=True)
    bank_epochs: int | None = option(stored=True)
    weights: str | None = option(stored=True)
    device: str | None = option(stored=True)
    baseline_per_seed: bool | None = option(stored=True, flag="--baseline-per-seed/--one-baseline")
    workers: int | None = option(stored=False)
    amp: str | bool | None = option(stored=True, flag="--precision")


@dataclass(frozen=True)
class CalibrationOptions(TrainingOptions):
    """The options of ``nas calibrate``; its help says what each means."""

    space: str = option(stored=False, default="", flag="SPACE")
    imgsz: int = option(stored=False, default=160)
    batch: int = option(stored=False, default=16)
    name: str | None = option(stored=False)
    variants: int = option(stored=False, default=8)
    seeds: int = option(stored=False, default=3)
    full_epochs: int = option(stored=False, default=40)
    full_seeds: int = option(stored=False, default=2)
    tune_epochs: int | None = option(stored=False)
    full_from: str | None = option(stored=False)
    storage: str | None = option(stored=False)
    proxies: tuple[str, ...] = option(stored=False, default=())


@dataclass(frozen=True)
class SearchOptions(TrainingOptions):
    """The options of ``nas search``; its help says what each means."""

    study: str | None = option(stored=False, replay=True)
    storage: str | None = option(stored=False, replay=True)
    trials: int | None = option(stored=True, replay=True)
    seeds: int | None = option(stored=False)
    confirm: Confirm | None = option(stored=False)
    target_imgsz: int | None = option(stored=True)
    proxy: str | None = option(stored=True)
    init: str | None = option(stored=True)
    epochs: int | None = option(stored=True)
    seed: int | None = option(stored=True, replay=True)
    floor: float | None = option(stored=True, replay=True)
    objective: str | None = option(stored=True, replay=True)
    budget_gflops: str | None = option(stored=True, replay=True)
    budget_params: str | None = option(stored=True, replay=True)
    budget_latency: str | None = option(stored=True, replay=True)
    sampler: str | None = option(stored=True, replay=True)
    latency: str | bool | None = option(stored=True)
    rungs: str | None = option(stored=True)
    eta: int | None = option(stored=True)
    yardstick: str | None = option(stored=False)
    replay: str | None = option(stored=False, replay=True)
    budget: float | None = option(stored=False)

    def given(self) -> dict[str, Any]:
        """Return the options that were given, by name."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The budgets that are given.

        Raises:
            OptionError: One cannot be read.
        """
        return read_budgets(self.budget_gflops, self.budget_params, self.budget_latency)

    @property
    def engine(self) -> str:
        """The engine that latencies are measured with; empty for PyTorch on the study's device.

        Studies of versions without engines have stored whether latencies are measured.
        """
        return self.latency if isinstance(self.latency, str) and self.latency != "pytorch" else ""

    def of_recipe(self) -> dict[str, Any]:
        """Return the given options that a recipe has a field for."""
        names = {f.name for f in fields(Recipe)}
        return {name: value for name, value in self.given().items() if name in names}

    def to_store(self) -> dict[str, Any]:
        """Return what a study stores of the options: plain values that mean the same in any folder.

        The space is not among them, because a study holds its own; nor are seeds and confirmation, which can be
        requested later.
        """
        from nas.calibration.result import calibration_file

        stored = {f.name for f in fields(self) if f.metadata["stored"]}
        kept = {name: value for name, value in self.given().items() if name in stored}
        for name in ("data", "weights", "init"):
            if name in kept and kept[name] not in KINDS:
                kept[name] = str(Path(kept[name]).resolve())
        if "proxy" in kept:
            kept["proxy"] = str(calibration_file(kept["proxy"]).resolve())
        return kept

    def completed(self, stored: Mapping[str, Any], *, same_space: bool = True) -> SearchOptions:
        """Return these options, and stored ones for what is not given.

        Args:
            stored: As `to_store` returned them.
            same_space: Whether they were stored for the same space; what changes another space may not apply.
        """
        given, names = self.given(), {f.name for f in fields(self)}
        if not same_space:
            names -= {f.name for f in fields(SpaceOptions)}
        missing = {name: value for name, value in stored.items() if name in names and name not in given}
        if "enable" in missing:
            missing["enable"] = tuple(missing["enable"])  # JSON has lists only
        return replace(self, **missing)

    def idle_in_replay(self) -> list[str]:
        """Return the flags of given options that have no meaning where nothing is trained."""
        idle = [f for f in fields(self) if not f.metadata["replay"] and f.name in self.given()]
        return [f.metadata["flag"] or f"--{f.name.replace('_', '-')}" for f in idle]


def search_command(space: str, study: str, stored: Mapping[str, Any]) -> str:
    """Return the command of a search that creates a study again.

    Args:
        space: Name of its space.
        study: Its name.
        stored: Its options, as `SearchOptions.to_store` returned them.
    """
    flags = {f.name: f.metadata["flag"] or f"--{f.name.replace('_', '-')}" for f in fields(SearchOptions)}
    words = ["nas", "search", space, "--study", study]
    for name, value in stored.items():
        if name not in flags or value is None:
            continue
        if name == "baseline_per_seed":
            words.append("--baseline-per-seed" if value else "--one-baseline")
        elif name == "amp":
            words += [flags[name], "bf16" if value == "bf16" else "fp32"]
        elif isinstance(value, bool):
            words += [flags[name]] * value
        else:
            for each in value if isinstance(value, list | tuple) else [value]:
                words += [flags[name], str(each)]
    return shlex.join(words)
