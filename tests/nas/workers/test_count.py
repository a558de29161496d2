"""How many trainings fit on this machine."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from nas.workers import count

GIB = 2.0**30


@pytest.mark.parametrize(
    ("device", "cores", "free", "imgsz", "width", "expected"),
    [
        ("cpu", 2, 16 * GIB, 160, 0.25, 2),
        ("cpu", 8, 16 * GIB, 160, 0.25, 8),
        ("cpu", 8, 3 * GIB, 160, 0.25, 2),  # 1.2 GB each
        ("cpu", 8, 16 * GIB, 640, 0.25, 2),  # 5.8 GB each
        ("cpu", 8, 16 * GIB, 640, 0.5, 1),
        ("cpu", 8, 0.1 * GIB, 160, 0.25, 1),  # at least one, which may be tight
        ("0", 8, 16 * GIB, 160, 0.25, 1),
    ],
)
def test_as_many_as_cores_and_memory_allow(monkeypatch, device, cores, free, imgsz, width, expected):
    monkeypatch.setattr(count, "available_cores", lambda: cores)
    monkeypatch.setattr(count, "available_memory", lambda: free)
    assert count.fitting_workers(device, 16, imgsz, width) == expected


def test_a_container_s_limit_counts(monkeypatch, tmp_path):
    machine = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=64 * GIB))
    monkeypatch.setitem(sys.modules, "psutil", machine)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(count, "_CGROUPS", (str(tmp_path / "none"), str(limit)))
    assert count.available_memory() == 64 * GIB
    limit.write_text("max\n")
    assert count.available_memory() == 64 * GIB
    limit.write_text(f"{4 * 2**30}\n")
    assert count.available_memory() == 4 * GIB


def test_memory_that_nobody_knows_limits_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(count, "_CGROUPS", ())
    monkeypatch.setattr(count, "available_cores", lambda: 3)
    assert count.fitting_workers("cpu", 16, 160, 1.0) == 3
