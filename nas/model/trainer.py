"""The trainers that users, DDP workers and proxies train with: one for each task.

Importing this module registers the modules. That is what makes it work under DDP: a worker process unpickles the
trainer class by its import path, and so registers before it builds anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer as HostOBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer as HostPoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer

from nas.model.host import register
from nas.ops import registry
from nas.own import use
from nas.own.files import ModuleFile, files_of
from nas.task.task import CLASSIFY, DETECT, OBB, POSE, RTDETR, SEGMENT

register()
_HostRTDETRTrainer: Any = importlib.import_module(RTDETR.host_trainer[0]).RTDETRTrainer


class _Carrier:
    """A callback that does nothing, but brings the modules into the processes of a distributed training.

    Ultralytics sends these the trainer's class, arguments and callbacks, but a model only if it was loaded from a
    checkpoint. Unpickling this one registers the files, before the trainer builds its model.
    """

    def __init__(self, files: Sequence[ModuleFile]) -> None:
        self.files = files

    def __call__(self, trainer: Any) -> None:
        """Do nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self.files,)


def _arrive(files: Sequence[ModuleFile]) -> _Carrier:
    use(files)
    return _Carrier(files)


def carry_modules(trainer: Any) -> None:
    """Let the processes of a distributed training register what is registered here, own modules too."""
    if not any(isinstance(c, _Carrier) for c in trainer.callbacks["teardown"]):
        trainer.add_callback("teardown", _Carrier(files_of(list(registry.entries()))))


class _Registering:
    """What is added to a trainer of Ultralytics."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if files_of(list(registry.entries())):
            carry_modules(self)

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the model, after registering modules that have been added since the import."""
        register()
        return super().get_model(cfg, weights, verbose)  # type: ignore[misc]  # of the host's class, which comes next


class Trainer(_Registering, DetectionTrainer):  # type: ignore[misc]  # Ultralytics is untyped
    """Ultralytics' DetectionTrainer with the modules registered: ``YOLO(yaml).train(..., trainer=nas.Trainer)``."""


class SegmentTrainer(_Registering, SegmentationTrainer):  # type: ignore[misc]  # Ultralytics is untyped
    """Ultralytics' SegmentationTrainer with the modules registered."""


class PoseTrainer(_Registering, HostPoseTrainer):  # type: ignore[misc]  # Ultralytics is untyped
    """Ultralytics' PoseTrainer with the modules registered."""


class OBBTrainer(_Registering, HostOBBTrainer):  # type: ignore[misc]  # Ultralytics is untyped
    """Ultralytics' OBBTrainer with the modules registered."""


class ClassifyTrainer(_Registering, ClassificationTrainer):  # type: ignore[misc]  # Ultralytics is untyped
    """Ultralytics' ClassificationTrainer with the modules registered."""


class RTDETRTrainer(_Registering, _HostRTDETRTrainer):  # type: ignore[misc]  # Ultralytics is untyped
    """Ultralytics' RTDETRTrainer with the modules registered."""


TRAINERS: Mapping[str, type[Any]] = {
    DETECT.name: Trainer,
    SEGMENT.name: SegmentTrainer,
    POSE.name: PoseTrainer,
    OBB.name: OBBTrainer,
    CLASSIFY.name: ClassifyTrainer,
    RTDETR.name: RTDETRTrainer,
}
"""The trainer of each task, by its name."""
