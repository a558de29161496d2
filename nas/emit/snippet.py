"""Lines to paste into Ultralytics by hand: for any tree, or with the line numbers and in the idiom of a given one."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from nas.emit.forms import Emission, Texts, own_files
from nas.emit.patch import BEGIN, module_file
from nas.emit.tree import MODULES, TASKS, Tree, check_names, nearest_release, read_tree, verify_edit
from nas.errors import HostError, OutputError
from nas.model.render import ANCHOR, Dispatch, ModelFiles, environment, imported, render_branch
from nas.space.variant import Variant
from nas.version import __version__

_LOOKS: dict[Dispatch, str] = {
    "tuple": "lists modules in tuples inside its `if m in (...)` chain",
    "set": "lists modules in sets inside its `if m in {...}` chain",
    "frozenset": "lists modules in the frozensets `base_modules` and `repeat_modules` above its loop",
}
_HEADS = ((8, 3, 0), (8, 3, 16))
"""First and last release that build the head of a YOLOv8 YAML with YOLO11's class branch."""


@dataclass(frozen=True)
class Places:
    """The places of a snippet's lines in a tree's ``tasks.py``; lines count from 1.

    Attributes:
        dispatch: How its parse_model lists modules.
        imports: Last line of the last import at the top, and the text of its first line; the new import goes after it.
        anchor: The line before which the branch goes.
    """

    dispatch: Dispatch
    imports: tuple[int, str]
    anchor: int


@dataclass(frozen=True)
class Snippet:
    """Instructions for one tree.

    Attributes:
        text: The instructions.
        modules: The module file that they say to copy.
        pasted: The texts of the tree's files after that, by path below its root.
    """

    text: str
    modules: str
    pasted: dict[Path, str]


def snippet_form(emission: Emission) -> Texts:
    """Return the lines to paste; for a given tree with the module file, after building the variant with an edited copy.

    Raises:
        OutputError: The tree is patched.
        HostError: The tree has no place for the lines, or does not build the variant then.
    """
    variant, files = emission.variant, emission.files
    if emission.ultralytics is None or not variant.added:
        return {Path(f"{files.name}.snippet.txt"): files.snippet} | own_files(emission)
    tree = read_tree(emission.ultralytics)
    snippet = release_snippet(tree, variant, files)
    verify_edit(tree, snippet.pasted, files)
    return {
        Path(f"{files.name}.snippet.txt"): snippet.text,
        Path(f"{files.name}.modules.py"): snippet.modules,
    }


def places(tree: Tree) -> Places:
    """Return where a snippet's lines go.

    Raises:
        HostError: A place is not there exactly once, or ``tasks.py`` is not Python.
    """
    text = tree.tasks.replace("\r\n", "\n")
    try:
        body = ast.parse(text).body
    except SyntaxError as error:
        raise HostError(f"{tree.root / TASKS}, line {error.lineno}: {error.msg}") from None
    found = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == "parse_model"]
    lines = text.splitlines(keepends=True)
    anchors = [i for i, line in enumerate(lines, 1) if line == ANCHOR]
    for what, count in (("def parse_model(", len(found)), (ANCHOR.strip(), len(anchors))):
        if count != 1:
            raise HostError(
                f"Ultralytics {tree.version} in {tree.root}: the anchor {what!r} occurs {count} times in {TASKS}, not "
                f"once; the nearest release that is known to have it is {nearest_release(tree.release)}"
            )
    before = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom) and n.lineno < found[0].lineno]
    if not before:
        raise HostError(f"{tree.root / TASKS} imports nothing before parse_model: it is not Ultralytics' own")
    last = before[-1]
    imports = (last.end_lineno or last.lineno, lines[last.lineno - 1].strip())
    return Places(_dispatch(found[0]), imports, anchors[0])


def release_snippet(tree: Tree, variant: Variant, files: ModelFiles) -> Snippet:
    """Return the lines to paste into a tree so that it builds a variant.

    Raises:
        OutputError: The variant is the stock model, or the tree has been patched.
        HostError: A place for the lines is not there.
    """
    if not variant.added:
        raise OutputError(f"{files.name} is the stock model: it needs no registration")
    if BEGIN in tree.tasks or tree.modules is not None:
        raise OutputError(f"the Ultralytics in {tree.root} is patched: a snippet is for one that is not")
    where = places(tree)
    check_names(tree, variant.added)
    line = f"from ultralytics.nn.modules.{MODULES.stem} import {', '.join(map(imported, variant.added))}"
    branch = render_branch(variant.added, where.dispatch)
    copy = module_file(variant.added, "the snippet says where this file goes.")
    text = (
        environment()
        .get_template("snippet_release.txt.j2")
        .render(
            name=files.name,
            version=__version__,
            release=tree.version,
            looks=_LOOKS[where.dispatch],
            tasks=TASKS.as_posix(),
            module_file=MODULES.as_posix(),
            import_line=line,
            after_number=where.imports[0],
            after_text=where.imports[1],
            branch=branch,
            anchor=ANCHOR.strip(),
            anchor_number=where.anchor,
            other_head=_HEADS[0] <= tree.release <= _HEADS[1] and variant.base == "yolov8",
        )
    )
    lines = tree.tasks.replace("\r\n", "\n").splitlines(keepends=True)
    last, anchor = where.imports[0], where.anchor - 1
    new = "".join([*lines[:last], f"{line}\n", *lines[last:anchor], branch, *lines[anchor:]])
    ends = "\r\n" if "\r\n" in tree.tasks else "\n"
    return Snippet(text, copy, {p: t.replace("\n", ends) for p, t in ((TASKS, new), (MODULES, copy))})


def _dispatch(function: ast.FunctionDef) -> Dispatch:
    """Return how a parse_model lists modules: by the first branch of its chain that tests ``m in ...``."""
    kinds: dict[type[ast.expr], Dispatch] = {ast.Tuple: "tuple", ast.Set: "set"}
    for node in ast.walk(function):
        test = node.test if isinstance(node, ast.If) and node.orelse else None
        if (
            isinstance(test, ast.Compare)
            and isinstance(test.ops[0], ast.In)
            and isinstance(test.left, ast.Name)
            and test.left.id == "m"
        ):
            return kinds.get(type(test.comparators[0]), "frozenset")
    return "frozenset"
