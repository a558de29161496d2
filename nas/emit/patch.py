"""A variant's modules as an edit of an Ultralytics source tree: as a diff, applied, or reverted.

Three things are added: a module file (`nas.emit.standalone`), its import, and the branch of ``parse_model``; the last
two between markers. A tree that has them already gets the modules of both, once, so that applying twice changes
nothing, and reverting leaves the bytes that were there before.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from nas.emit.forms import Emission, Texts
from nas.emit.standalone import standalone_source
from nas.emit.tree import MODULES, TASKS, Tree, check_names, nearest_release, read_tree, verify_edit, write_tree
from nas.errors import HostError, OutputError
from nas.model.render import ANCHOR, ModelFiles, imported, render_branch
from nas.ops import registry
from nas.space.variant import Variant
from nas.version import __version__

_DEFINITION = "def parse_model("
BEGIN, _END = "# >>> swapnas", "# <<< swapnas"
_BLOCK = re.compile(rf"^[ ]*{BEGIN}[^\n]*: (?P<names>[^\n:]*)\n.*?^[ ]*{_END}[^\n]*\n(?P<gap>\n*)", re.M | re.S)


def patch_form(emission: Emission) -> Texts:
    """Return a diff that adds the modules to an Ultralytics tree; a copy of the tree with it has built the variant.

    Raises:
        OutputError: Nothing has to be added.
        HostError: The tree cannot be patched, or does not build the variant then.
    """
    tree, new = _edit(emission.variant, emission.files, emission.ultralytics)
    if not new:
        raise OutputError(f"the Ultralytics in {tree.root} is patched with these modules already")
    return {Path(f"{emission.files.name}.patch"): diff(tree, new)}


def apply_patch(variant: Variant, files: ModelFiles, path: Path, *, dry_run: bool = False) -> list[Path]:
    """Add a variant's modules to an Ultralytics tree after building it with a copy; return the files that change.

    Raises:
        OutputError: The variant has no modules that Ultralytics has not.
        HostError: The tree cannot be patched or written, or does not build the variant then.
    """
    tree, new = _edit(variant, files, path)
    return [tree.root / p for p in new] if dry_run else write_tree(tree, new)


def revert_patch(path: Path, *, dry_run: bool = False) -> list[Path]:
    """Undo `apply_patch` in a tree; return the files that change.

    Raises:
        HostError: The tree is half patched, or cannot be written.
    """
    tree = read_tree(path)
    changes = reverted(tree)
    return [tree.root / p for p in changes] if dry_run else write_tree(tree, changes)


def _edit(variant: Variant, files: ModelFiles, path: Path | None) -> tuple[Tree, dict[Path, str]]:
    """Return a tree and what a patch makes of its files, verified."""
    if not variant.added:
        what = "is the stock model" if variant.is_baseline else "is made of Ultralytics' own modules"
        raise OutputError(f"{files.name} {what}: it needs no patch")
    tree = read_tree(path)
    check_names(tree, variant.added)
    new = patched(tree, variant.added)
    if new:
        verify_edit(tree, new, files)
    return tree, new


def patched(tree: Tree, modules: Iterable[str]) -> dict[Path, str]:
    """Return the new texts of the files that change, by path below the tree's root; empty if none does.

    Raises:
        HostError: The tree is half patched, or an anchor does not occur exactly once.
        ValueError: A module is not registered.
    """
    original, present = _split(tree)
    every = sorted({*modules, *present})
    known = registry.entries()
    if lost := ", ".join(name for name in every if name not in known):
        raise HostError(f"{tree.root / TASKS} was patched with {lost}, which this tool does not know: revert it first")
    ours = [n for n in every if not known[n].native]
    text = original
    head = f"{BEGIN} {__version__}: {', '.join(ours)}\n"
    names = ", ".join(map(imported, ours))
    line = f"from ultralytics.nn.modules.swapnas import {names}  # noqa: E402  beside what needs it\n"
    imports = f"{head}{line}{_END}\n\n\n"
    for anchor, block in ((_DEFINITION, imports), (ANCHOR, render_branch(ours))):
        place = anchor.rstrip("\n")
        count = len(re.findall(rf"^{re.escape(place)}", text, re.M))
        if count != 1:
            raise HostError(
                f"Ultralytics {tree.version} in {tree.root}: the anchor {place.strip()!r} occurs {count} times in "
                f"{TASKS}, not once; the nearest release that is known to have it is {nearest_release(tree.release)}"
            )
        before = re.search(rf"^{re.escape(place)}", text, re.M)
        assert before is not None, "counted above"
        text = text[: before.start()] + block + text[before.start() :]
    file = module_file(ours, "do not edit: `nas emit-yaml --revert PATH` takes this out.")
    if "\r\n" in tree.tasks:
        text, file = text.replace("\n", "\r\n"), file.replace("\n", "\r\n")
    new = {TASKS: text, MODULES: file}
    old = {TASKS: tree.tasks, MODULES: tree.modules}
    return {path: content for path, content in new.items() if content != old[path]}


def module_file(modules: Iterable[str], note: str) -> str:
    """Return the text of the module file that goes to `MODULES`.

    Raises:
        ValueError: A module is not registered.
    """
    return (
        "# SPDX-License-Identifier: AGPL-3.0-or-later\n"
        f'"""Modules of SwapNAS {__version__}; {note}"""\n\n'
        f"from __future__ import annotations\n\n{standalone_source(modules)}"
    )


def reverted(tree: Tree) -> dict[Path, str | None]:
    """Return the changes that undo the edits: the old text of ``tasks.py``, and None for the module file (deleted).

    Raises:
        HostError: The tree is half patched.
    """
    original, present = _split(tree)
    if not present and tree.modules is None:
        return {}
    text = original.replace("\n", "\r\n") if "\r\n" in tree.tasks else original
    changes: dict[Path, str | None] = {TASKS: text} if text != tree.tasks else {}
    if tree.modules is not None:
        changes[MODULES] = None
    return changes


def diff(tree: Tree, new: dict[Path, str]) -> str:
    """Return a unified diff that ``git apply`` and ``patch -p1`` take in the tree's root; empty if nothing changes."""
    old = {TASKS: tree.tasks, MODULES: tree.modules}
    parts: list[str] = []
    for path, text in new.items():
        before = old[path]
        source = "/dev/null" if before is None else f"a/{path.as_posix()}"
        lines = difflib.unified_diff(_lines(before or ""), _lines(text), source, f"b/{path.as_posix()}", lineterm="\n")
        parts += [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
    return "".join(parts)


def _split(tree: Tree) -> tuple[str, Sequence[str]]:
    """Return ``tasks.py`` without our edits, with plain line ends, and the modules of the edits.

    Raises:
        HostError: Only a part of the edits is present.
    """
    text = tree.tasks.replace("\r\n", "\n")
    blocks = list(_BLOCK.finditer(text))
    marks = len(re.findall(rf"^[ ]*{BEGIN}", text, re.M)), len(re.findall(rf"^[ ]*{_END}", text, re.M))
    names = {block["names"] for block in blocks}
    if marks not in ((0, 0), (2, 2)) or len(blocks) != marks[0] or len(names) > 1 or bool(blocks) != bool(tree.modules):
        raise HostError(
            f"{tree.root / TASKS} is half patched: {marks[0]} lines {BEGIN!r} and {marks[1]} lines {_END!r}, expected "
            f"two of each (or none), of the same modules, and {MODULES} {'there' if marks[0] else 'not there'}; "
            "take its original from the release"
        )
    for block in reversed(blocks):
        # The import is set apart by two empty lines, which are ours as well.
        gap = block["gap"] if block[0].startswith(" ") else block["gap"][2:]
        text = text[: block.start()] + gap + text[block.end() :]
    return text, [name for name in next(iter(names), "").split(", ") if name]


def _lines(text: str) -> list[str]:
    """Split at line feeds alone, so that a diff keeps carriage returns."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)
