"""What a training process is asked to do and gives back: plain data that goes through its pipe."""

from __future__ import annotations

from dataclasses import dataclass

from nas.own.files import ModuleFile
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation


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
            of `nas.training.checkpoint.run_key`. None keeps nothing.
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
