"""What the documents say is what the tool does.

`NAS_REGENERATE=1 pytest tests/test_docs.py` writes docs/commands.md and docs/modules.md anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import nas.ops  # noqa: F401  registers the modules
from nas.cli import cli
from nas.model.module_card import WHERE, in_order, kinds_of, measure_module, timed_how, timing, usage
from nas.ops.registry import Entry, entries

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


def modules_page() -> str:
    """Return the page on the registered modules."""
    parts = [
        "# Modules\n",
        "What can be swapped in or inserted.",
        "Written from the registry by `NAS_REGENERATE=1 pytest tests/test_docs.py`.\n",
        "The contract tests run over each: any image size, batch 1, CPU, half precision, channels_last, deepcopy,",
        "pickle, ONNX (opset 17, any batch and size), TorchScript, `torch.export`, `torch.compile`, and equal outputs",
        f"after `fuse()`. Parameters and MACs are those of {WHERE}, with defaults. Time is a step (forward and",
        "backward) of plain PyTorch on a CPU over that of the layer beside which it stands",
        f"(`benchmarks/modules_cpu.py`; {timed_how()}). An attention replaces nothing: its time",
        "is over that of the C2f block in front of it. Under `fuse()` stands how many of the batch norms Ultralytics",
        "folds.\n",
    ]
    listed = sorted(entries().values(), key=in_order)
    for kinds in dict.fromkeys(map(kinds_of, listed)):
        group = [e for e in listed if kinds_of(e) == kinds]
        parts += [
            f"## {kinds}\n",
            "| module | parameters | MACs | time | fuse() | paper |",
            "|---|--:|--:|--:|---|---|",
        ]
        parts += [module_row(e) for e in group]
        parts += ["", *(line for e in group for line in module_lines(e))]
    return "\n".join(parts).rstrip() + "\n"


def module_row(entry: Entry) -> str:
    figures, timed = measure_module(entry), timing(entry)
    assert timed, f"no time of {entry.name}: python benchmarks/modules_cpu.py --only {entry.name}"
    macs = f"{figures.macs / 1e6:.3g} M" if figures.macs else "0"
    return f"| {entry.name} | {figures.params:,} | {macs} | {timed.text} | {figures.fuse} | {entry.paper} |"


def module_lines(entry: Entry) -> list[str]:
    lines = [f"**{entry.name}**: {entry.summary}."]
    if entry.native:
        lines[0] += " Ultralytics' own class, which needs no registration."
    if entry.requires:
        lines.append(f"Needs {entry.requires}.")
    if entry.starts:
        lines.append(f"In a trained model it starts as {entry.starts}.")
    lines += [""] * bool(entry.args)
    lines += [f"- `{a.name}` ({a.default}; {a.accepts}): {a.help}" for a in entry.args.values()]
    return [*lines, *(["", f"    {usage(entry)}"] if usage(entry) else []), ""]


def test_module_reference_is_current():
    file = ROOT / "docs" / "modules.md"
    if os.environ.get("NAS_REGENERATE"):
        file.write_text(modules_page(), encoding="utf-8")
    assert file.read_text(encoding="utf-8") == modules_page()


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
