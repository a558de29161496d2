"""The facts about tasks are those of the installed Ultralytics."""

from __future__ import annotations

import pytest
import ultralytics
from ultralytics.nn import tasks
from ultralytics.utils import metrics

from nas.fork.heads import head_of, is_head, unknown_head
from nas.task.task import CLASSIFY, DETECT, RTDETR, SEGMENT, TASKS, head_names, task_of_head

METRICS = {
    "detect": metrics.DetMetrics,
    "segment": metrics.SegmentMetrics,
    "pose": metrics.PoseMetrics,
    "obb": metrics.OBBMetrics,
    "classify": metrics.ClassifyMetrics,
}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_classes_and_metrics_are_those_of_the_host(task):
    host = ultralytics.YOLO(task="detect", model="yolov8n.yaml").task_map[task.host_name]
    if task is RTDETR:
        host = ultralytics.RTDETR("yolov8-rtdetr.yaml").task_map["detect"]
    assert host["model"] is getattr(tasks, task.model)
    assert all(hasattr(tasks, head) for head in task.heads if not head.endswith("26") or hasattr(tasks, "OBB26"))
    found = METRICS[task.host_name]()
    assert set(task.keys) <= set(found.keys)
    assert hasattr(found, task.scores) if task.scores else not hasattr(found, "box")


def test_a_head_has_one_task():
    assert len(head_names()) == len(set(head_names()))
    assert all(task_of_head(head) is task for task in TASKS.values() for head in task.heads)
    assert task_of_head("v10Detect") is DETECT
    assert task_of_head("RTDETRDecoder") is RTDETR
    assert task_of_head("Depth") is None


def test_heads_in_words():
    assert head_of("Segment26") == "Segment26 is Ultralytics' head for instance segmentation"
    assert unknown_head("Segment26") == head_of("C2f") == unknown_head("C2f") == ""
    assert unknown_head("Depth").startswith("Depth is Ultralytics' head for depth estimation; nas searches models of")
    assert is_head("Depth")
    assert is_head("Classify")
    assert not is_head("C2f")


def test_mean_average_precision_by_its_own_name():
    assert SEGMENT.named("mAP/GFLOP") == "mask mAP/GFLOP"
    assert SEGMENT.named("Δ mAP50-95") == f"Δ {SEGMENT.metric}"
    assert DETECT.named("mAP50") == "mAP50"


def test_the_accuracy_of_classification_takes_the_place_of_map():
    assert CLASSIFY.named("mAP/GFLOP, mAP50-95, mAP50") == "top-1/GFLOP, top-1, top-5"
    assert CLASSIFY.said("0.01 mAP50-95") == "0.01 top-1"
    assert SEGMENT.said("0.01 mAP50-95") == "0.01 mAP50-95"
