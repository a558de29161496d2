"""The job that prunes, and its result: plain data that goes through the pipe to the training process."""

from __future__ import annotations

from dataclasses import dataclass

from nas.space.variant import Variant
from nas.training.jobs import ProxyJob


@dataclass(frozen=True)
class PruneJob:
    """One pruning.

    Attributes:
        proxy: The baseline with its trained weights, the data, the recipe and the seed.
        yardstick: The narrower model.
        distils: Whether its layers are distilled afterwards, as those of a bank are.
        file: Where its tensors are written, by layer name.
    """

    proxy: ProxyJob
    yardstick: Variant
    distils: bool
    file: str


@dataclass(frozen=True)
class Pruned:
    """The result of a pruning.

    Attributes:
        start_error: Distillation error of the pruned layers on the validation images, their mean, before the first
            step; None if they are not distilled.
        error: The same after the last step.
        cpu_seconds: CPU time of all threads.
    """

    start_error: float | None
    error: float | None
    cpu_seconds: float
