"""The classes that the installed Ultralytics' ``parse_model`` can build, and the names of ours where it has the same.

A model YAML names a class, and ``parse_model`` looks it up in ``ultralytics.nn.tasks``. A fork has classes of its own
there. Where one has the name of a registered module, the name is the host's, and the registered module is written as
``NasNAME``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from nas.fork import installed
from nas.fork.installed import TASKS
from nas.fork.source import Definition, Package
from nas.ops import registry

PREFIX = "Nas"
"""Begins the name of a registered module where the installed Ultralytics has another class of its name."""

PLACED: dict[str, type] = {}
"""Classes that `nas.model.host` has put into the running host, by the name that they have there."""

_MODULES = "ultralytics.nn.modules"
_TORCH = ("nn.", "torchvision.ops.")


def definition(name: str, package: Package | None = None) -> Definition | None:
    """Return what a name in a model YAML stands for in the installed Ultralytics, or in a package; None if nothing.

    A class that was put into a running process counts too.
    """
    package = package or installed.package()
    found = package.resolve(name, TASKS) if package else None
    if found is None and package is installed.package() and (live := _live(name)) is not None:
        return Definition(name, str(getattr(live, "__module__", TASKS)))
    return found


def host_has(name: str) -> bool:
    """Return whether a model YAML can name this class of the installed Ultralytics, PyTorch or Torchvision.

    A name that its files do not have is looked up in the imported host: a package beside it may have put it there.
    """
    if name.startswith(_TORCH):
        return _torch_has(name)
    found = definition(name)
    if found is None and _imported():
        found = definition(name)
    return found is not None and _is_buildable(found, name)


def host_names() -> dict[str, Definition]:
    """Return the classes that the installed Ultralytics' ``parse_model`` can look up, by name."""
    package = installed.package()
    return _names_of(package) if package else {}


@cache
def _names_of(package: Package) -> dict[str, Definition]:
    """Return the layers of a package: neither its models, which are in the same file, nor losses."""
    found = {name: package.resolve(name, TASKS) for name in package.names(TASKS)}
    return {
        name: d
        for name, d in sorted(found.items())
        if d is not None
        and d.module.startswith("ultralytics.nn.")
        and not (d.module == TASKS and d.name.endswith(("Model", "Ensemble")))
        and package.is_module_class(d)
    }


def parameters(name: str) -> tuple[str, ...] | None:
    """Return the constructor's parameters of a host's class, also of one that its ``parse_model`` does not know.

    None where there is no such class, or they cannot be read.
    """
    package = installed.package()
    if package is None:
        return None
    found = package.resolve(name, TASKS) or package.resolve(name, _MODULES)
    known = package.parameters(found) if found else None
    if known is None and (live := _live(name)) is not None:
        try:
            given = inspect.signature(live).parameters.values()
        except (TypeError, ValueError):
            return None
        return tuple("*" if p.kind is p.VAR_POSITIONAL else p.name for p in given if p.kind is not p.VAR_KEYWORD)
    return known


def yaml_name(module: str) -> str:
    """Return the name of a registered module in model YAMLs: with a prefix where the host has another of its name."""
    entry = registry.entries().get(module)
    shipped = entry is not None and entry.source.startswith("nas.ops.")
    return PREFIX + module if shipped and collides(module) else module


def collides(module: str) -> bool:
    """Return whether the installed Ultralytics has another class of a registered module's name."""
    return definition(module) is not None


def renamed(modules: Iterable[str]) -> str:
    """Return which registered modules have another name in model YAMLs here, and why; empty if none has."""
    found = [f"{name} as {yaml_name(name)}" for name in modules if yaml_name(name) != name]
    return f"{installed.host_version()} has classes of its own under these names; written: {', '.join(found)}" * bool(
        found
    )


def registered_name(name: str) -> str:
    """Return the registered module that a name in a model YAML stands for; empty if it is none of ours."""
    bare = name.removeprefix(PREFIX)
    if name in registry.entries():
        return name if yaml_name(name) == name else ""
    return bare if bare in registry.entries() and yaml_name(bare) == name else ""


def _live(name: str) -> Any:
    """Return what a name stands for in an imported host; None if nothing, or if it is one of ours."""
    value = getattr(sys.modules.get(TASKS), name, None)
    own = str(getattr(value, "__module__", "")).startswith("nas.") or PLACED.get(name) is value
    entry = registry.entries().get(name)
    return None if own or (entry is not None and value is entry.cls) or not callable(value) else value


@cache
def _imported() -> bool:
    """Import the host, and return whether it can be imported."""
    try:
        importlib.import_module(TASKS)
    except Exception:  # whatever a fork's files raise: its names are then those that can be read
        return False
    return True


def _is_buildable(found: Definition, name: str) -> bool:
    """Return whether a name stands for a class or function that can be a layer, as far as that can be read."""
    package = installed.package()
    if isinstance(found.node, ast.ClassDef):
        return package is not None and package.is_module_class(found)
    if found.node is not None:
        return found.module.startswith("ultralytics.nn.") and found.module != TASKS
    live = _live(name)
    if isinstance(live, type):
        return hasattr(live, "forward")
    return live is not None or (found.file is None and found.module.split(".")[0] not in sys.stdlib_module_names)


_IN_EVERY_TORCH = frozenset(
    f"nn.{name}"
    for name in ("AvgPool2d", "Conv2d", "ConvTranspose2d", "Identity", "MaxPool2d", "Upsample", "ZeroPad2d")
)


def _torch_has(name: str) -> bool:
    if name in _IN_EVERY_TORCH:  # commands that only read a space do not import torch
        return True
    if name.startswith("nn."):
        return isinstance(getattr(importlib.import_module("torch.nn"), name[3:], None), type)
    try:
        ops = importlib.import_module("torchvision.ops")
    except ImportError:
        return False
    return callable(getattr(ops, name.removeprefix("torchvision.ops."), None))
