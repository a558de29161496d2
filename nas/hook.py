"""Registers the modules with Ultralytics as soon as both are there, so that ``import nas`` is all that a script needs.

Importing this package must stay cheap, and may come before or after Ultralytics. So the modules are registered when the
import of ``ultralytics.nn.tasks`` ends; where that is itself a part of importing `nas.ops`, when this ends.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_TASKS, _OPS = "ultralytics.nn.tasks", "nas.ops"


class _Watcher(importlib.abc.MetaPathFinder):
    """Has the end of two imports noticed; finding is left to the finders after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in (_TASKS, _OPS):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Announcing(spec.loader)
                return spec
        return None


class _Announcing(importlib.abc.Loader):
    """Loads as another loader does, takes itself away again, and registers."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.inner.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.inner
        if module.__spec__ is not None:
            module.__spec__.loader = self.inner
        self.inner.exec_module(module)
        _try_register(ended=module.__name__)


def install() -> None:
    """Register the modules now if Ultralytics is imported, else when it is."""
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())
    if _TASKS in sys.modules:
        _try_register(ended="")


def _try_register(ended: str) -> None:
    """Register unless one of the two is still being imported, whose end comes here again.

    A host that cannot take them must stay usable without them, so this warns; `nas.host.register` raises.
    """
    if any(_is_importing(name) for name in (_TASKS, _OPS) if name != ended) or _TASKS not in sys.modules:
        return
    try:
        importlib.import_module("nas.host").register()
    except Exception as error:  # an import of Ultralytics must not fail by what is registered with it
        warnings.warn(f"the modules of nas are not registered: {error}", RuntimeWarning, stacklevel=2)


def _is_importing(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))
