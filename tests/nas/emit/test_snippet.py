"""A snippet for one tree: in its idiom, with its line numbers, and what it tells works."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import ultralytics
from click.testing import CliRunner
from releases import RELEASES, fetched

from nas.cli import cli
from nas.emit.patch import patched
from nas.emit.snippet import places, release_snippet
from nas.emit.tree import MODULES, TASKS, Tree, read_tree, verify_edit, write_tree
from nas.errors import HostError, OutputError
from nas.model.render import render
from nas.space.variant import Variant, parse_swaps

VARIANT = parse_swaps("yolov8", "n", ["neck.up_p4=CARAFE", "neck.c2f_p4=C2f_DCNv4", "backbone.down_p[45]=SPConv"])
TREE = Path(__file__).parents[2] / "golden" / "tree"
BRACKETS = {"tuple": "(CARAFE,)", "set": "{CARAFE}", "frozenset": "frozenset({CARAFE})"}

PROVED = (None, "8.0.100", "8.1.40", "8.3.16", "8.3.17", "8.3.70")
"""The installed one, the first of each idiom, and both sides of a trap; `test_patch.py` builds with every release."""


def followed(tree: Tree, text: str, modules: str) -> dict[Path, str]:
    """Do what a snippet says, as its reader would: from its text alone."""
    lines = tree.tasks.splitlines(keepends=True)
    after, last = re.search(r"after line (\d+), the end of the last import \(`(.*)`\), add:", text).groups()
    before, anchor = re.search(r"right before line (\d+), `(.*)`, add:", text).groups()
    assert lines[int(before) - 1].strip() == anchor
    assert last in [line.strip() for line in lines[: int(after)]]
    added = re.search(r"add:\n\n(from .*\n)\n3\.", text)[1]
    branch = re.search(r"add:\n\n(        # >>>.*?# <<< swapnas\n)", text, re.S)[1]
    lines.insert(int(before) - 1, branch)
    lines.insert(int(after), added)
    return {TASKS: "".join(lines), MODULES: modules}


@pytest.mark.parametrize(
    "version",
    [None, *(pytest.param(version, marks=pytest.mark.slow) for version in [*RELEASES, "8.3.16", "8.3.17"])],
)
def test_what_it_tells_builds_the_model(version, shared_cache):
    tree = read_tree(fetched(version, shared_cache) if version else None)
    files = render(VARIANT)
    snippet = release_snippet(tree, VARIANT, files)
    assert followed(tree, snippet.text, snippet.modules) == snippet.pasted
    if version in PROVED:
        verify_edit(tree, snippet.pasted, files)
    else:
        compile(snippet.pasted[TASKS], str(TASKS), "exec")
    look = "tuple" if tree.release < (8, 1, 40) else "set" if tree.release <= (8, 3, 60) else "frozenset"
    assert places(tree).dispatch == look
    assert f"elif m in {BRACKETS[look]}:" in snippet.text
    assert f"by hand in Ultralytics {tree.version}, whose" in snippet.text
    assert ("Mind: " in snippet.text) == ((8, 3, 0) <= tree.release <= (8, 3, 16))


@pytest.fixture
def root(tmp_path):
    shutil.copytree(TREE, tmp_path / "tree")
    return tmp_path / "tree"


def edit(root: Path, old: str, new: str) -> None:
    text = (root / TASKS).read_text()
    assert old in text
    (root / TASKS).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("elif m is Concat:", "elif m is Cat:", "anchor 'elif m is Concat:' occurs 0 times"),
        ("def parse_model(", "def parse(", r"anchor 'def parse_model\(' occurs 0 times"),
        ("def parse_model(", "def parse_model(:", r"tasks.py, line \d+: "),
        ("import", "#", "imports nothing before parse_model"),
    ],
)
def test_a_tree_without_the_places(old, new, words, root):
    edit(root, old, new)
    if words.startswith("imports"):
        edit(root, "from math # ceil\n\nfrom torch # nn\n", "")
    with pytest.raises(HostError, match=words):
        release_snippet(read_tree(root), VARIANT, render(VARIANT))


def test_lines_count_with_local_edits_and_windows_line_ends(root):
    plain = places(read_tree(root))
    edit(root, "class Concat", "# mine\n# mine\nclass Concat")
    (root / TASKS).write_bytes((root / TASKS).read_bytes().replace(b"\n", b"\r\n"))
    tree = read_tree(root)
    assert places(tree).imports == plain.imports
    assert places(tree).anchor == plain.anchor + 2
    pasted = release_snippet(tree, VARIANT, render(VARIANT)).pasted[TASKS]
    assert pasted.count("\n") == pasted.count("\r\n")


def test_a_patched_tree_and_the_stock_model_need_none(root):
    stock = Variant("yolov8", "n")
    with pytest.raises(OutputError, match="is the stock model"):
        release_snippet(read_tree(root), stock, render(stock))
    tree = read_tree(root)
    write_tree(tree, patched(tree, VARIANT.modules))
    with pytest.raises(OutputError, match="is patched: a snippet is for one that is not"):
        release_snippet(read_tree(root), VARIANT, render(VARIANT))


def test_from_the_command_line(tmp_path):
    def run(*more):
        return CliRunner().invoke(cli, ["emit-yaml", "--swap", "neck.up_p4=CARAFE", "-o", str(tmp_path), *more])

    package = Path(ultralytics.__file__).parent
    done = run("--form", "snippet", "--ultralytics", str(package))
    assert done.exit_code == 0, done.output
    names = sorted(p.name.partition(".")[2] for p in tmp_path.iterdir())
    assert names == ["modules.py", "snippet.txt"]
    assert f"Ultralytics {ultralytics.__version__}" in next(tmp_path.glob("*.snippet.txt")).read_text()
    for arguments, code, words in (
        (["--ultralytics", "8.3.0"], 2, "pip install --no-deps --target ultralytics-8.3.0 ultralytics==8.3.0"),
        (["--ultralytics", str(tmp_path / "none")], 1, "holds no ultralytics/nn/tasks.py"),
        (["--ultralytics", "8.3.0", "--form", "yaml"], 2, "give --form snippet or patch"),
        (["--ultralytics", "8.3.0", "--form", "patch", "--apply", "."], 2, "leave --ultralytics out"),
    ):
        done = run(*arguments)
        assert done.exit_code == code
        assert words in done.output
