"""The folder that an engine measures: models exported for it, inputs, PyTorch's answers, and the plan."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nas.engines import Conditions, Engine, board
from nas.engines.export import export_model
from nas.engines.prepare import as_deployed, new_model, trained_model
from nas.errors import BuildError, one_line
from nas.model.latency import model_digest

_OF_ROUNDING = 10
"""Difference of an engine that is not its fault, over the error of PyTorch's own float32."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a model, or a part of one.

    Attributes:
        name: Its name in tables.
        digest: What it is known by in stored results: the same for the same model, whatever its name.
        imgsz: Image side in pixels; 0 for a part of a model, whose outputs are compared value by value.
        make: Returns it for an engine, ready for export, and its inputs.
    """

    name: str
    digest: str
    imgsz: int
    make: Callable[[str], tuple[nn.Module, tuple[torch.Tensor, ...]]]


def model_subject(
    name: str, yaml: str, scale: str, conditions: Conditions, tensors: Mapping[str, torch.Tensor] | None = None
) -> Subject:
    """Return a model of a YAML as a subject.

    Args:
        name: Its name in tables.
        yaml: Text of the model YAML.
        scale: Scale letter.
        conditions: Image size and batch.
        tensors: Trained values by name; None for a new model.
    """

    def make(engine: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        model = new_model(yaml, scale) if tensors is None else trained_model(yaml, scale, tensors)
        return as_deployed(model, engine, conditions.imgsz), (images(conditions),)

    return Subject(name, model_digest(yaml, scale), conditions.imgsz, make)


def images(conditions: Conditions) -> torch.Tensor:
    """Return noise images (batch, 3, imgsz, imgsz), always the same."""
    shape = (conditions.batch, 3, conditions.imgsz, conditions.imgsz)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Written:
    """A folder that can be measured.

    Attributes:
        folder: The folder.
        names: The models in it; the first is the baseline.
        failures: Models that are not in it, with the reason for each.
        live: The modules themselves by the name of their folder, for engines that need no export.
    """

    folder: Path
    names: tuple[str, ...]
    failures: dict[str, str]
    live: dict[str, nn.Module]


def write_folder(
    folder: Path, engine: Engine, subjects: Sequence[Subject], conditions: Conditions, note: Callable[[str], None]
) -> Written:
    """Export models for an engine into a folder, with all that `nas.engines.board` needs, and itself as ``run.py``.

    Args:
        folder: An empty or new folder.
        engine: The engine.
        subjects: The models, the baseline first.
        conditions: Under what they will be measured.
        note: Called with a line on progress.

    Returns:
        What was written. A model that cannot be exported is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(board.__file__, folder / board.SCRIPT)
    models, failures, live = [], {}, {}
    inputs: dict[str, str] = {}
    for number, subject in enumerate(subjects):
        note(f"{engine.title}: exporting {subject.name}")
        try:
            module, given = subject.make(engine.name)
            answers = _answers(module, given)
            rounding = _rounding(module, given, answers, subject.imgsz)  # before an export that changes the module
            place = folder / f"m{number:03}"
            place.mkdir()
            if engine.exported:
                export_model(engine.name, module, given, place, conditions)
            else:
                live[place.name] = module
        except BuildError as error:
            failures[subject.name] = str(error)
            continue
        _store(place / "answers.npz", answers)
        models.append(
            {
                "name": subject.name,
                "digest": subject.digest,
                "imgsz": subject.imgsz,
                "folder": place.name,
                "inputs": _stored_inputs(folder, given, inputs),
                "tolerance": max(engine.tolerance[conditions.precision], _OF_ROUNDING * rounding),
            }
        )
    plan = {
        "format": board.FORMAT,
        "engine": engine.name,
        **asdict(conditions),
        "exported_by": engine.versions,
        "models": models,
    }
    (folder / board.PLAN).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    return Written(folder, tuple(str(model["name"]) for model in models), failures, live)


def _answers(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[Any]:
    """Return PyTorch's outputs.

    Raises:
        BuildError: It cannot be run, or gives what is not a number.
    """
    try:
        with torch.no_grad():  # its inference tensors would not be traced
            found = module(*inputs)
    except Exception as error:  # any error of a module's forward is the model's failure
        raise BuildError(f"cannot be run: {one_line(error)}") from error
    arrays = [y.numpy() for y in ([found] if isinstance(found, torch.Tensor) else found)]
    if not all(np.isfinite(y).all() for y in arrays):
        raise BuildError("cannot be compared: PyTorch itself gives values that are not numbers")
    return arrays


def _rounding(module: nn.Module, inputs: tuple[torch.Tensor, ...], answers: Sequence[Any], imgsz: int) -> float:
    """Return the largest error of PyTorch's own answer in float32, by one in float64; 0 where there is none.

    A deep model with sampled points amplifies what is rounded, in every engine.
    """
    try:
        with torch.no_grad():
            found = copy.deepcopy(module).double()(*(x.double() for x in inputs))
        exact = [y.numpy() for y in ([found] if isinstance(found, torch.Tensor) else found)]
        error = max(board.differences(exact, answers, imgsz).values())
    except Exception:  # of a module that is for float32 alone
        return 0.0
    return error if math.isfinite(error) else 0.0


def _stored_inputs(folder: Path, inputs: tuple[torch.Tensor, ...], known: dict[str, str]) -> str:
    """Write inputs, unless a model before has the same, and return the name of their file."""
    arrays = [x.numpy() for x in inputs]
    digest = hashlib.sha256(b"".join(x.tobytes() + str(x.shape).encode() for x in arrays)).hexdigest()
    if digest not in known:
        known[digest] = f"inputs{len(known)}.npz"
        _store(folder / known[digest], arrays)
    return known[digest]


def _store(file: Path, arrays: list[Any]) -> None:
    """Write arrays as `nas.engines.board` reads them."""
    named: dict[str, Any] = {f"x{i}": array for i, array in enumerate(arrays)}
    np.savez(file, **named)
