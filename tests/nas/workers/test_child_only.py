"""Training code runs in training processes only: the parent process does not import it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nas

ROOT = Path(nas.__file__).parent
CHILD_ONLY = {
    "nas.bank.distil",
    "nas.bank.scoring",
    "nas.bank.student",
    "nas.training.batch_cache",
    "nas.training.checkpoint",
    "nas.training.host_patches",
    "nas.training.initial_state",
    "nas.training.proxy_trainer",
    "nas.training.train",
    "nas.yardstick.prune",
}
DOOR = "nas.workers.worker"
"""The main function of a training process, which imports them when it has set the environment."""
PARENT = ("nas.cli", "nas.session.search", "nas.search.loop", "nas.bank.artifacts", "nas.calibration.calibrator")


def imports_of(file: Path) -> set[str]:
    """Return the modules that a file imports, at its top or inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_only_the_training_process_reaches_training_code():
    modules = {
        ".".join(["nas", *file.relative_to(ROOT).with_suffix("").parts]): imports_of(file)
        for file in ROOT.rglob("*.py")
    }
    assert modules.keys() >= CHILD_ONLY
    assert modules[DOOR] >= {"nas.bank.distil", "nas.training.train"}
    reached = {name: found & CHILD_ONLY for name, found in modules.items() if name not in CHILD_ONLY | {DOOR}}
    assert {name: found for name, found in reached.items() if found} == {}


@pytest.mark.parametrize("name", PARENT)
def test_what_the_parent_imports_holds_no_training_code(name):
    code = f"import sys, {name}; print(sorted(sys.modules.keys() & {CHILD_ONLY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["nas.workers.process", DOOR])
def test_a_training_process_sets_its_environment_before_the_host_is_imported(name):
    """Neither what starts it nor what it runs first imports torch or Ultralytics, which read the environment once."""
    code = f"import sys, {name}; print(sorted({{'torch', 'numpy', 'ultralytics'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
