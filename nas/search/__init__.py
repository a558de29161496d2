"""The search loop: next step, schedule, runner, inherited weights. ``nas.search(...)`` is `nas.api.search`.

The package and the function have one name, so the package can be called: as an attribute of ``nas`` Python finds the
package as soon as anything has imported it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, space: Any = None, *, progress: bool = True, **options: Any) -> Any:
        """Search a space by training, and return its study: see `nas.api.search`."""
        return import_module("nas.api").search(space, progress=progress, **options)


sys.modules[__name__].__class__ = _Package
