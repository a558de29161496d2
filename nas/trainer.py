"""The trainer that users, DDP workers and proxies train with.

Importing this module registers the modules. That is what makes it work under DDP: a worker process unpickles the
trainer class by its import path, and so registers before it builds anything.
"""

from __future__ import annotations

from typing import Any

from ultralytics.models.yolo.detect import DetectionTrainer

from nas.host import register

register()


class Trainer(DetectionTrainer):  # type: ignore[misc]  # Ultralytics is untyped
    """Ultralytics' DetectionTrainer with the modules registered: ``YOLO(yaml).train(..., trainer=nas.Trainer)``."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the model, after registering modules that have been added since the import."""
        register()
        return super().get_model(cfg, weights, verbose)
