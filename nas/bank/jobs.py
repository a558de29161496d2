"""Jobs on swaps, distillations and output scores, and their results: plain data for the training process."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nas.task.task import Task
from nas.training.jobs import ProxyJob

CONTROL = "control"
"""The label of the control: the layer's own module with fresh initial values, distilled as the candidates are."""
MIN_TEACHER_MAP = 0.02
"""mAP50-95 that a baseline must have to be distilled from."""


def least_teacher(task: Task, classes: int) -> float:
    """Return the metric that a baseline must have to be distilled from; of classification, above that of guessing."""
    return MIN_TEACHER_MAP if task.has_objects else round(1 / classes + MIN_TEACHER_MAP, 4)


IMAGES = 64
"""Training images that a score is the mean over."""


@dataclass(frozen=True)
class Candidate:
    """A module for a slot: a layer's name (or ``after NAME``) and a label; `CONTROL` is the layer's own module."""

    slot: str
    label: str


@dataclass(frozen=True)
class DistilJob:
    """One distillation.

    Attributes:
        proxy: The teacher (the baseline with its trained weights), the data, the recipe and the seed.
        candidates: The modules to distil.
        folder: Where progress and the finished candidates are written.
    """

    proxy: ProxyJob
    candidates: tuple[Candidate, ...]
    folder: str


@dataclass(frozen=True)
class Distilled:
    """A candidate that has been distilled.

    Attributes:
        candidate: The candidate.
        file: Name of the file of its tensors; empty if it failed.
        start_error: Mean squared error on the validation images before the first step, over the variance of the layer's
            output; of a head, `nas.bank.head_error.head_error`.
        error: The same after the last step.
        failure: Why it cannot be used; else empty.
        raised: Whether its module raised an error.
    """

    candidate: Candidate
    file: str
    start_error: float
    error: float
    failure: str = ""
    raised: bool = False


@dataclass(frozen=True)
class Bank:
    """The result of a distillation.

    Attributes:
        teacher_map: mAP50-95 of the unchanged baseline.
        drops: Slot to the mAP50-95 that the baseline loses when the layer's output is replaced by its channel means.
        candidates: One result for each candidate of the job.
        cpu_seconds: CPU time of all threads.
        levels: Detection levels and their shares of the assigner's positives (`nas.data.assigned`); may be empty.
    """

    teacher_map: float
    drops: tuple[tuple[str, float], ...]
    candidates: tuple[Distilled, ...]
    cpu_seconds: float
    levels: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class OutputScore:
    """How far a variant's outputs are from the baseline's, per image, in nats.

    Attributes:
        classes: For each detection level, the binary cross-entropy of the class logits against the baseline's
            probabilities, less the entropy of these, summed over anchors and classes.
        boxes: For each level, the Kullback-Leibler divergence of the box distributions from the baseline's, the mean
            of the four sides, weighted by the baseline's largest class probability, summed over anchors.
        halves: The total on two halves of the images, which tells how reliable it is.
        failure: Why there is no score; else empty.
        further: For each level, what the task has besides boxes and classes (`nas.bank.further_score`); of detection
            empty.
    """

    classes: tuple[float, ...] = ()
    boxes: tuple[float, ...] = ()
    halves: tuple[float, float] = (math.nan, math.nan)
    failure: str = ""
    further: tuple[float, ...] = ()

    @property
    def parts(self) -> tuple[float, ...]:
        """Classes and boxes of each level, and what the task has further, in one row."""
        return (*self.classes, *self.boxes, *self.further)

    @property
    def total(self) -> float:
        """Sum of the parts; NaN after a failure."""
        return math.nan if self.failure else sum(self.parts)


@dataclass(frozen=True)
class Assembled:
    """A variant that is scored: its swaps by layer, and the files of their tensors."""

    swaps: tuple[tuple[str, str], ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class ScoreJob:
    """Scores of several variants, in the training process.

    Attributes:
        proxy: The baseline with its trained weights, the data, the recipe and the seed.
        variants: What is scored.
        images: Number of training images.
    """

    proxy: ProxyJob
    variants: tuple[Assembled, ...]
    images: int = IMAGES
