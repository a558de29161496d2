"""The latencies of a study: of PyTorch, or of an engine; measured once for each model and machine."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from nas.engines import SEPARATE, Conditions, chosen_engines
from nas.engines.folder import model_subject
from nas.engines.measure import engine_machine, measure_models
from nas.errors import BuildError
from nas.files import write_json
from nas.model import latency
from nas.model.latency import Latency, LatencyMeter, model_digest
from nas.model.render import render
from nas.space.search_space import SearchSpace
from nas.space.variant import Variant


class Meter(Protocol):
    """What a search measures latencies with."""

    def measure(self, yaml: str, scale: str) -> Latency:
        """Return the latency of a model YAML at a scale; raise BuildError if that fails."""


class EngineMeter:
    """Measures models with an engine, with a cache in a folder.

    With a baseline, each model is timed alternately with it: its latency is the baseline's, measured once, times the
    ratio, so that a machine that is slower today than yesterday changes no difference.
    """

    def __init__(self, folder: Path, engine: str, imgsz: int, baseline: Variant | None = None) -> None:
        """Prepare.

        Args:
            folder: Folder of the cache; other machines, engines and sizes may share it.
            engine: Name of the engine.
            imgsz: Image side in pixels.
            baseline: What all models are compared with; None for models that are not.

        Raises:
            OptionError: There is no such engine, or it is not installed.
        """
        self._conditions = Conditions(imgsz)
        (self._engine,) = chosen_engines(engine, self._conditions)
        self.on = engine_machine(self._engine, self._conditions)
        self._folder = folder
        self._baseline = (render(baseline).yaml, baseline.scale) if baseline else None

    def measure(self, yaml: str, scale: str) -> Latency:
        """Return the latency of a model YAML at a scale.

        Raises:
            BuildError: It cannot be built, or the engine does not support it; the message has the module.
            ArtifactError: The cache cannot be written.
        """
        other = self._baseline if self._baseline and self._baseline != (yaml, scale) else None
        where = "\n".join([self.on, str(self._conditions.imgsz), *(other or ())])
        file = self._folder / f"{model_digest(yaml, scale)}-{model_digest(where, '')}.json"
        with contextlib.suppress(OSError, ValueError, TypeError):  # missing, or not whole: measured again
            return Latency(**json.loads(file.read_text(encoding="utf-8")))
        base = self.measure(*other) if other else None
        named = {"the model": (yaml, scale)} if other is None else {"the baseline": other, "the model": (yaml, scale)}
        subjects = [model_subject(name, *model, self._conditions) for name, model in named.items()]
        results = measure_models(self._engine, subjects, self._conditions, lambda _: None)
        if failed := next((result for result in results if result.failure), None):
            raise BuildError(f"cannot be timed: {failed.failure}")
        ms, spread_ms, ratio = results[-1].ms, results[-1].spread_ms, results[-1].ratio
        assert ms is not None
        assert spread_ms is not None
        assert ratio is not None
        ms = base.ms * ratio if base else ms
        found = Latency(ms, spread_ms, results[-1].runs, self._conditions.imgsz, self.on)
        write_json(file, asdict(found))
        return found


def study_meter(engine: str, folder: Path, device: str, imgsz: int, space: SearchSpace | None = None) -> Meter:
    """Return the meter of a study.

    Args:
        engine: Its `nas.study.settings.Settings.engine`.
        folder: Folder of the cache.
        device: ``cpu`` or a CUDA device number, for PyTorch.
        imgsz: Image side in pixels.
        space: Whose baseline all models are compared with; None for models that are not.

    Raises:
        OptionError: There is no such device or engine, or it is not installed.
    """
    if engine in ("", SEPARATE):
        return LatencyMeter(folder, device, imgsz)
    return EngineMeter(folder, engine, imgsz, Variant(space.base, space.scale) if space else None)


def study_machine(engine: str, device: str) -> str:
    """Return everything that a study's latencies depend on besides model and image size; as `study_meter`."""
    if not engine:
        return latency.machine(device)
    conditions = Conditions()
    return engine_machine(chosen_engines(engine, conditions)[0], conditions)
