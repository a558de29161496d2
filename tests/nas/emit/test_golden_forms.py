"""Patch, snippet and bundle of variants that cover every channel rule, insertion, ties and rows of several inputs.

`NAS_REGENERATE=1 pytest tests/nas/emit/test_golden_forms.py` writes the expected files anew; read the diff.

A patch is made against a small tree of our own (`tests/golden/tree`), so that the files hold no source of Ultralytics
and do not depend on a release. A generated module file above 12,000 characters is mostly the sources of `ops`, which
their own tests run: of such a one the golden file has what it defines, in order, and its registration whole.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from inserted import channel_gate

from nas.emit.bundle import bundle_files, module_name
from nas.emit.patch import diff, patched
from nas.emit.snippet import release_snippet
from nas.emit.tree import MODULES, TASKS, read_tree
from nas.model.host import build
from nas.model.render import ModelFiles, render
from nas.space.space_file import read_space
from nas.space.variant import Variant, parse_swaps

GOLDEN = Path(__file__).parents[2] / "golden"
TREE = GOLDEN / "tree"
TIED = """
slots:
  neck.c2f_*: {choices: [C2f_DynamicConv], tie: true}
  neck.up_*: {choices: [CARAFE], tie: true}
"""
VARIANTS: dict[str, list[str]] = {
    "same": ["neck.up_p4=CARAFE", "neck.up_p3=DySample(style=pl)"],
    "conv": ["backbone.down_p[345]=SPConv", "neck.down_n4=DynamicConv"],
    "block": ["backbone.c2f_p4=C2f_DynamicConv", "neck.c2f_p3=C2f_DynamicConv"],
    "all-rules": ["neck.up_p4=CARAFE", "backbone.down_p5=DCNv4", "neck.c2f_n4=C2f_DCNv4"],
    # Behind a layer whose output goes to a concatenation, one to the head, and in between.
    "inserted": ["after backbone.c2f_p3=ChannelGate", "after neck.c2f_p4=ChannelGate(groups=2)",
                 "after neck.c2f_n5=ChannelGate"],
    "inserted-and-swapped": ["after backbone.c2f_p4=ChannelGate", "backbone.c2f_p4=C2f_DynamicConv",
                             "neck.up_*=DySample"],
    "tied": [],
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def gate():
    with channel_gate():
        yield


@pytest.fixture(params=VARIANTS)
def label(request):
    return request.param


def variant_of(label: str) -> Variant:
    if label == "tied":
        space = read_space(TIED, "tied.yaml", "tied")
        return space.variant({slot.key: slot.choices[1] for slot in space.active})
    return parse_swaps("yolov8", "n", VARIANTS[label])


def compare(name: str, text: str) -> None:
    golden = GOLDEN / "forms" / name
    if os.environ.get("NAS_REGENERATE"):
        golden.write_text(text, encoding="utf-8", newline="\n")
    assert text == golden.read_bytes().decode(), f"{name}: see the docstring if the change is meant"


def outline(text: str) -> str:
    """Return a module file whole, or what it defines and its registration."""
    if len(text) < 12_000:
        return text
    source, mark, registration = text.partition("# ---- registration")
    lines = []
    for statement in ast.parse(source).body:
        match statement:
            case ast.Import() | ast.ImportFrom():
                lines.append(ast.unparse(statement))
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                lines.append(f"{'class' if isinstance(statement, ast.ClassDef) else 'def'} {name}")
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                lines.append(f"{name} =")
            case _:
                lines.append(f"({type(statement).__name__})")
    return "\n".join([*lines, "", mark + registration])


def test_yaml(label):
    compare(f"{label}.yaml", render(variant_of(label)).yaml)


def test_patch(label):
    tree = read_tree(TREE)
    new = patched(tree, variant_of(label).modules)
    assert diff(tree, new).endswith("".join(f"+{line}\n" for line in new[MODULES].splitlines()))
    compare(
        f"{label}.patch.txt", diff(tree, {TASKS: new[TASKS]}) + f"\n{MODULES.as_posix()}:\n" + outline(new[MODULES])
    )


def test_snippet(label):
    variant = variant_of(label)
    compare(f"{label}.snippet.txt", release_snippet(read_tree(TREE), variant, render(variant)).text)


def test_bundle(label):
    variant = variant_of(label)
    files = render(variant)
    texts = bundle_files(variant, files)
    assert texts.pop(f"{files.name}.yaml") == files.yaml
    if label != "same":
        texts.pop("train.py")  # of one template: once is enough
    module = texts.pop(f"{module_name(files)}.py")
    shown = {f"{module_name(files)}.py": outline(module), **texts}
    compare(f"{label}.bundle.txt", "".join(f"==== {name} ====\n{text}\n" for name, text in shown.items()))


def test_it_builds_and_runs(label):
    files: ModelFiles = render(variant_of(label))
    model = build(files.yaml, "n")
    assert model(torch.rand(1, 3, 64, 96))[0].shape == (1, 84, 126)


def test_the_order_of_hashes_decides_nothing():
    """What is generated from sets and dictionaries is the same in every process."""
    code = (
        "import hashlib; from nas.emit.bundle import bundle_files;"
        "from nas.model.render import render; from nas.space.variant import parse_swaps;"
        f"v = parse_swaps('yolov8', 'n', {VARIANTS['all-rules']!r});"
        "print(hashlib.sha256(repr(bundle_files(v, render(v))).encode()).hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
