"""Ultralytics' heads: what each is for, and which of them no model of this tool ends in."""

from __future__ import annotations

from nas.task.task import TASKS, head_names, task_of_head

_OTHERS = {
    "YOLOESegment": "open-vocabulary segmentation (YOLOE)",
    "YOLOESegment26": "open-vocabulary segmentation (YOLOE)",
    "SemanticSegment": "semantic segmentation",
    "Depth": "depth estimation",
    "WorldDetect": "open-vocabulary detection (YOLO-World)",
    "YOLOEDetect": "open-vocabulary detection (YOLOE)",
}
"""Heads of no task of this tool."""


def is_head(module: str) -> bool:
    """Return whether a class of Ultralytics is a head, of any task."""
    return module in _OTHERS or module in head_names()


def head_of(module: str) -> str:
    """Return what a head is for, in words; empty if it is none."""
    task = task_of_head(module)
    what = task.words if task else _OTHERS.get(module)
    return f"{module} is Ultralytics' head for {what}" if what else ""


def unknown_head(module: str) -> str:
    """Return that a head is of no task of this tool, and which there are; empty if it is none of these."""
    known = ", ".join(f"{task.words} ({', '.join(task.heads)})" for task in TASKS.values() if task.has_proxies)
    return f"{head_of(module)}; nas searches models of {known}" if module in _OTHERS else ""
