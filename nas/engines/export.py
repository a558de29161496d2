"""Export a prepared model for an engine: the files that `nas.engines.board` runs."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.engines import Conditions
from nas.errors import BuildError, one_line

OPSET = 17
"""Of ONNX: the one that Ultralytics exports by default is not lower, and every runtime of the last years takes it."""
_PNNX_S = 600


def export_model(
    engine: str, model: nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path, conditions: Conditions
) -> None:
    """Write the files of a model for an engine into a folder.

    Args:
        engine: Its name, with files to export.
        model: A model of `nas.engines.prepare`.
        inputs: Example inputs, of the size and batch that it is exported for.
        folder: An existing folder.
        conditions: The precision.

    Raises:
        BuildError: It cannot be exported; the message has the exporter's.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about values that are constant for one size
            EXPORTERS[engine](model, inputs, folder, conditions)
    except Exception as error:  # of many kinds, by the exporter
        raise BuildError(f"cannot be exported: {one_line(error)}") from error


def to_onnx(model: nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path, _: Conditions) -> None:
    """Write ``model.onnx`` by the exporter that Ultralytics uses."""
    torch.onnx.export(
        model,
        inputs,
        str(folder / "model.onnx"),
        opset_version=OPSET,
        dynamo=False,
        do_constant_folding=True,
        input_names=[f"x{i}" for i in range(len(inputs))],
    )


def to_openvino(model: nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path, conditions: Conditions) -> None:
    """Write ``model.xml`` and ``model.bin`` from a trace, as Ultralytics does."""
    import openvino

    traced: Any = torch.jit.trace(model, inputs, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
    shapes = [list(x.shape) for x in inputs]
    converted = openvino.convert_model(traced, input=shapes, example_input=inputs)
    openvino.save_model(converted, folder / "model.xml", compress_to_fp16=conditions.precision == "fp16")


def to_ncnn(model: nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path, conditions: Conditions) -> None:
    """Write ``model.param`` and ``model.bin`` by PNNX, from a trace, as Ultralytics does.

    Raises:
        RuntimeError: PNNX fails.
    """
    import pnnx

    traced: Any = torch.jit.trace(model, inputs, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
    traced.save(str(folder / "model.pt"))
    shapes = ",".join(f"[{','.join(map(str, x.shape))}]f32" for x in inputs)
    made = {
        **{f"pnnx{kind}": f"pnnx.{kind}" for kind in ("param", "bin", "py", "onnx")},
        "ncnnparam": "model.param",
        "ncnnbin": "model.bin",
        "ncnnpy": "ncnn.py",
    }
    words = [str(pnnx.EXEC_PATH), "model.pt", f"inputshape={shapes}", f"fp16={int(conditions.precision == 'fp16')}"]
    done = subprocess.run(
        [*words, *(f"{key}={file}" for key, file in made.items())],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PNNX_S,
    )
    written = (folder / "model.param").is_file() and (folder / "model.bin").is_file()
    for file in folder.iterdir():
        if file.name not in ("model.param", "model.bin"):
            file.unlink()
    if done.returncode or not written:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise RuntimeError(f"pnnx ends with code {done.returncode}: {said[-1] if said else 'no message'}")


EXPORTERS: dict[str, Callable[[nn.Module, tuple[torch.Tensor, ...], Path, Conditions], None]] = {
    "onnxruntime": to_onnx,
    "openvino": to_openvino,
    "ncnn": to_ncnn,
}
"""Writes for each engine the files of a model."""
