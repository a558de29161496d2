"""Ultralytics source trees: read, edited, and verified by building a model with an edited copy."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from nas.errors import HostError
from nas.files import write_all
from nas.fork.installed import TASKS as TASKS_NAME
from nas.fork.names import PREFIX, yaml_name
from nas.fork.source import Package
from nas.model.render import ModelFiles
from nas.task.task import task_of_model

TASKS = Path("ultralytics/nn/tasks.py")
MODULES = Path("ultralytics/nn/modules/swapnas.py")
"""The module file that a patch adds."""

OLDEST, NEWEST = (8, 0, 100), (8, 4, 190)
"""Releases between which the anchors were checked; later ones work as long as they have them."""

STAND_INS = {
    "pkg_resources.py": """
def parse_version(text):
    return tuple(int(p) for p in text.split("+")[0].split(".") if p.isdigit())
def parse_requirements(lines):
    return []
def require(name):
    return []
class DistributionNotFound(Exception):
    pass
class VersionConflict(Exception):
    pass
""",
    "pandas.py": "class DataFrame:\n    pass\nclass Series:\n    pass\n",
    "seaborn.py": "",
}
"""Stubs, by file name, of what old releases import at once and building a model does not use."""

_BUILD = """
import os, sys
sys.path.insert(0, os.getcwd())
sys.path.append(os.path.join(os.getcwd(), "stand-ins"))  # last: only for what is not installed
import ultralytics
from ultralytics.nn import tasks
assert os.path.realpath(ultralytics.__file__).startswith(os.path.realpath(os.getcwd())), ultralytics.__file__
getattr(tasks, sys.argv[2])(sys.argv[1], verbose=False)
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
        """Its release, such as ``8.3.0``."""
        return version_text(self.release)


def version_text(version: tuple[int, ...]) -> str:
    """Return a release as text, such as ``8.3.0``."""
    return ".".join(map(str, version))


def nearest_release(version: tuple[int, ...]) -> str:
    """Return the nearest release that is known to be supported."""
    return version_text(min(max(version, OLDEST), NEWEST))


def read_tree(path: Path | None) -> Tree:
    """Read an Ultralytics tree.

    Args:
        path: A checkout, or a package folder ``ultralytics``; None for the installed one.

    Raises:
        HostError: There is none, it cannot be read, or it is older than the oldest supported release.
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


def check_names(tree: Tree, modules: Iterable[str]) -> None:
    """Raise HostError if a tree has classes of its own under the names that modules have in model YAMLs.

    Args:
        tree: The tree.
        modules: Names of registered modules.
    """
    package = Package(tree.root / "ultralytics")
    for module in modules:
        name = yaml_name(module)
        found = package.resolve(name, TASKS_NAME)
        if found and found.module != "ultralytics.nn.modules.swapnas":
            raise HostError(
                f"the Ultralytics in {tree.root} has a {name} of its own ({found.where}), which the registered {name} "
                f"would replace: run this command with that Ultralytics installed (PYTHONPATH={tree.root}); "
                f"the registered one is called {PREFIX}{name} there"
            )


def verify_edit(tree: Tree, new: Mapping[Path, str], files: ModelFiles) -> None:
    """Build the variant with an edited copy of the tree, in a subprocess.

    Args:
        tree: The tree; it is not written to.
        new: New texts of its files, by path below its root.
        files: The variant's rendered files.

    Raises:
        HostError: It cannot be built; the message has the last line of that process's output.
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
            [sys.executable, "-c", _BUILD, str(model), task_of_model(yaml.safe_load(files.yaml)).model],
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
