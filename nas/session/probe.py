"""A timed probe: how long this machine takes for an image of a proxy, from a training of a few batches."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nas.bank.artifacts import Worker
from nas.data.dataset import Dataset, write_resolved
from nas.data.fidelity import Fidelity
from nas.device import CPU, choose_device
from nas.errors import OptionError, ProxyFailure
from nas.model.render import render
from nas.session.budget import Pace
from nas.space.variant import Variant
from nas.study.settings import Settings
from nas.training.jobs import ProxyJob
from nas.training.recipe import start_of

_BATCHES, _BATCHES_ON_GPU = 2, 16
"""Batches of an epoch of the probe; on a GPU an epoch of two would be over before its loader runs at full speed."""
_LEAST_VALIDATION = 0.2
"""Least cost of validating an image over that of training on it: the difference of two short epochs is noisy."""


def measure_pace(worker: Worker, settings: Settings, dataset: Dataset, fidelity: Fidelity) -> Pace | None:
    """Train the baseline's architecture on a few images, and return the pace; None if memory runs out.

    The second of three epochs is timed: images are decoded by then. The third has a validation.

    Raises:
        OptionError: The training fails for another reason.
    """
    recipe = settings.recipe
    count = recipe.batch * (_BATCHES if recipe.device == CPU else _BATCHES_ON_GPU)
    train, val = _some(dataset.train, count), _some(dataset.val, recipe.batch)
    part = replace(dataset, train=train, val=val)
    timed = replace(
        recipe, init="scratch", init_digest="", epochs=3, validations=1, imgsz=fidelity.imgsz,
        windows_at=fidelity.windows_at, device=choose_device(recipe.device), **start_of("scratch"),
    )  # fmt: skip
    variant = Variant(settings.space.base, settings.space.scale)
    with tempfile.TemporaryDirectory(prefix="nas-probe-") as folder:
        job = ProxyJob(
            name=variant.name,
            yaml=render(variant).yaml,
            base=variant.base,
            scale=variant.scale,
            swaps=(),
            data=str(write_resolved(part, Path(folder), part=True)),
            data_key=f"{dataset.fingerprint} probe",
            recipe=timed,
            seed=settings.seed,
            scratch=folder,
            average=False,
        )
        try:
            curve = worker.run(job).curve
        except ProxyFailure as failure:
            if failure.out_of_memory:
                return None
            raise OptionError(f"--budget: the timed probe failed: {failure}") from None
    image = curve[1].seconds / len(train)
    return Pace(image, max(_LEAST_VALIDATION * image, (curve[2].seconds - curve[1].seconds) / len(val)))


def _some(images: Sequence[Path], count: int) -> tuple[Path, ...]:
    """Return at most so many images, evenly spread."""
    if len(images) <= count:
        return tuple(images)
    return tuple(images[i * len(images) // count] for i in range(count))
