"""The folder of a finished model that can be handed on: weights, bundle, ONNX, table, commands, versions."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.emit.bundle import bundle_files, verify_bundle
from nas.emit.forms import Texts
from nas.emit.pretrained import Pretrained
from nas.errors import OutputError, StudyError, one_line
from nas.full.models import Model
from nas.full.ranking import FullRow, rank_full
from nas.full.run import FullRun
from nas.full.start import trained_checkpoint
from nas.full.table import ablation_table
from nas.model.render import ModelFiles, render
from nas.session.options import search_command
from nas.space.bases import task_of_base
from nas.study.study import Study

_TOLERANCE = 1e-3
"""Largest difference between ONNX and PyTorch, in class scores and in boxes as a share of the image side."""
_OPSET = 17


@dataclass(frozen=True)
class Handover:
    """The files of a folder, and what is to be said of them."""

    texts: Texts
    notes: tuple[str, ...]


def model_of(run: FullRun) -> Model:
    """Return the model of a stored run."""
    return Model(run.model, run.kind, run.title, run.name, run.yaml, run.variant, run.params, run.gflops)


def best_run(study: Study, runs: Sequence[FullRun], variant: str) -> FullRun:
    """Return the finished training of a variant with the highest mAP50-95 whose weights are here.

    Raises:
        StudyError: There is none.
    """
    own = [r for r in runs if r.status == "done" and r.of_space and r.model.partition("+")[0] == variant]
    here = [run for run in own if Path(run.weights).is_file()]
    if not here:
        why = f"its weights are not here: {own[-1].weights}" if own else "it has not been trained in full"
        raise StudyError(
            f"{study.shown} has no trained weights of {variant}: {why}; `nas train {study.location.name} "
            f"--variant {variant}` trains it"
        )
    return max(here, key=lambda run: run.map)


def winner_of(rows: Sequence[FullRow]) -> FullRow:
    """Return the first variant of a ranking that is not below the floor, or else the baseline, or else any variant.

    Raises:
        StudyError: There are only models for comparison.
    """
    able = [row for row in rows if row.run.kind == "variant" and not row.below_floor]
    others = [row for kind in ("baseline", "variant") for row in rows if row.run.kind == kind]
    if not (able or others):
        titles = ", ".join(row.run.title for row in rows)
        raise StudyError(f"only models for comparison have been trained ({titles}): there is no winner to hand over")
    return (able or others)[0]


def hand_over(study: Study, rows: Sequence[FullRow], command: Sequence[str]) -> Handover:
    """Return the folder of the winner of a ranking of full trainings.

    Args:
        study: The study.
        rows: The ranking.
        command: The ``nas train`` that made it.

    Raises:
        StudyError: Its weights are not here.
        OutputError: It cannot be built from its bundle, or ONNX gives other results.
    """
    row = winner_of(rows)
    run = best_run(study, row.runs, row.run.model.partition("+")[0])
    model = model_of(run)
    made = trained_checkpoint(model, Path(run.weights))
    drawn = render(run.variant)
    files = ModelFiles(run.name, run.yaml, drawn.snippet, drawn.train)
    texts: dict[str, str | bytes] = {"best.pt": made.content, f"{run.name}.yaml": run.yaml}
    notes = [f"{run.name}: best.pt of seed {run.seed}, mAP50-95 {run.map:.4f}"]
    if run.variant.added:
        parts = bundle_files(run.variant, files, "best.pt", trained=True)
        verify_bundle(parts, files, task_of_base(run.variant.base).name)
        texts |= parts
    exported, said = _onnx(run, made)
    if exported:
        texts["model.onnx"] = exported
    notes.append(said)
    texts["table.md"] = ablation_table(rows, "md")
    texts["table.csv"] = ablation_table(rows, "csv")
    texts["commands.txt"] = _commands(study, command)
    texts["versions.txt"] = "".join(f"{name} {number}\n" for name, number in run.versions)
    return Handover({Path(run.name) / name: content for name, content in texts.items()}, tuple(notes))


def rows_of(study: Study, runs: Sequence[FullRun]) -> list[FullRow]:
    """Return the ranking of some runs of a study."""
    done = [run for run in runs if run.status == "done"]
    return rank_full(done, study.settings.floor, by_map=study.settings.objective == "map")


def _commands(study: Study, command: Sequence[str]) -> str:
    """Return the commands that lead to the folder."""
    search = search_command(study.settings.space.name, study.location.name, study.options or {})
    return f"{search}\n{shlex.join(['nas', *command])}\n"


def _onnx(run: FullRun, made: Pretrained) -> tuple[bytes, str]:
    """Return the model as ONNX, checked against PyTorch, and what is to be said; nothing without the packages for it.

    Raises:
        OutputError: It cannot be exported, or gives other results.
    """
    lacking = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if lacking:
        return b"", f"no ONNX is written: pip install {' '.join(lacking)}"
    yolo = functools.partial(importlib.import_module("ultralytics").YOLO, task=task_of_base(run.variant.base).name)
    with tempfile.TemporaryDirectory(prefix="nas-onnx-") as folder:
        file = Path(folder) / f"{run.name}.pt"
        file.write_bytes(made.content)
        try:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                options: dict[str, Any] = {"imgsz": run.imgsz, "opset": _OPSET, "simplify": False, "device": "cpu"}
                exported = Path(yolo(str(file)).export(format="onnx", verbose=False, **options))
            apart = _apart(yolo(str(file)).model, exported, run.imgsz)
            content = exported.read_bytes()
        except Exception as error:  # of the exporter, of onnx or onnxruntime
            raise OutputError(f"{run.name} cannot be exported as ONNX: {one_line(error)}") from None
    if apart > _TOLERANCE:
        raise OutputError(f"{run.name}: its ONNX differs from PyTorch by {apart:.2g}, more than {_TOLERANCE:g}")
    return content, f"model.onnx: {run.imgsz} px, opset {_OPSET}; it differs from PyTorch by {apart:.1e} at most"


def _apart(model: Any, exported: Path, imgsz: int) -> float:
    """Return the largest difference of the outputs on noise: scores, and boxes as a share of the image side."""
    import numpy as np

    torch = importlib.import_module("torch")
    runtime = importlib.import_module("onnxruntime")
    image = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = model.float().eval().fuse(verbose=False)(image)
    theirs = (found[0] if isinstance(found, tuple | list) else found).numpy()
    session = runtime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    ours = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    if ours.shape != theirs.shape:
        raise ValueError(f"outputs of shape {ours.shape}, not {theirs.shape}")
    if ours.shape[-1] == 6:  # without NMS: boxes by confidence, whose order may change where they are equal
        return float(np.abs(np.sort(ours[..., 4]) - np.sort(theirs[..., 4])).max())
    share = np.ones((ours.shape[1], 1))
    share[:4] = imgsz
    return float((np.abs(ours - theirs) / share).max())
