"""Training jobs and their results: plain data that goes through the pipe to the training process.

The parent process uses this file, so nothing here imports torch or Ultralytics.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from nas.own.files import ModuleFile
from nas.space.variant import MODEL
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation


@dataclass(frozen=True)
class ProxyJob:
    """One training.

    Attributes:
        name: Stem of the model YAML's file name.
        yaml: The model YAML's text.
        base: Name of the base, and `scale` its letter: shared tensors are found by its layers' names.
        swaps: The variant's swaps; they define how rows map to named layers.
        data: A data.yaml that Ultralytics can read as it is; `data_key` changes when the images or labels do.
        recipe: How to train.
        seed: Of initial values, data order and augmentation.
        init: A file of named tensors or an Ultralytics checkpoint with the initial weights; None starts from the
            baseline's initial values for the seed.
        overlay: Files of named tensors that replace some of those, such as a bank's; a later file wins.
        save: Where to write the trained tensors by name; None writes nothing.
        scratch: Folder for temporary files, which the training removes; None is the system's temporary folder.
        modules: Files of user modules, which the training process registers.
        checkpoint: The checkpoint file, which the training writes and resumes from; its name is a `checkpoint_key`.
            None keeps no checkpoint.
        checkpoint_s: Minimum seconds between two checkpoints; more where writing one takes long; 0 writes every epoch.
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

    @property
    def is_pruned(self) -> bool:
        """Whether it is a narrower model that starts from pruned weights."""
        return bool(self.overlay) and any(slot == MODEL for slot, _ in self.swaps)


@dataclass(frozen=True)
class ProxyResult:
    """A finished training.

    Attributes:
        curve: One score an epoch; the last one has a validation.
        average: Validation of the averaged weights; None where the job does not average.
        inherited: Number of tensors with given initial values, and of all tensors.
        cpu_seconds: CPU time of all threads, including the set-up; with a GPU, of the process that drives it.
        seconds: Wall time, including the set-up.
        resumed: Epochs that an earlier process had trained; their time is included.
    """

    curve: tuple[EpochScore, ...]
    average: Validation | None
    inherited: tuple[int, int]
    cpu_seconds: float
    seconds: float = 0.0
    resumed: int = 0


def checkpoint_key(job: ProxyJob, versions: tuple[tuple[str, str], ...]) -> str:
    """Return 32 hex digits over everything that decides a job's result; files count by their content.

    A checkpoint is named by it, so that only the same training finds it.

    Args:
        job: The training.
        versions: Of the packages that decide results.
    """
    body = {
        "what": [job.yaml, job.base, job.scale, job.swaps, job.data_key, job.seed],
        "recipe": job.recipe.identity(),
        "files": [_digest(file) for file in ([job.init] if job.init else []) + list(job.overlay)],
        "inherits": job.init is not None,
        "average": job.average,
        "modules": [file.import_name for file in job.modules],
        "versions": versions,
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def _digest(file: str) -> str:
    """Return the SHA-256 of a file; empty where it cannot be read, which the training will report."""
    with contextlib.suppress(OSError):
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return ""
