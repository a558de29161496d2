"""Measure models with an engine on this machine: export, compare, time; name the module that it does not support."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.engines import Conditions, Engine, board
from nas.engines.folder import Subject, Written, write_folder
from nas.engines.prepare import Part
from nas.errors import BuildError, NasError
from nas.fork.names import registered_name
from nas.model.host import version
from nas.ops import registry


@dataclass(frozen=True)
class EngineLatency:
    """What an engine makes of a model.

    Attributes:
        name: The model.
        digest: As `nas.engines.folder.Subject.digest`.
        failure: Why it was not timed: it cannot be exported or run, or its answer is another; empty if it was.
        boxes: Largest difference of boxes from PyTorch's, as a share of the image side.
        scores: The same of class scores.
        values: Of a part of a model: of its values, as a share of the largest.
        ms: Median milliseconds of a run.
        spread_ms: Interquartile range of the runs.
        runs: Number of runs.
        ratio: Time over that of the baseline, which alternated with it: the median over rounds.
        ratio_low: Lower quartile of the ratio.
        ratio_high: Upper quartile.
    """

    name: str
    digest: str
    failure: str = ""
    boxes: float | None = None
    scores: float | None = None
    values: float | None = None
    ms: float | None = None
    spread_ms: float | None = None
    runs: int = 0
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None


def engine_machine(engine: Engine, conditions: Conditions) -> str:
    """Return everything that a latency of an engine depends on here besides the model, in one line."""
    threads = f"{conditions.threads} thread{'s' * (conditions.threads > 1)}"
    batch = f", batch {conditions.batch}" * (conditions.batch > 1)
    versions = f"{engine.versions}, {'' if 'torch' in engine.packages else f'torch {torch.__version__}, '}"
    return (
        f"{board.machine()}, {threads}, {engine.title} {conditions.precision}{batch}, {versions}ultralytics {version()}"
    )


def measure_models(
    engine: Engine, subjects: Sequence[Subject], conditions: Conditions, note: Callable[[str], None]
) -> list[EngineLatency]:
    """Export models for an engine, compare its answers with PyTorch's, and time them alternately with the first.

    Args:
        engine: The engine, which is installed.
        subjects: The models, the baseline first.
        conditions: Image size, batch, threads, precision.
        note: Called with a line on progress.

    Returns:
        A result for each model. If the baseline has failed, the first model that has not takes its place.
    """
    with tempfile.TemporaryDirectory(prefix="nas-engine-") as folder:
        written = write_folder(Path(folder), engine, subjects, conditions, note)
        found = {name: EngineLatency(name, "", failure) for name, failure in written.failures.items()}
        first = ""
        for name in written.names:
            note(f"{engine.title}: measuring {name}")
            found[name] = result_of(_measured(written, engine, name, first))
            first = first or ("" if found[name].failure else name)
    results = []
    for subject in subjects:
        result = found[subject.name]
        if result.failure:
            note(f"{engine.title}: finding the layer that fails in {subject.name}")
            why = _explained(result.failure, subject, engine, conditions)
            result = replace(result, digest=subject.digest, failure=why)
        results.append(result)
    return results


def result_of(body: dict[str, Any]) -> EngineLatency:
    """Return a result of `nas.engines.board`, of which a file may have more than is known here."""
    known = {f.name for f in fields(EngineLatency)}
    return EngineLatency(**{key: value for key, value in body.items() if key in known})


def _measured(written: Written, engine: Engine, name: str, baseline: str = "") -> dict[str, Any]:
    """Return the result of a model of a folder, which alternates with another."""
    if engine.exported:
        return board.measure_in_process(written.folder, name, baseline)
    from nas.engines.live import loader

    return board.measure(written.folder, name, baseline, {engine.name: loader(engine.name, written.live)})


def _explained(failure: str, subject: Subject, engine: Engine, conditions: Conditions) -> str:
    """Return why a model has failed, with the modules in it that fail alone."""
    try:
        model, inputs = subject.make(engine.name)
        failing = _failing_layers(model, inputs, engine, conditions) if subject.imgsz else {}
    except NasError:  # it cannot be built at all
        return failure
    if not failing:
        return failure
    return "; ".join(f"{engine.title} does not support {name}: {why}" for name, why in failing.items())


def _failing_layers(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], engine: Engine, conditions: Conditions
) -> dict[str, str]:
    """Return the classes of layers that fail in an engine by themselves, with the reason for each."""
    parts: dict[str, tuple[nn.Module, list[torch.Tensor] | torch.Tensor]] = {}
    for layer, taken in _layers(model, inputs):
        name = registered_name(type(layer).__name__) or type(layer).__name__
        parts.setdefault(name, (layer, taken))
    ours = {name: part for name, part in parts.items() if name in registry.entries()}
    alone = Conditions(conditions.imgsz, conditions.batch, conditions.threads, conditions.precision, rounds=0)
    for group in (ours, {name: part for name, part in parts.items() if name not in ours}):
        subjects = [part_subject(name, layer, taken) for name, (layer, taken) in group.items()]
        found = {}
        with tempfile.TemporaryDirectory(prefix="nas-engine-") as folder:
            written = write_folder(Path(folder), engine, subjects, alone, lambda _: None)
            found = dict(written.failures)
            for name in written.names:
                if failure := _measured(written, engine, name)["failure"]:
                    found[name] = str(failure)
        if found:
            return found
    return {}


def part_subject(name: str, layer: nn.Module, taken: list[torch.Tensor] | torch.Tensor) -> Subject:
    """Return a layer with its input, a map or a list of maps, as a subject."""
    several = isinstance(taken, list)
    maps = tuple(taken) if isinstance(taken, list) else (taken,)
    return Subject(name, name, 0, lambda _: (Part(layer, several).eval(), maps))


def _layers(model: Any, inputs: tuple[torch.Tensor, ...]) -> list[tuple[nn.Module, list[torch.Tensor] | torch.Tensor]]:
    """Return the layers of a model of Ultralytics, each with what it takes when the model runs."""
    found: list[tuple[nn.Module, list[torch.Tensor] | torch.Tensor]] = []

    def record(layer: nn.Module, given: tuple[Any, ...]) -> None:
        found.append((layer, list(given[0]) if isinstance(given[0], list) else given[0]))

    handles = [layer.register_forward_pre_hook(record) for layer in model.model]
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:  # any error of a module's forward
        raise BuildError(f"cannot be run: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return found
