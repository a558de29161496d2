"""What the documents say is what the tool does.

`NAS_REGENERATE=1 pytest tests/test_docs.py` writes docs/commands.md anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nas.cli import cli

ROOT = Path(__file__).parents[1]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


def reference() -> str:
    parts = ["# Commands\n", "What `--help` says. Written by `NAS_REGENERATE=1 pytest tests/test_docs.py`.\n"]
    for path in [(), *commands(cli)]:
        text = CliRunner().invoke(cli, [*path, "--help"], prog_name="nas", terminal_width=100).output
        parts.append(f"## {' '.join(('nas', *path))}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def test_command_reference_is_current():
    file = ROOT / "docs" / "commands.md"
    if os.environ.get("NAS_REGENERATE"):
        file.write_text(reference(), encoding="utf-8")
    assert file.read_text(encoding="utf-8") == reference()


def documented_lines() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [m.strip() for m in re.findall(r"^ {4}(nas [a-z].*)$", text, re.MULTILINE)]


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in commands(cli):
        assert f"nas {' '.join(path)}" in text, path


@pytest.mark.parametrize("line", documented_lines())
def test_options_in_the_readme_exist(line):
    """Every `nas` line of the README parses: its command and options are there (nothing is run)."""
    words = line.split("#")[0].replace("'", "").split()[1:]
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {w for w in words if w.startswith("-")} <= known
