"""The pruned weights of a yardstick on disk: made once a seed, and found again by what decides their content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from nas.bank.artifacts import ArtifactStore
from nas.errors import ArtifactError, OutOfMemory, ProxyFailure
from nas.space.variant import Variant
from nas.training.recipe import Recipe
from nas.yardstick.jobs import PruneJob

_DECIDE = ("imgsz", "windows_at", "batch", "channels_last", "device", "amp", "bank_epochs", "bank_lr0")


def pruned_weights(store: ArtifactStore, yardstick: Variant, recipe: Recipe, seed: int) -> Path:
    """Return the file of a yardstick's initial weights, pruned from those that all variants of a seed inherit.

    Args:
        store: Makes the baseline, and has the folder and the worker.
        yardstick: The narrower model.
        recipe: Of the proxies, which inherit something.
        seed: Of the images that it is pruned and distilled with.

    Raises:
        BaselineNotTrained, OutOfMemory, ArtifactError: As `ArtifactStore.baseline`; or the pruning fails.
    """
    start = store.initial_files(recipe, (), None, seed)["init"]
    inherits = recipe.init in ("baseline", "bank")
    what = [
        yardstick.canonical,
        store.baseline_key(recipe, seed) if inherits else hashlib.sha256(Path(start).read_bytes()).hexdigest(),
        {key: value for key, value in recipe.identity().items() if key in _DECIDE},
        recipe.init == "bank",
        store.fingerprint,
        seed,
        [list(pair) for pair in store.versions],
    ]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    file = store.folder / f"pruned-{digest}.pt"
    with store.locked(file):
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            stock = Variant(yardstick.base, yardstick.scale)
            proxy = store.job(stock, replace(recipe, init="baseline", device=store.device or recipe.device), seed)
            job = PruneJob(replace(proxy, init=start), yardstick, recipe.init == "bank", str(file))
            store.observer.note(f"pruning the baseline of seed {seed} to width {yardstick.width:g}")
            try:
                store.worker.work(job)
            except ProxyFailure as failure:
                kind = OutOfMemory if failure.out_of_memory else ArtifactError
                raise kind(f"the baseline could not be pruned: {failure}") from None
    return file
