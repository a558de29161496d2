"""A study of own modules, by the commands that a user gives, each in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nas.cli import cli

HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path):
    """Return a copy of the folder with the space and its module."""
    return Path(shutil.copytree(HERE, tmp_path / "user"))


def nas(folder, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "nas", *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, env=os.environ | environment, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def command(folder, monkeypatch, registry_as_before):
    """Return what runs a command in this process, in that folder; the registry is as before then."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        done = CliRunner().invoke(cli, list(arguments))
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.mark.slow
def test_searched_resumed_moved_and_emitted(folder, tiny_data, tmp_path):
    """The file is edited (refused), is gone (goes on with what the study holds), and the study moves elsewhere."""
    space = folder / "my_space.yaml"
    space.write_text("".join(line for line in space.open() if "up_p4" not in line))
    small = ("--init", "scratch", "--epochs", 1, "--imgsz", 64, "--batch", 8)
    status, _, said = nas(folder, "search", "my_space.yaml", "--data", tiny_data, *small, "--trials", 1)
    assert status == 0, said
    original = (folder / "my_block.py").read_text()
    (folder / "my_block.py").write_text(f"{original}\n# edited\n")
    status, _, said = nas(folder, "search", "my_space.yaml", "--trials", 1)
    assert status == 1
    assert "modules: my_block.py was " in said
    (folder / "my_block.py").unlink()
    status, out, said = nas(folder, "search", "--study", "my_space", "--trials", 1, "--json")
    assert status == 0, said
    rows = json.loads(out)["rows"]
    assert any("MyBlock" in json.dumps(row) for row in rows)
    assert all(row["verdict"] != "failed" for row in rows)
    shutil.copytree(folder / "studies", tmp_path / "elsewhere" / "studies")
    shutil.rmtree(folder)
    elsewhere, fresh = tmp_path / "elsewhere", {"NAS_CACHE": str(tmp_path / "fresh")}
    emit = ("emit-yaml", "--study", "my_space", "--all", "--form", "yaml", "-o", "out")
    status, _, said = nas(elsewhere, *emit, **fresh)
    assert status == 1
    assert "brings Python code of own modules" in said
    status, _, said = nas(elsewhere, *emit, "--trust", **fresh)
    assert status == 0, said
    assert (elsewhere / "out" / "my_block.py").read_text() == original
    (model,) = [p for p in (elsewhere / "out").glob("*.yaml") if "MyBlock" in p.read_text()]
    shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
    status, _, said = nas(elsewhere, "cost", model, **fresh)
    assert status == 1
    assert said.rstrip().endswith("--modules my_block.py")
    status, out, said = nas(elsewhere, "cost", model, "--modules", elsewhere / "out" / "my_block.py", **fresh)
    assert status == 0, said
    assert "GFLOPs" in out


def test_commands_take_a_file(folder, command):
    status, _, said = command("emit-yaml", "--swap", "neck.c2f_p3=MyBlock")
    assert status == 1
    assert "unknown module 'MyBlock'" in said
    status, out, _ = command("ops", "MyBlock", "--modules", "my_block.py")
    assert status == 0
    assert "nas emit-yaml --modules my_block.py --swap neck.c2f_p3=MyBlock -o out/" in out
    assert "not tested: a module of your own" in out
    assert "a training step" not in out
    status, _, said = command("emit-yaml", "--study", "s", "--modules", "my_block.py")
    assert status == 2
    assert "a study or space knows its modules" in said
    status, _, said = command("ops", "--modules", "none.py")
    assert status == 1
    assert said.startswith("error: cannot read none.py")


def test_a_space_with_own_modules_is_proved_and_shown(folder, command):
    status, out, said = command("space", "check", "my_space.yaml")
    assert status == 0, said
    assert out.startswith("my_space: 3 choices build")
    assert "my_block.py" in command("space", "show", "my_space.yaml")[1]
    text = (folder / "my_block.py").read_text()
    (folder / "my_block.py").write_text(text.replace("(2 + n) * inner, c2", "(2 + n) * inner, c2 + 1"))
    status, _, said = command("space", "check", "my_space.yaml")
    assert status == 1
    assert "neck.c2f_p4=MyBlock at scale n: " in said
