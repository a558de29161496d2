"""Ultralytics trees: patched, patched again, and put back, from the oldest supported release to the installed one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import ultralytics
from click.testing import CliRunner
from releases import RELEASES, fetched, run_each, stand_ins

from nas.cli import cli
from nas.emit.forms import texts_of
from nas.emit.patch import apply_patch, diff, patched, revert_patch, reverted
from nas.emit.standalone import standalone_source
from nas.emit.tree import MODULES, TASKS, read_tree, write_tree
from nas.errors import HostError, OutputError
from nas.model.render import render, render_branch
from nas.space.variant import Variant, parse_swaps

SWAPS = ["neck.up_p4=CARAFE", "neck.c2f_p4=C2f_DCNv4", "backbone.down_p4=SPConv"]
VARIANT = parse_swaps("yolov8", "n", SWAPS)


def contents(root):
    return {
        p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }


@pytest.fixture
def root(tmp_path):
    """Return a small tree: the installed release's files that a patch reads."""
    for path in (Path("ultralytics/__init__.py"), TASKS):
        (tmp_path / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(ultralytics.__file__).parents[1] / path, tmp_path / "tree" / path)
    (tmp_path / "tree" / MODULES.parent).mkdir()
    return tmp_path / "tree"


@pytest.fixture
def whole(tmp_path):
    """Return a copy of the installed release, as a checkout."""
    root = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(ultralytics.__file__).parent, root / "ultralytics", ignore=ignored)
    return root


def apply(root, modules=VARIANT.modules):
    tree = read_tree(root)
    return write_tree(tree, patched(tree, modules))


@pytest.mark.parametrize("command", [["git", "apply"], ["patch", "-p1", "-i"]], ids=["git", "patch"])
def test_the_diff_is_what_the_tools_apply(command, root, tmp_path):
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    tree = read_tree(root)
    new = patched(tree, VARIANT.modules)
    (tmp_path / "variant.patch").write_bytes(diff(tree, new).encode())
    done = subprocess.run([*command, str(tmp_path / "variant.patch")], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for path, text in new.items():
        assert (root / path).read_bytes() == text.encode()


def test_twice_changes_nothing_and_reverting_restores_every_byte(root):
    before = contents(root)
    assert apply(root) == [root / TASKS, root / MODULES]
    once = contents(root)
    assert once != before
    assert apply(root) == []
    assert contents(root) == once
    tree = read_tree(root)
    write_tree(tree, reverted(tree))
    assert contents(root) == before
    assert reverted(read_tree(root)) == {}


def test_windows_line_ends_stay(root):
    tasks = root / TASKS
    tasks.write_bytes(tasks.read_bytes().replace(b"\n", b"\r\n"))
    before = contents(root)
    apply(root)
    for path in (TASKS, MODULES):
        text = (root / path).read_bytes()
        assert text.count(b"\n") == text.count(b"\r\n") > 10
    assert apply(root) == []
    tree = read_tree(root)
    write_tree(tree, reverted(tree))
    assert contents(root) == before


def test_a_second_variant_joins_the_first(root):
    apply(root)
    apply(root, ["DySample"])
    text = (root / TASKS).read_text()
    assert text.count("# >>> swapnas") == text.count("# <<< swapnas") == 2
    assert "from ultralytics.nn.modules.swapnas import C2f_DCNv4, CARAFE, DySample, SPConv  # noqa" in text
    assert {"class CARAFE", "class DySample"} <= {
        line.partition("(")[0] for line in (root / MODULES).read_text().splitlines()
    }


def damaged(root, old, new):
    path = root / TASKS
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


INIT = Path("ultralytics/__init__.py")
ANCHOR = "        elif m is Concat:\n"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda r: damaged(r, ANCHOR, ANCHOR.replace("Concat", "Concat2")), "'elif m is Concat:' occurs 0 times"),
        (lambda r: damaged(r, ANCHOR, ANCHOR + "            pass\n" + ANCHOR), "'elif m is Concat:' occurs 2 times"),
        (lambda r: damaged(r, "def parse_model(", "def parse_model2("), "anchor 'def parse_model(' occurs 0 times"),
        (lambda r: (r / INIT).write_text('__version__ = "8.0.50"'), "8.0.100 is the oldest release"),
        (lambda r: (r / INIT).write_text(""), "says no version"),
        (lambda r: (r / TASKS).unlink(), "holds no ultralytics/nn/tasks.py"),
        (lambda r: (r / TASKS).write_bytes(b"\xff\xfe"), "cannot read the Ultralytics"),
    ],
)  # fmt: skip
def test_a_tree_that_cannot_be_patched(damage, words, root):
    damage(root)
    before = contents(root)
    with pytest.raises(HostError) as caught:
        apply(root)
    assert words in str(caught.value)
    assert contents(root) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: (r / MODULES).unlink(),
        lambda r: damaged(r, "# <<< swapnas\n\n\n", ""),
        lambda r: damaged(r, "        # >>> swapnas", "        # >>>"),
    ],
)
def test_a_half_patched_tree_is_left_alone(damage, root):
    apply(root)
    damage(root)
    before = contents(root)
    for attempt in (lambda: apply(root), lambda: reverted(read_tree(root))):
        with pytest.raises(HostError, match="is half patched: "):
            attempt()
    assert contents(root) == before


def test_a_module_that_is_not_known_any_more(root):
    apply(root)
    damaged(root, ": C2f_DCNv4, CARAFE, SPConv\n", ": C2f_DCNv4, CARAFE, Gone, SPConv\n")
    with pytest.raises(HostError, match=r"was patched with Gone, which this tool does not know: revert it first"):
        apply(root)
    tree = read_tree(root)
    assert set(reverted(tree)) == {TASKS, MODULES}


def test_a_write_that_fails_leaves_nothing_beside(root, monkeypatch):
    before = contents(root)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    with pytest.raises(HostError, match=r"cannot write to the Ultralytics in .*read-only"):
        apply(root)
    assert contents(root) == before


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_write_that_fails_half_way_is_taken_back(way, root, monkeypatch):
    """The second of the two files cannot be written: the first is as it was before."""
    if way == "out":
        apply(root)
    before = contents(root)
    tree = read_tree(root)
    changes = patched(tree, VARIANT.modules) if way == "in" else reverted(tree)
    name, plain = ("replace", Path.replace) if way == "in" else ("unlink", Path.unlink)

    def second(path, *rest, **options):
        if (Path(rest[0]) if rest else path).name == (TASKS if way == "in" else MODULES).name:
            raise PermissionError("read-only")
        return plain(path, *rest, **options)

    with monkeypatch.context() as patch_context:
        patch_context.setattr(Path, name, second)
        with pytest.raises(HostError, match="cannot write to the Ultralytics"):
            write_tree(tree, changes)
    assert contents(root) == before


def test_a_copy_that_does_not_build_is_not_handed_over(whole):
    """Local edits that break the model show before anything is written."""
    damaged(whole, "def parse_model(", "raise RuntimeError('local edit')\n\n\ndef parse_model(")
    before = contents(whole)
    with pytest.raises(HostError, match=r"does not build with a patched copy of Ultralytics .*local edit"):
        apply_patch(VARIANT, render(VARIANT), whole)
    assert contents(whole) == before


def test_the_stock_model_needs_none():
    variant = Variant("yolov8", "n")
    with pytest.raises(OutputError, match="is the stock model: it needs no patch"):
        texts_of(variant, render(variant), ["patch"])


def test_from_the_command_line(whole, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(cli, ["emit-yaml", *map(str, arguments)])

    swaps = [part for swap in SWAPS for part in ("--swap", swap)]
    before = contents(whole)
    out = tmp_path / "out"
    done = run(*swaps, "--form", "yaml,patch", "--ultralytics", whole, "-o", out)
    assert done.exit_code == 0, done.output
    name = render(VARIANT).name
    assert sorted(p.name for p in out.iterdir()) == [f"{name}.patch", f"{name}.yaml"]
    assert contents(whole) == before

    done = run(*swaps, "--form", "patch", "--apply", whole, "--dry-run")
    assert done.output.splitlines() == [f"would write {whole / p}" for p in (TASKS, MODULES)]
    assert contents(whole) == before
    assert run(*swaps, "--form", "patch", "--apply", whole).exit_code == 0
    assert run(*swaps, "--form", "patch", "--apply", whole).output == "nothing to change\n"
    done = run(*swaps, "--form", "patch", "--ultralytics", whole, "-o", tmp_path / "other")
    assert done.exit_code == 1
    assert "is patched with these modules already" in done.output
    assert run("--revert", whole).output.splitlines() == [f"restored {whole / p}" for p in (TASKS, MODULES)]
    assert contents(whole) == before

    several = [*swaps, "--scale", "n,s", "--form", "yaml,patch", "--ultralytics", whole, "-o", tmp_path / "scales"]
    assert run(*several).exit_code == 0
    assert sorted(p.suffix for p in (tmp_path / "scales").iterdir()) == [".patch", ".yaml", ".yaml"]

    assert run(*swaps, "--form", "yaml", "--ultralytics", whole).exit_code == 2
    for wrong in (["--revert", whole, "--study", "x"], [*swaps, "--apply", whole], [*swaps, "--form", "diff"]):
        assert run(*wrong).exit_code == 2
    done = run(*swaps, "--form", "patch", "--ultralytics", tmp_path / "none")
    assert done.exit_code == 1
    assert "holds no ultralytics/nn/tasks.py" in done.output


# ---- releases -------------------------------------------------------------------------------------------------------

BUILD = """
import sys, torch
from ultralytics.nn import tasks
model_file, weights, output = sys.argv[1:4]
if len(sys.argv) > 4:  # in memory: the module file is beside, the branch goes into the function
    import inspect, modules
    source = inspect.getsource(tasks.parse_model)
    anchor = "        elif m is Concat:\\n"
    assert source.count(anchor) == 1
    for name in sys.argv[5].split(","):
        setattr(tasks, name, getattr(modules, name))
    exec(source.replace(anchor, open(sys.argv[4]).read() + anchor), tasks.__dict__)
torch.manual_seed(0)
model = tasks.DetectionModel(model_file, verbose=False).eval()
import os
if os.path.exists(weights):
    model.load_state_dict(torch.load(weights), strict=True)
else:
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.05)
    torch.save(model.state_dict(), weights)
with torch.no_grad():
    y = model(torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64))
torch.save((sum(p.numel() for p in model.parameters()), y[0] if isinstance(y, (list, tuple)) else y), output)
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", RELEASES)
def test_every_release_builds_the_same_patched_and_in_memory(version, shared_cache, tmp_path):
    import torch

    original = fetched(version, shared_cache)
    root = tmp_path / "patched"
    shutil.copytree(original, root)
    stubs = stand_ins(tmp_path / "stubs")
    (stubs / "modules.py").write_text(f"from __future__ import annotations\n\n{standalone_source(VARIANT.modules)}")
    (stubs / "branch.txt").write_text(render_branch(VARIANT.modules))
    files = render(VARIANT)
    model = tmp_path / f"{files.name}.yaml"
    model.write_text(files.yaml)

    before = contents(root)
    assert apply(root) == [root / TASKS, root / MODULES]  # unproved: it is built below, and test_snippet.py proves it
    assert apply_patch(VARIANT, files, root) == []
    given = [model, tmp_path / "weights.pt"]
    run_each(
        BUILD,
        ([root, stubs], [*given, tmp_path / "patched.pt"]),
        ([original, stubs], [*given, tmp_path / "memory.pt", stubs / "branch.txt", ",".join(VARIANT.modules)]),
    )
    parameters, y = torch.load(tmp_path / "patched.pt")
    expected = torch.load(tmp_path / "memory.pt")
    assert parameters == expected[0]
    assert torch.equal(y, expected[1])
    revert_patch(root)
    assert contents(root) == before
