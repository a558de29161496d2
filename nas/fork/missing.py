"""Packages that the installed Ultralytics imports and that are not installed: many forks need some.

Such a fork cannot be imported, and no model of it be built. `stand_in` puts empty packages in their place, under which
it can be imported, though not what needs them be built.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from nas.fork import installed
from nas.fork.installed import TASKS, host_version

_DISTRIBUTIONS = {"cv2": "opencv-python", "PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}
_DISTRIBUTIONS |= {"yaml": "pyyaml", "mmcv": "mmcv-lite", "pywt": "PyWavelets", "torch_dct": "torch-dct"}
"""Names by which packages are installed, where these are not those of their imports."""


def missing_packages() -> dict[str, Path]:
    """Return the packages that the installed Ultralytics imports and that are not there, with a file that does."""
    package = installed.package()
    found = package.outside(TASKS) if package else {}
    return {name: path for name, path in sorted(found.items()) if name and not _is_there(name)}


def explained(error: ImportError) -> str:
    """Return what to install after an import of the host has failed; empty if it has failed for another reason."""
    lost = missing_packages()
    top = (error.name or "").split(".")[0]
    if top not in lost:
        return ""
    first = next(iter(lost.values()))
    needs = " ".join(_DISTRIBUTIONS.get(name, name) for name in lost)
    are = "is" if len(lost) == 1 else "are"
    return (
        f"{host_version()} in {first.parents[1] if first.parent.name == 'nn' else first.parent} imports "
        f"{', '.join(lost)}, which {are} not installed: pip install {needs}\n"
        "`nas emit-yaml --without-proof` writes files without it, which have not been built"
    )


def stand_in(names: Iterable[str]) -> None:
    """Put empty packages in the place of missing ones, for this process."""
    _Finder.names |= set(names)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _is_there(name: str) -> bool:
    if name in sys.modules or name in sys.stdlib_module_names:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


class _Meta(type):
    """Gives an absent class every attribute."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent


class _Absent(metaclass=_Meta):
    """Whatever is imported from a missing package: a base class, a decorator, a function, a registry."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        if cls is _Absent and len(args) == 1 and not options and callable(args[0]):
            return args[0]
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _Absent(*args, **options)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what no other finder has found."""

    names: frozenset[str] | set[str] = frozenset()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = _attribute
        module.__dict__["__all__"] = []


def _attribute(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Absent
