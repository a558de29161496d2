"""The documents say what the tool does: generated pages are current; links, commands and files that they name exist.

`NAS_REGENERATE=1 pytest tests/test_docs.py` writes docs/commands.md and docs/modules.md again.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import nas.ops.families  # noqa: F401  registers the modules
from nas.cli import cli
from nas.engines import ENGINES
from nas.model.module_card import (
    HEAD_WHERE,
    WHERE,
    engines_how,
    in_engines,
    in_order,
    is_shipped,
    kinds_of,
    measure_module,
    timed_how,
    timing,
    usage,
)
from nas.ops.registry import Entry, entries

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CHINESE_README = ROOT / "README.zh-CN.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
WRITTEN = [README, CHINESE_README, ROOT / "CONTRIBUTING.md", *(p for p in PAGES if p.name != "commands.md")]
"""Documents whose commands are checked; the command reference is the tool's own output."""
LINKED = [*WRITTEN, ROOT / "docs" / "commands.md", ROOT / "CHANGELOG.md", *(ROOT / "studies").rglob("README.md")]
MOST_README_LINES = 120


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
        "All modules that can be swapped in or inserted, by kind of slot.",
        "Written from the registry by `NAS_REGENERATE=1 pytest tests/test_docs.py`.\n",
        "What Ultralytics has is used from there (SPP, SPPF, SPPELAN, GhostConv, SCDown, C2f, Conv), or through a thin",
        "class (ADownCeil, RepVGG, GELAN, C3k2Block, C2f_Ghost, AIFIInsert, C2PSAInsert). All others are written from",
        "the papers' formulas in plain PyTorch. `C2f_NAME` is a C2f block with NAME as the second convolution of each",
        "bottleneck. An inserted attention starts near the identity, so that a trained baseline survives it.\n",
        "The same contract tests run over each module: any image size, batch 1, CPU, half precision, channels_last,",
        "deepcopy, pickle, ONNX (opset 17, any batch and size), TorchScript, `torch.export`, `torch.compile`, and",
        "equal outputs after `fuse()`. The columns:\n",
        f"- parameters and MACs: of {WHERE}, with default arguments;",
        f"  of heads: {HEAD_WHERE}",
        "- time: a training step (forward and backward) of plain PyTorch on a CPU, over that of the layer in the same",
        "  row; for an attention, which replaces nothing, over that of the C2f block in front of it",
        f"  (`benchmarks/modules_cpu.py`; {timed_how()})",
        "- fuse(): how many of its batch norms Ultralytics folds\n",
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
    return "\n".join([*parts, *engine_lines(listed)]).rstrip() + "\n"


def engine_lines(listed: list[Entry]) -> list[str]:
    """Return the section on exported modules."""
    titles = {name: ENGINES[name].title for name in engines_how()}
    lines = [
        "## In engines\n",
        "Each module by itself, fused and exported at the size above: its time over that of the layer in the same row,",
        "in the same engine, and the largest difference from PyTorch's answer as a share of the largest, which has",
        "to be within 0.001. The two alternate, but the machine did other work beside: a ratio may be off by a tenth.",
        "Nearest upsampling takes 0.06 ms in ONNX Runtime, so ratios to it are large.",
        "Written by `python benchmarks/modules_engines.py`:\n",
        *(f"- {how}" for how in engines_how().values()),
        "",
        f"| module | instead of | {' | '.join(titles.values())} |",
        f"|---|---|{'--:|' * len(titles)}",
    ]
    failures: dict[str, list[str]] = {}
    for entry in listed:
        found, timed = in_engines(entry), timing(entry)
        measured = f"python benchmarks/modules_engines.py --only {entry.name}"
        assert found.keys() == titles.keys(), f"{entry.name} is not measured in each engine: {measured}"
        assert timed
        lines.append(f"| {entry.name} | {timed.layer} | {' | '.join(one.cell for one in found.values())} |")
        for name, one in found.items():
            if one.failure:
                others = [titles[other] for other in titles if not found[other].failure]
                instead = f"; {' and '.join(others)} run it" if others else ""
                failures.setdefault(f"{titles[name]}: {one.failure}{instead}", []).append(entry.name)
    return [*lines, "", *(f"- {', '.join(names)}. {why}." for why, names in failures.items())]


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


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def commands_in(page: Path) -> list[str]:
    """Return every `nas` command of a document, from blocks of code and from the text."""
    text = text_of(page)
    blocks = re.findall(r"^ *(?:exec )?(nas [a-z-]+.*)$", text, re.MULTILINE)
    return [*blocks, *re.findall(r"`(nas [a-z-]+[^`\n]*)`", text)]


def problem_of(line: str) -> str:
    """Return what is wrong with a command that a document names: an unknown command or option, if anything is."""
    words = re.split(r" && | > |; ", line)[0]
    path, command, rest = ["nas"], cli, shlex.split(words, comments=True)[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        default = getattr(command, "default", "")  # what `nas latency MODEL` runs
        name = rest.pop(0) if rest[0] in command.commands or not default else default
        if name not in command.commands:
            return f"{' '.join(path)} has no command {name!r}"
        path, command = [*path, name], command.commands[name]
    known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
    given = {word.partition("=")[0] for word in rest if re.match(r"-+[A-Za-z]", word)}  # -10% is a value
    unknown = given - known
    return f"{' '.join(path)} has no option {', '.join(sorted(unknown))}" if unknown else ""


def test_the_readme_names_every_command():
    text = text_of(README)
    for path in commands(cli):
        assert f"nas {' '.join(path)}" in text, path


def test_the_readme_is_short_and_has_both_ways_to_set_up():
    text = text_of(README)
    assert len(text.splitlines()) <= MOST_README_LINES
    assert "    pip install -e . && nas search " in text
    assert "    pip install -e '.[test]' && pytest -n 2 " in text
    assert f"{sum(map(is_shipped, entries().values()))} modules" in text


@pytest.mark.parametrize("page", WRITTEN, ids=names(WRITTEN))
def test_commands_in_documents_exist(page):
    """Every `nas` command parses: its command and options are there (nothing is run)."""
    assert [found for line in commands_in(page) if (found := f"{line}: {problem_of(line)}") != f"{line}: "] == []


def test_commands_are_found_and_checked(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Use `nas rank STUDY --csv`.\n\n    nas serch a  # typo\n\n```bash\nexec nas search --warp 9\n```\n"
    )
    lines = commands_in(page)
    assert lines == ["nas serch a  # typo", "nas search --warp 9", "nas rank STUDY --csv"]
    problems = [problem_of(line) for line in lines]
    assert problems == ["nas has no command 'serch'", "nas search has no option --warp", ""]


def links_in(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Give each link of a document into this repository: as it is written, its file, and its section."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" not in link:
            file, _, section = link.partition("#")
            yield link, (page.parent / file).resolve() if file else page.resolve(), section


def sections_of(page: Path) -> set[str]:
    """Return the anchors that a Markdown page's headings get."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=names(LINKED))
def test_links_resolve(page):
    for link, file, section in links_in(page):
        assert file.exists(), link
        assert not section or section in sections_of(file), link


@pytest.mark.parametrize(
    ("readme", "suffix"), [(README, ".md"), (CHINESE_README, ".zh.md")], ids=["English", "Chinese"]
)
def test_every_page_is_reachable_from_the_index(readme, suffix):
    index = ROOT / "docs" / f"index{suffix}"
    seen, waiting = {index}, [index]
    while waiting:
        found = {file for _, file, _ in links_in(waiting.pop()) if file in PAGES} - seen
        seen |= found
        waiting += found
    chinese = {page for page in PAGES if page.name.endswith(".zh.md")}
    assert seen & chinese == (chinese if suffix == ".zh.md" else set())
    assert seen >= (chinese if suffix == ".zh.md" else set(PAGES) - chinese)
    assert index in {file for _, file, _ in links_in(readme)}


@pytest.mark.parametrize("page", WRITTEN, ids=names(WRITTEN))
def test_files_of_this_repository_that_documents_name_exist(page):
    for name in re.findall(r"\b((?:nas|ops|tests|benchmarks|templates)/[\w/.*-]*[\w/*])", text_of(page)):
        assert list(ROOT.glob(re.sub(r"[A-Z]{2,}", "*", name))), name  # NAME stands for a name


SCRIPTS = [*LINKED, ROOT / "templates" / "train.py.j2"]


@pytest.mark.parametrize("page", SCRIPTS, ids=names(SCRIPTS))
def test_names_that_are_imported_from_this_package_exist(page):
    """Code in documents, and in the script that is emitted, imports what there is."""
    for module, imported in re.findall(r"^ *from (nas[\w.]*) import ([\w, ]+)$", text_of(page), re.MULTILINE):
        for name in imported.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@pytest.fixture
def program(monkeypatch):
    """Return the program that draws the picture; it is no part of a package."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # it imports another one
    spec = importlib.util.spec_from_file_location("front_picture", ROOT / "benchmarks" / "front_picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_that_of_the_committed_front(program, tmp_path):
    """The committed picture names the table that it was drawn from; drawn again it is the same, byte for byte."""
    program.main(["-o", str(tmp_path / "again.svg")])
    committed = program.PICTURE.read_bytes()
    assert committed == (tmp_path / "again.svg").read_bytes()
    assert f"sha256:{hashlib.sha256(program.TABLE.read_bytes()).hexdigest()}".encode() in committed
    assert len(committed) < 100_000
    assert program.PICTURE.resolve() in {file for _, file, _ in links_in(README)}


def test_tables_are_those_of_the_committed_front(program):
    """The README's, and that of the result's page."""
    from front import table

    body = json.loads(program.TABLE.read_text(encoding="utf-8"))
    page = (program.TABLE.parent / "README.md").read_text(encoding="utf-8")
    lines = [line.removeprefix("| bccd ") for line in table([body]) if line.startswith("| bccd")]
    assert len(lines) == 9
    assert all(line in page for line in lines)
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[1:]]
    shown = [line.split() for line in text_of(README).splitlines() if re.match(r" -\d0 % ", line)]
    for yardstick, variant, line in zip(cells[::2], cells[1::2], shown, strict=True):
        of_both = [*variant[2:4], variant[4], *variant[6].split(), *yardstick[6].split()]
        assert [word for word in line[2:] if word not in ("%", "cannot", "tell")] == of_both, line


def test_what_the_picture_shows(program):
    body = json.loads(program.TABLE.read_text(encoding="utf-8"))
    shown = program.draw(body).to_svg()
    assert shown.count("<circle") == 1 + 8  # one in the legend; those with several seeds
    assert shown.count("orange") - shown.count("--orange:") == 1 + 4 + 4 + 4  # legend, marks, lines and intervals
    assert re.findall(r"−\d+ %: Δ [+−]0\.\d{4}", shown) == [
        "−11 %: Δ +0.0007", "−22 %: Δ −0.0009", "−30 %: Δ −0.0021", "−40 %: Δ −0.0050"
    ]  # fmt: skip
