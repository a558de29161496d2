"""Ultralytics releases for tests: fetched once a run, and run where what the old ones need is not installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nas.emit.tree import STAND_INS

RELEASES = ["8.0.100", "8.0.200", "8.1.40", "8.2.50", "8.3.0", "8.3.70", "8.3.200", "8.4.0", "8.4.100"]


def fetched(version: str, cache: Path) -> Path:
    """Return a release's tree as `pip install --target` makes it; the test is skipped where there is no network."""
    root = cache / "ultralytics" / version
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent) as folder:
            new = Path(folder) / version
            options = ["--quiet", "--no-deps", "--no-compile", "--retries", "2", "--timeout", "20"]
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                *options,
                "--target",
                str(new),
                f"ultralytics=={version}",
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"cannot fetch Ultralytics {version}: {done.stderr[-300:]}")
            if not root.exists():  # another test process may have been faster
                new.rename(root)
    return root


def stand_ins(folder: Path) -> Path:
    """Write what old releases import and building a model does not use."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in STAND_INS.items():
        (folder / name).write_text(text)
    return folder


FORKS = """
import os, sys
import cv2, torch, torchvision  # what takes long, and what every release imports
for folders, *arguments in JOBS:
    child = os.fork()
    if not child:
        sys.path[:0], sys.argv[1:] = folders, arguments
        exec(CODE)
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"failed for {folders}")
"""


def run_each(code: str, *jobs: tuple[list[Path], list[object]]) -> None:
    """Run Python for each job, (folders to import from, arguments), in a fork of a process that has imported torch."""
    told = [([str(folder) for folder in folders], *map(str, arguments)) for folders, arguments in jobs]
    text = f"JOBS = {told!r}\nCODE = {code!r}\n{FORKS}"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
