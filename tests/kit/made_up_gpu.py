"""A GPU that torch believes in."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import torch

CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
"""What PyTorch for CUDA 13.0 is built for."""


def as_torch_sees(monkeypatch, name: str, capability: tuple[int, int]) -> None:
    """Let torch see one GPU, on which bfloat16 tensors can be made in any case."""
    properties = SimpleNamespace(name=name, major=capability[0], minor=capability[1], total_memory=15 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index=0: properties)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CU130)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda index: True)
