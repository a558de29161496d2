"""Releases of Ultralytics are fetched once, whole or not at all, and errors say what there is."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from releases import fetched

from nas.emit import releases as release
from nas.emit.patch import read_tree
from nas.emit.releases import nearest, parse_version, release_tree
from nas.errors import HostError


@pytest.fixture
def pip(monkeypatch):
    """Let pip be a function of the folder that it downloads to; returns the commands that were run."""
    commands: list[list[str]] = []

    def set_up(does):
        def run(command, **_):
            commands.append(command)
            said = does(Path(command[command.index("-d") + 1]))
            return SimpleNamespace(returncode=1 if said else 0, stdout="", stderr=said or "")

        monkeypatch.setattr(subprocess, "run", run)
        return commands

    return set_up


def wheel(folder: Path) -> None:
    with zipfile.ZipFile(folder / "ultralytics-8.3.5-py3-none-any.whl", "w") as file:
        file.writestr("ultralytics/__init__.py", '__version__ = "8.3.5"\n')
        file.writestr("ultralytics/nn/tasks.py", "def parse_model(d, ch):\n    pass\n")


def test_fetched_once_without_its_needs(pip, tmp_path):
    commands = pip(wheel)
    root = release_tree("8.3.5", tmp_path)
    assert root == tmp_path / "ultralytics" / "8.3.5"
    assert read_tree(root).release == (8, 3, 5)
    assert release_tree("v8.3.5", tmp_path) == root
    assert len(commands) == 1
    assert {"--no-deps", "ultralytics==8.3.5"} <= set(commands[0])
    assert [p.name for p in root.parent.iterdir()] == ["8.3.5"]


def test_what_an_interrupted_run_left_is_replaced(pip, tmp_path):
    pip(wheel)
    half = tmp_path / "ultralytics" / "8.3.5" / "ultralytics"
    half.mkdir(parents=True)
    assert read_tree(release_tree("8.3.5", tmp_path)).version == "8.3.5"


@pytest.mark.parametrize(
    ("text", "said", "words"),
    [
        ("8.0.99", "", "8.0.100 is the oldest release that can be patched"),
        ("8.3", "", "'8.3' is no release of Ultralytics: expected three numbers"),
        (
            "8.3.999",
            "ERROR: Could not find a version (from versions: 8.0.1, 8.3.250, 8.4.0, 8.4.1)\nERROR: No matching",
            "pip knows no release 8.3.999 of Ultralytics; nearest: 8.3.250, 8.4.0$",
        ),
        ("9.0.0", "(from versions: 8.3.250, 8.4.190)", "nearest: 8.4.190$"),
        ("8.3.5", "(from versions: none)\nERROR: No matching distribution found for ultralytics==8.3.5",
         "cannot fetch Ultralytics 8.3.5 with pip: No matching distribution found .*; --ultralytics PATH"),
        ("8.3.5", "/usr/bin/python: No module named pip", "this Python has no pip; --ultralytics PATH"),
    ],
)  # fmt: skip
def test_what_cannot_be_had(text, said, words, pip, tmp_path):
    pip(lambda _: said)
    with pytest.raises(HostError, match=words):
        release_tree(text, tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("does", [lambda f: None, lambda f: (f / "ultralytics-8.3.5-py3.whl").write_text("x") and None])
def test_a_wheel_that_is_none(does, pip, tmp_path):
    pip(does)
    with pytest.raises(HostError, match=r"pip fetched no wheel of Ultralytics 8.3.5 that can be unpacked"):
        release_tree("8.3.5", tmp_path)


def test_a_cache_that_cannot_be_written(pip, tmp_path):
    pip(wheel)
    (tmp_path / "ultralytics").write_text("a file")
    with pytest.raises(HostError, match=r"cannot keep Ultralytics 8.3.5 .*set NAS_CACHE"):
        release_tree("8.3.5", tmp_path)


def test_names_of_releases():
    assert parse_version(" v8.3.0 ") == (8, 3, 0)
    assert parse_version("./8.3.0") is None
    assert nearest((7, 0, 0)) == "8.0.100"
    assert nearest((8, 3, 7)) == "8.3.7"
    assert nearest((99, 0, 0)) == release.version_text(release.NEWEST)


@pytest.mark.slow
def test_a_real_one(shared_cache):
    tree = read_tree(fetched("8.3.0", shared_cache))
    assert tree.version == "8.3.0"
    with pytest.raises(HostError, match=r"pip knows no release 8\.3\.9999 of Ultralytics; nearest: 8\.3\.\d+, 8\.4\.0"):
        release_tree("8.3.9999", shared_cache)
