"""Tasks: what detection, segmentation, poses, rotated boxes and classification differ in, as facts.

Swaps change the backbone and the neck, which all tasks share; the task of a model is that of its head, its last layer.
These are facts only, so that every package can read them without importing torch or Ultralytics. What follows from them
is where it belongs: the model is built in `nas.model.host`, the trainers are in `nas.model.trainer`, the labels are
checked in `nas.data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Labels: TypeAlias = Literal["boxes", "polygons", "keypoints", "rotated boxes", "class folders"]
"""What the labels of a dataset are."""


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: As Ultralytics calls it, such as ``YOLO(model, task="segment")``, unless `of_host` has that name.
        words: It in words.
        heads: The host's classes of heads: the last row of a model of the task is one of them.
        model: The host's class of models, in ``ultralytics.nn.tasks``.
        host_trainer: Its module of trainers, and the trainer there.
        trainer: The same with the modules registered, as in ``nas.Trainer``.
        metric: The main metric, as tables call it.
        keys: What the host's results call the metric at IoU 0.5 and the main metric (of classification: top-5, top-1).
        scores: The part of the host's metrics that has them for each class; empty if it has none.
        labels: What its labels are.
        mark: What the names of its models have and those of a detection model have not, such as ``-seg``.
        of_host: The host's own name of it, where several of these tasks are one to the host.
    """

    name: str
    words: str
    heads: tuple[str, ...]
    model: str
    host_trainer: tuple[str, str]
    trainer: str
    metric: str
    keys: tuple[str, str]
    scores: str
    labels: Labels
    mark: str = ""
    of_host: str = ""

    @property
    def host_name(self) -> str:
        """What the host calls it."""
        return self.of_host or self.name

    @property
    def has_proxies(self) -> bool:
        """Whether proxies of it are trained; models of the others are built, costed, imported and emitted."""
        return not self.of_host

    @property
    def has_objects(self) -> bool:
        """Whether its labels are objects in images, on which windows and detection levels are based."""
        return self.labels != "class folders"

    @property
    def imgsz(self) -> int:
        """The host's default image size of a training, in pixels."""
        return 640 if self.has_objects else 224

    @property
    def data_file(self) -> str:
        """What a dataset is, as the path of an example ends."""
        return "data.yaml" if self.has_objects else "folder"

    @property
    def data_words(self) -> str:
        """What a dataset is, in words."""
        folder = "the folder with train/CLASS/IMAGE and val/CLASS/IMAGE"
        return "the dataset's data.yaml" if self.has_objects else folder

    def said(self, text: str) -> str:
        """Return a line about mAP as it is where the metric is one; of classification with top-1 accuracy instead."""
        return text if self.has_objects else self.named(text)

    def named(self, text: str) -> str:
        """Return a text about mAP with the task's own: ``mAP/GFLOP`` of segmentation is ``mask mAP/GFLOP``.

        Of classification it is ``top-1/GFLOP``: top-1 accuracy takes the place of mAP50-95, top-5 that of mAP50.
        """
        kind, found, _ = self.metric.partition("mAP")
        if found:
            return text.replace("mAP", f"{kind}mAP")
        return text.replace("mAP50-95", self.metric).replace("mAP50", "top-5").replace("mAP", self.metric)


DETECT = Task(
    "detect",
    "detection",
    ("Detect", "v10Detect"),
    "DetectionModel",
    ("ultralytics.models.yolo.detect", "DetectionTrainer"),
    "Trainer",
    "mAP50-95",
    ("metrics/mAP50(B)", "metrics/mAP50-95(B)"),
    "box",
    "boxes",
)
SEGMENT = Task(
    "segment",
    "instance segmentation",
    ("Segment", "Segment26"),
    "SegmentationModel",
    ("ultralytics.models.yolo.segment", "SegmentationTrainer"),
    "SegmentTrainer",
    "mask mAP50-95",
    ("metrics/mAP50(M)", "metrics/mAP50-95(M)"),
    "seg",
    "polygons",
    mark="-seg",
)
POSE = Task(
    "pose",
    "pose estimation",
    ("Pose", "Pose26"),
    "PoseModel",
    ("ultralytics.models.yolo.pose", "PoseTrainer"),
    "PoseTrainer",
    "pose mAP50-95",
    ("metrics/mAP50(P)", "metrics/mAP50-95(P)"),
    "pose",
    "keypoints",
    mark="-pose",
)
OBB = Task(
    "obb",
    "oriented boxes",
    ("OBB", "OBB26"),
    "OBBModel",
    ("ultralytics.models.yolo.obb", "OBBTrainer"),
    "OBBTrainer",
    "OBB mAP50-95",
    ("metrics/mAP50(B)", "metrics/mAP50-95(B)"),
    "box",
    "rotated boxes",
    mark="-obb",
)
CLASSIFY = Task(
    "classify",
    "classification",
    ("Classify",),
    "ClassificationModel",
    ("ultralytics.models.yolo.classify", "ClassificationTrainer"),
    "ClassifyTrainer",
    "top-1",
    ("metrics/accuracy_top5", "metrics/accuracy_top1"),
    "",
    "class folders",
    mark="-cls",
)
RTDETR = Task(
    "rtdetr",
    "detection by RT-DETR",
    ("RTDETRDecoder",),
    "RTDETRDetectionModel",
    ("ultralytics.models.rtdetr.train", "RTDETRTrainer"),
    "RTDETRTrainer",
    "mAP50-95",
    ("metrics/mAP50(B)", "metrics/mAP50-95(B)"),
    "box",
    "boxes",
    of_host=DETECT.name,
)
"""Detection with the same data and metrics, but a model, a loss and a trainer of its own."""
TASKS: Mapping[str, Task] = {task.name: task for task in (DETECT, SEGMENT, POSE, OBB, CLASSIFY, RTDETR)}
"""Every task by its name, detection first."""


def task_of_head(module: str) -> Task | None:
    """Return the task whose models end in a class of the host; None if there is none."""
    return next((task for task in TASKS.values() if module in task.heads), None)


def task_of_model(config: Mapping[str, Any]) -> Task:
    """Return the task of the content of a model YAML; detection where its head is none of the host's."""
    return task_of_head(str(config["head"][-1][2])) or DETECT


def head_names() -> tuple[str, ...]:
    """Return the host's classes that are the head of some task."""
    return tuple(head for task in TASKS.values() for head in task.heads)
