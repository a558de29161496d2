"""Ultralytics' heads that are no detection head, and what they are for."""

from __future__ import annotations

_TASKS = {
    "Segment": "instance segmentation",
    "Segment26": "instance segmentation",
    "YOLOESegment": "open-vocabulary segmentation (YOLOE)",
    "YOLOESegment26": "open-vocabulary segmentation (YOLOE)",
    "SemanticSegment": "semantic segmentation",
    "Pose": "pose estimation",
    "Pose26": "pose estimation",
    "OBB": "oriented boxes",
    "OBB26": "oriented boxes",
    "Depth": "depth estimation",
    "Classify": "classification",
    "WorldDetect": "open-vocabulary detection (YOLO-World)",
    "YOLOEDetect": "open-vocabulary detection (YOLOE)",
    "RTDETRDecoder": "RT-DETR, which has a trainer of its own",
}


def other_task(module: str) -> str:
    """Return that a head is Ultralytics' head of another task, in words; empty if it is none of these."""
    what = _TASKS.get(module)
    return (
        f"{module} is Ultralytics' head for {what}; nas searches detection models (Detect, v10Detect)" if what else ""
    )
