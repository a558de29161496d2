"""Registers the modules with Ultralytics as soon as both are there, so that ``import nas`` is all that a script needs.

Importing this package must stay cheap, and may come before or after Ultralytics. So the modules are registered when the
import of ``ultralytics.nn.tasks`` ends. Where that is itself a part of importing this package, whose modules are then
half made, they are registered when the first model is built.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_TASKS = "ultralytics.nn.tasks"


class _Watcher(importlib.abc.MetaPathFinder):
    """Has the end of one import noticed; finding is left to the finders after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _TASKS:
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
        try_register(ended=_TASKS)


def install() -> None:
    """Register the modules now if Ultralytics is imported, else when it is."""
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())
    try_register()


def try_register(ended: str = "") -> None:
    """Register the modules if Ultralytics is there, or have that done when the first model is built.

    A host that cannot take them must stay usable without them, so this warns; `nas.model.host.register` raises.

    Args:
        ended: The module whose import has come to its end, though Python does not say so yet.
    """
    tasks: Any = sys.modules.get(_TASKS)
    if tasks is None or (_is_importing(_TASKS) and ended != _TASKS):
        return
    half_made = [name for name in list(sys.modules) if name.startswith("nas.") and _is_importing(name)]
    if half_made and half_made != [ended]:
        tasks.parse_model = _registering(tasks, tasks.parse_model)
        return
    try:
        register_now()
    except Exception as error:  # an import of Ultralytics must not fail by what is registered with it
        warnings.warn(f"the modules of nas are not registered: {error}", RuntimeWarning, stacklevel=2)


def _registering(tasks: Any, stock: Any) -> Any:
    """Return a parse_model that registers the modules and makes way for the one that knows them."""

    @functools.wraps(stock)
    def parse_model(*args: Any, **kwargs: Any) -> Any:
        tasks.parse_model = stock
        try_register()
        return tasks.parse_model(*args, **kwargs)

    return parse_model


def _is_importing(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def register_now() -> None:
    """Register the modules with Ultralytics, which has been imported.

    Raises:
        HostError: It cannot take them.
    """
    importlib.import_module("nas.model.host").register()
    _carry_to_ranks()


def _carry_to_ranks() -> None:
    """Have the processes of a training on several GPUs (DDP) register the modules too.

    They unpickle the trainer's class and callbacks, then build the model from its YAML: with the host's own trainer,
    nothing there imports this package. So a callback goes along that does nothing but bring it.
    """
    dist: Any = importlib.import_module("ultralytics.utils.dist")
    stock = getattr(dist, "generate_ddp_file", None)
    if stock is None or hasattr(stock, "__wrapped__"):
        return

    @functools.wraps(stock)
    def generate_ddp_file(trainer: Any) -> Any:
        importlib.import_module("nas.model.trainer").carry_modules(trainer)
        return stock(trainer)

    dist.generate_ddp_file = generate_ddp_file
