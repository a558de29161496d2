"""The scripts of the gate, and the workflows and hooks that call them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPT = re.compile(r"^\s*(?:exec )?(\.ci/[\w-]+)", re.MULTILINE)


def commands_of(workflow: Path) -> list[str]:
    """Return the commands that a workflow runs."""
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_the_gate_and_the_workflows_run_the_same_checks():
    gate = set(SCRIPT.findall((ROOT / ".ci" / "run").read_text(encoding="utf-8")))
    assert gate >= {".ci/first-run", ".ci/lint", ".ci/types", ".ci/imports", ".ci/test"}
    assert gate <= {script for w in WORKFLOWS for command in commands_of(w) for script in SCRIPT.findall(command)}


def test_called_scripts_are_there():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    called = [hook["entry"] for hook in hooks] + [command for w in WORKFLOWS for command in commands_of(w)]
    called += [file.read_text(encoding="utf-8") for file in (ROOT / ".ci").iterdir()]
    assert {script for text in called for script in SCRIPT.findall(text)} == {
        f".ci/{file.name}" for file in (ROOT / ".ci").iterdir() if file.name != "run"
    }


@pytest.mark.skipif(os.name == "nt", reason="bash")
@pytest.mark.parametrize("script", sorted((ROOT / ".ci").iterdir()), ids=lambda path: path.name)
def test_scripts_are_executable_bash(script):
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    assert not subprocess.run(["bash", "-n", str(script)]).returncode


def test_minimum_versions_are_the_lower_bounds():
    """What `.ci/minimum` tests is what pyproject.toml promises."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (needed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    (extras,) = re.findall(r"^cuda = \[\n.*?^postgres = \[.*?\]$", project, re.MULTILINE | re.DOTALL)
    listed = [Requirement(text) for text in re.findall(r'"(.*?)"', needed + extras)]
    bounds = {r.name: Version(s.version) for r in listed for s in r.specifier if s.operator == ">="}
    assert bounds.keys() == {r.name for r in listed}, "every dependency has a lower bound"
    pins = re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints" / "minimum.txt").read_text(), re.MULTILINE)
    assert {name: Version(version) for name, version in pins if name in bounds} == bounds
