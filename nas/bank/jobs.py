"""What the training process is asked to distil, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from nas.training.jobs import ProxyJob

CONTROL = "control"
"""The label of the control: the layer's own module with fresh initial values, distilled as the candidates are."""


@dataclass(frozen=True)
class Candidate:
    """A module for a slot: a layer's name (or ``after NAME``) and a label; `CONTROL` is the layer's own module."""

    slot: str
    label: str


@dataclass(frozen=True)
class DistilJob:
    """One distillation.

    Attributes:
        proxy: The baseline with the weights to learn from, the data, the recipe and the seed.
        candidates: What is distilled.
        folder: Where progress and the finished candidates are written.
    """

    proxy: ProxyJob
    candidates: tuple[Candidate, ...]
    folder: str


@dataclass(frozen=True)
class Distilled:
    """A candidate that has been distilled.

    Attributes:
        candidate: Which.
        file: Name of the file of its tensors; empty for one that failed.
        start_error: Mean squared error on the validation images before the first step, over the variance of the layer's
            output.
        error: The same after the last step.
        failure: Why it cannot be used; else empty.
        raised: Whether that is an error that it raised.
    """

    candidate: Candidate
    file: str
    start_error: float
    error: float
    failure: str = ""
    raised: bool = False


@dataclass(frozen=True)
class Bank:
    """What a distillation gives.

    Attributes:
        teacher_map: mAP50-95 of the baseline as it is.
        drops: Slot to the mAP50-95 that the baseline loses when the layer puts out its channels' means.
        candidates: One for each asked for.
        cpu_seconds: Of all threads.
    """

    teacher_map: float
    drops: tuple[tuple[str, float], ...]
    candidates: tuple[Distilled, ...]
    cpu_seconds: float
