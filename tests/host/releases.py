"""Ultralytics releases for tests: fetched once a run, and run where what the old ones need is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nas.errors import HostError
from nas.release import STAND_INS, release_tree

RELEASES = ["8.0.100", "8.0.200", "8.1.40", "8.2.50", "8.3.0", "8.3.70", "8.3.200", "8.4.0", "8.4.100"]


def fetched(version: str, cache: Path) -> Path:
    """Return a release's tree; the test is skipped where there is no network."""
    try:
        return release_tree(version, cache)
    except HostError as error:
        pytest.skip(str(error))


def stand_ins(folder: Path) -> Path:
    """Write what old releases import and building a model does not use."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in STAND_INS.items():
        (folder / name).write_text(text)
    return folder


def run(code: str, *arguments: object, path: list[Path]) -> None:
    """Run Python in a process of its own, with folders to import from."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
