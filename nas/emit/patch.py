"""A variant's modules as an edit of an Ultralytics source tree: as a diff, applied, or taken back.

Three things are added: a module file (`nas.emit.standalone`), its import, and the branch of ``parse_model``; the last
two between markers. A tree that has them already gets the modules of both, once, so that applying twice changes
nothing, and taking them back leaves the bytes that were there before.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.emit.releases import OLDEST, STAND_INS, nearest, version_text
from nas.emit.standalone import standalone
from nas.errors import HostError
from nas.files import write_all
from nas.model.render import ANCHOR, ModelFiles, render_branch
from nas.ops import registry
from nas.version import __version__

TASKS = Path("ultralytics/nn/tasks.py")
MODULES = Path("ultralytics/nn/modules/swapnas.py")

_DEFINITION = "def parse_model("
BEGIN, _END = "# >>> swapnas", "# <<< swapnas"
_BLOCK = re.compile(rf"^[ ]*{BEGIN}[^\n]*: (?P<names>[^\n:]*)\n.*?^[ ]*{_END}[^\n]*\n(?P<gap>\n*)", re.M | re.S)

_PROOF = """
import os, sys
sys.path.insert(0, os.getcwd())
sys.path.append(os.path.join(os.getcwd(), "stand-ins"))  # last: only for what is not installed
import ultralytics
from ultralytics.nn.tasks import DetectionModel
assert os.path.realpath(ultralytics.__file__).startswith(os.path.realpath(os.getcwd())), ultralytics.__file__
DetectionModel(sys.argv[1], verbose=False)
"""


@dataclass(frozen=True)
class Tree:
    """An Ultralytics source tree.

    Attributes:
        root: The folder that holds ``ultralytics``.
        release: Its release, as numbers.
        tasks: The text of ``nn/tasks.py``, with line ends as they are.
        modules: The text of our module file, None where there is none.
    """

    root: Path
    release: tuple[int, ...]
    tasks: str
    modules: str | None

    @property
    def version(self) -> str:
        """Its release, as it is written."""
        return version_text(self.release)


def read_tree(path: Path | None) -> Tree:
    """Read an Ultralytics tree.

    Args:
        path: A checkout, or a package folder ``ultralytics``; None for the installed one.

    Raises:
        HostError: There is none, it cannot be read, or it is older than what is supported.
    """
    if path is None:
        spec = importlib.util.find_spec("ultralytics")
        if spec is None or not spec.origin:
            raise HostError("Ultralytics is not installed; --ultralytics PATH names a tree")
        path = Path(spec.origin).parent
    root = next((p for p in (path, path.parent) if (p / TASKS).is_file()), None)
    if root is None:
        raise HostError(f"{path} holds no {TASKS}: expected a checkout of Ultralytics or its package folder")
    try:
        start = (root / "ultralytics/__init__.py").read_text(encoding="utf-8")
        # Bytes decide: a tree with Windows line ends keeps them.
        tasks = (root / TASKS).read_bytes().decode("utf-8")
        modules = (root / MODULES).read_bytes().decode("utf-8") if (root / MODULES).exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"cannot read the Ultralytics in {root}: {error}") from None
    found = re.search(r"""^__version__ = ["'](\d+)\.(\d+)\.(\d+)""", start, re.M)
    if found is None:
        raise HostError(f"{root / 'ultralytics/__init__.py'} says no version")
    version = tuple(map(int, found.groups()))
    text = version_text(version)
    if version < OLDEST:
        oldest = version_text(OLDEST)
        raise HostError(f"Ultralytics {text} in {root}: {oldest} is the oldest release that can be patched")
    return Tree(root, version, tasks, modules)


def patched(tree: Tree, modules: Iterable[str]) -> dict[Path, str]:
    """Return the new texts of the files that change, by path below the tree's root; empty if none does.

    Raises:
        HostError: The tree is half patched, or a place for the edits is not there exactly once.
        ValueError: A module is not registered.
    """
    original, present = _split(tree)
    names = sorted({*modules, *present})
    known = registry.entries()
    if lost := ", ".join(name for name in names if name not in known):
        raise HostError(f"{tree.root / TASKS} was patched with {lost}, which this tool does not know: revert it first")
    ours = [n for n in names if not known[n].native]
    text = original
    head = f"{BEGIN} {__version__}: {', '.join(ours)}\n"
    line = f"from ultralytics.nn.modules.swapnas import {', '.join(ours)}  # noqa: E402  beside what needs it\n"
    imports = f"{head}{line}{_END}\n\n\n"
    for anchor, block in ((_DEFINITION, imports), (ANCHOR, render_branch(ours))):
        place = anchor.rstrip("\n")
        count = len(re.findall(rf"^{re.escape(place)}", text, re.M))
        if count != 1:
            raise HostError(
                f"Ultralytics {tree.version} in {tree.root}: the anchor {place.strip()!r} stands {count} times in "
                f"{TASKS}, not once; the nearest release that is known to have it is {nearest(tree.release)}"
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
        f"from __future__ import annotations\n\n{standalone(modules)}"
    )


def reverted(tree: Tree) -> dict[Path, str | None]:
    """Return what takes the edits back: the old text of ``tasks.py``, and None for the module file, which goes.

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


def prove(tree: Tree, new: dict[Path, str], files: ModelFiles) -> None:
    """Build the variant with a patched copy of the tree, in a process of its own.

    Raises:
        HostError: It cannot be built; the message has what that process said last.
    """
    with tempfile.TemporaryDirectory(prefix="nas-patch-") as folder:
        copy = Path(folder)
        shutil.copytree(tree.root / "ultralytics", copy / "ultralytics", ignore=shutil.ignore_patterns("__pycache__"))
        for path, text in new.items():
            (copy / path).write_bytes(text.encode())
        (copy / "stand-ins").mkdir()
        for name, text in STAND_INS.items():
            (copy / "stand-ins" / name).write_text(text, encoding="utf-8")
        model = copy / f"{files.name}.yaml"
        model.write_text(files.yaml, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", _PROOF, str(model)],
            cwd=folder,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise HostError(f"{files.name} does not build with a patched copy of Ultralytics {tree.version}: {said}")


def write_tree(tree: Tree, changes: Mapping[Path, str | None]) -> list[Path]:
    """Write changes into the tree: all or, if one cannot be written, none; return the paths.

    Raises:
        HostError: A file cannot be written.
    """
    # On the way in the module file comes first, on the way out last: tasks.py must never name one that is not there.
    order = sorted(changes, key=lambda path: (path == TASKS) == (changes.get(MODULES, "") is not None))
    new = {path: changes[path] for path in order}
    try:
        write_all({tree.root / path: None if text is None else text.encode() for path, text in new.items()})
    except OSError as error:
        raise HostError(f"cannot write to the Ultralytics in {tree.root}: {error}") from None
    return [tree.root / path for path in changes]


def _split(tree: Tree) -> tuple[str, Sequence[str]]:
    """Return ``tasks.py`` without our edits, with plain line ends, and the modules that these named.

    Raises:
        HostError: Only a part of the edits is there.
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
