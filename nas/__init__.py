"""SwapNAS: measured architecture search over YOLO module swaps.

``import nas; nas.register()`` lets plain Ultralytics build, train and load every model YAML that the tool emits.
Importing this package is cheap: torch and Ultralytics wait until they are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.host import register as register
    from nas.trainer import Trainer as Trainer

__version__ = "0.1.0"
__all__ = ["Trainer", "__version__", "register"]


def __getattr__(name: str) -> Any:
    """Import the two public names at first use."""
    if name == "register":
        from nas.host import register

        return register
    if name == "Trainer":
        from nas.trainer import Trainer

        return Trainer
    raise AttributeError(f"module 'nas' has no attribute {name!r}")
