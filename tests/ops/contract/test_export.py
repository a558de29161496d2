"""What every registered module promises when the host fuses, traces, exports or compiles it."""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from contract_cases import Case, every_case, every_entry, run, slots_of, tensors
from torch import nn
from ultralytics.nn.tasks import BaseModel

OPSETS = (17, 20)
"""That of Ultralytics and `nas.engines.export`, and the newest that this exporter writes."""


class Host(BaseModel):
    """An Ultralytics model of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(layer)

    def is_fused(self, thresh: int = 0) -> bool:  # the host's own looks at the number of norms
        return False


@every_case
def test_fuse_changes_nothing(case, perturb):
    module, x = perturb(case.build()).eval(), case.inputs()
    expected = run(module, x)
    Host(module).fuse(verbose=False)
    torch.testing.assert_close(run(module, x), expected, rtol=1e-4, atol=1e-4)


@every_case
def test_trace(case, perturb):
    module, x = perturb(case.build()).eval(), case.inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the host still exports so
        traced = torch.jit.trace(module, (x,), check_trace=False)
    for other in (x, case.inputs(3), case.inputs(1)):
        torch.testing.assert_close(run(traced, other), run(module, other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("opset", OPSETS)
@every_case
def test_onnx(case, opset, perturb, tmp_path):
    """Exported as Ultralytics does, at batch 1; run at other batches and sizes."""
    module = perturb(case.build()).eval()
    path = str(tmp_path / "module.onnx")
    x = case.inputs(1)
    names = [f"x{i}" for i in range(len(tensors(x)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (x,),
            path,
            opset_version=opset,
            dynamo=False,
            input_names=names,
            output_names=["y"],
            dynamic_axes={t: {0: "batch", 2: f"height of {t}", 3: f"width of {t}"} for t in (*names, "y")},
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for x in (case.inputs(1), case.inputs(2), case.inputs(3, 8, 5)):
        (y,) = session.run(None, {name: t.numpy() for name, t in zip(names, tensors(x), strict=True)})
        expected = run(module, x).numpy()
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@every_entry
def test_export_for_any_batch(entry, perturb):
    """By torch.export, which newer ONNX exporters and compilers start from."""
    case = Case(entry, slots_of(entry)[0])
    module, x = perturb(case.build()).eval(), case.inputs(2)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    shapes = ([batch] * len(x),) if isinstance(x, list) else (batch,)
    program = torch.export.export(module, (x,), dynamic_shapes=shapes)
    for other in (case.inputs(1), case.inputs(3)):
        torch.testing.assert_close(program.module()(other), run(module, other), rtol=1e-4, atol=1e-4)


@every_entry
def test_compile_takes_the_whole_of_it(entry, perturb):
    """Captured as one graph, forward and backward, without generating code: what is slow to compile is not tested."""
    case = Case(entry, slots_of(entry)[0])
    module, x = perturb(case.build()).eval(), case.inputs(2)
    torch.compiler.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    y = compiled(x)
    torch.testing.assert_close(y, run(module, x), rtol=1e-4, atol=1e-4)
    if y.requires_grad:
        y.sum().backward()
        assert all(p.grad is not None for p in module.parameters())
