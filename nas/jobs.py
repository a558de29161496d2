"""What a training process is asked to do and gives back: plain data that goes through its pipe."""

from __future__ import annotations

from dataclasses import dataclass

from nas.module_files import ModuleFile
from nas.recipe import Recipe
from nas.scores import EpochScore, Validation

AGAIN = "again"
"""The label of the control: the layer's own module with fresh initial values, distilled as the candidates are."""


@dataclass(frozen=True)
class ProxyJob:
    """One training.

    Attributes:
        name: Stem of the model YAML's file name.
        yaml: The model YAML's text.
        base: Name of the base, and `scale` its letter: shared tensors are found by its layers' names.
        swaps: The variant's swaps, which tell how rows map to named layers.
        data: A data.yaml that Ultralytics can read as it is; `data_key` changes when the images or labels do.
        recipe: How to train.
        seed: Of initial values, data order and augmentation.
        init: A file of named tensors or an Ultralytics checkpoint to inherit from; None starts from the baseline's
            initial values for the seed.
        overlay: Files of named tensors that take the place of those, such as a bank's; a later one wins.
        save: Where to write the trained tensors by name; None writes nothing.
        scratch: Where the training may make files, which it removes; None is the system's place for them.
        modules: Files of own modules, which the training process registers.
        checkpoint: Where the training keeps how far it is, and goes on from when it finds that there; the name is one
            of `nas.checkpoint.run_key`. None keeps nothing.
        checkpoint_s: Seconds between two checkpoints at least; more where writing one takes long; 0 writes every epoch.
        average: Whether to average the weights and validate them at the end, which costs a validation. Nothing else
            depends on it.
    """

    name: str
    yaml: str
    base: str
    scale: str
    swaps: tuple[tuple[str, str], ...]
    data: str
    data_key: str
    recipe: Recipe
    seed: int
    init: str | None = None
    overlay: tuple[str, ...] = ()
    save: str | None = None
    scratch: str | None = None
    modules: tuple[ModuleFile, ...] = ()
    checkpoint: str | None = None
    checkpoint_s: float = 10.0
    average: bool = True


@dataclass(frozen=True)
class ProxyResult:
    """A finished training.

    Attributes:
        curve: One score an epoch; the last one has a validation.
        average: Validation of the averaged weights; None where they were not asked for.
        inherited: Tensors that started from given values, and all tensors.
        cpu_seconds: Of all its threads, the set-up included; beside a GPU, of the process that drives it.
        seconds: Wall time, the set-up included.
        resumed: Epochs that an earlier process had trained; their time is counted in.
    """

    curve: tuple[EpochScore, ...]
    average: Validation | None
    inherited: tuple[int, int]
    cpu_seconds: float
    seconds: float = 0.0
    resumed: int = 0


@dataclass(frozen=True)
class Candidate:
    """A module for a slot: a layer's name (or ``after NAME``) and a label; `AGAIN` is the layer's own module."""

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
