"""Classes that the installed Ultralytics lacks: modules that are made of them are left out of the registry.

The files of this package import what their modules are made of from Ultralytics, and an older release or a fork may not
have all of it. While the files are imported, a class that is missing there is a stand-in, so that the import succeeds;
`nas.ops.registry.register` leaves out what is made of a stand-in, and `nas.ops.registry.absent` says so.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterable, Iterator

_FILES = ("block", "conv", "transformer")
"""Files of ``ultralytics.nn.modules`` that this package imports from."""
_MARK = "_swapnas_stand_in"


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Let each class that Ultralytics' files of modules lack be a stand-in; at the end they are as they were."""
    files = [importlib.import_module(f"ultralytics.nn.modules.{name}") for name in _FILES]
    for file in files:
        vars(file)["__getattr__"] = functools.partial(_made, file.__name__)
    try:
        yield
    finally:
        for file in files:
            vars(file).pop("__getattr__", None)


def has_stand_in(classes: Iterable[type]) -> bool:
    """Return whether one of the classes is a stand-in."""
    return any(_MARK in vars(cls) for cls in classes)


@functools.cache
def _made(file: str, name: str) -> type:
    """Return the stand-in for a class of a file.

    Raises:
        AttributeError: The name is not that of a class.
    """
    if not name[0].isupper():
        raise AttributeError(f"module {file!r} has no attribute {name!r}")
    from torch import nn

    return type(name, (nn.Module,), {"__module__": file, _MARK: True})
