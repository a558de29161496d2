"""Whether a module is being recorded rather than run."""

from __future__ import annotations

import torch


def exporting() -> bool:
    """Return whether the forward is traced or exported, so that sizes must not become constants of the graph."""
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]  # untyped in torch
    return bool(tracing or torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting())
