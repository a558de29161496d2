"""Whether a module is being recorded rather than run."""

from __future__ import annotations

import torch


def exporting() -> bool:
    """Return whether the forward is traced or exported, so that sizes must not become constants of the graph."""
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]  # untyped in torch
    # Before 2.7, torch does not say which of the two it does: a compiled model then takes what can be exported.
    exports = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(tracing or torch.onnx.is_in_onnx_export() or exports())
