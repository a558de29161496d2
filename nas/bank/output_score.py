"""Output scores: how far a swap moves the outputs of the network, and their file next to the bank.

A score needs no labels and no training, and hardly any noise is in it: it is the divergence of the detection head's
outputs from those of the trained baseline on training images. The sum over swaps predicts that of their combination.
The score of a block by the output of the whole network, instead of the block's own error: Bercovich et al., "Puzzle:
Distillation-Based NAS for Inference-Optimized LLMs" (arXiv:2411.19146). Nothing here imports torch;
`nas.bank.scoring` computes the scores in the training process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nas.bank.artifacts import ArtifactStore
from nas.bank.jobs import CONTROL, IMAGES, Assembled, Candidate, OutputScore, ScoreJob
from nas.bank.store import SwapBank
from nas.errors import ArtifactError, OutOfMemory, ProxyFailure
from nas.files import read_json, write_json
from nas.space.variant import Variant
from nas.training.recipe import Recipe

_FILE, _MARK = "scores.json", "swapnas scores 1"


def score_bank(
    store: ArtifactStore, recipe: Recipe, seed: int, bank: SwapBank
) -> Mapping[tuple[str, str], OutputScore]:
    """Return the score of each candidate of a bank put in alone, computing those that its folder does not hold yet.

    Controls are not scored. A candidate that cannot be distilled has a score with its failure.

    Raises:
        OutOfMemory, ArtifactError: They cannot be computed.
    """
    wanted = [swap for swap in bank.candidates if swap[1] != CONTROL]
    failed = {s: OutputScore(failure=bank.candidates[s].failure) for s in wanted if bank.candidates[s].failure}
    path = bank.folder / _FILE
    with store.locked(path):
        known = _read(path)
        missing = [swap for swap in wanted if swap not in known and swap not in failed]
        if missing:
            store.observer.scoring(len(missing))
            variants = tuple(Assembled((swap,), bank.files([swap])) for swap in missing)
            known |= dict(zip(missing, score_variants(store, recipe, seed, variants), strict=True))
            _write(path, known)
    found = {**known, **failed}
    return {swap: found[swap] for swap in wanted}


def score_variants(
    store: ArtifactStore, recipe: Recipe, seed: int, variants: Sequence[Assembled], images: int = IMAGES
) -> tuple[OutputScore, ...]:
    """Return the scores of variants that start from the baseline of a seed and from a bank's files.

    Raises:
        OutOfMemory, ArtifactError: They cannot be computed.
    """
    proxy = store.job(Variant(store.space.base, store.space.scale), replace(recipe, init="baseline"), seed)
    proxy = replace(
        proxy,
        init=str(store.baseline(recipe, seed).file),
        recipe=replace(proxy.recipe, device=store.device or recipe.device),
    )
    try:
        found: tuple[OutputScore, ...] = store.worker.work(
            ScoreJob(proxy, tuple(variants), images), lambda seen: store.observer.steps(*seen)
        )
    except ProxyFailure as failure:
        kind = OutOfMemory if failure.out_of_memory else ArtifactError
        raise kind(f"the swaps could not be scored by the network's outputs: {failure}") from None
    return found


def score_from_plain(body: Mapping[str, Any]) -> OutputScore:
    """Return a score from the plain values of `score_to_plain`.

    Raises:
        ValueError, TypeError, LookupError: They are not of a score.
    """
    parts = (body["classes"], body["boxes"], body.get("further", ()))
    classes, boxes, further = (tuple(float(value) for value in part) for part in parts)
    first, second = (math.nan if value is None else float(value) for value in body["halves"])
    finite = all(map(math.isfinite, (*classes, *boxes, *further)))
    if len(classes) != len(boxes) or len(further) not in (0, len(boxes)) or not finite:
        raise ValueError("a score has parts that are not finite, or not of the same levels")
    return OutputScore(classes, boxes, (first, second), str(body.get("failure", "")), further)


def score_to_plain(score: OutputScore) -> dict[str, Any]:
    """Return a score as plain values; JSON has no NaN, and a score of detection nothing further."""
    plain = {**asdict(score), "halves": [v if math.isfinite(v) else None for v in score.halves]}
    return plain if score.further else {key: value for key, value in plain.items() if key != "further"}


def _read(path: Path) -> dict[tuple[str, str], OutputScore]:
    """Return the scores in a file; none where there is no file, as next to the banks of earlier versions."""
    if not path.exists():
        return {}

    def parse(body: Any) -> dict[tuple[str, str], OutputScore]:
        if body["kind"] != _MARK:
            raise ValueError(f"it is of kind {body['kind']!r}, not {_MARK!r}")
        if body["images"] != IMAGES:
            return {}  # of another number of images: computed again
        return {(entry["slot"], entry["label"]): score_from_plain(entry) for entry in body["scores"]}

    return read_json(path, parse)


def _write(path: Path, scores: Mapping[tuple[str, str], OutputScore]) -> None:
    entries = [{**asdict(Candidate(*swap)), **score_to_plain(score)} for swap, score in scores.items()]
    write_json(path, {"kind": _MARK, "images": IMAGES, "scores": entries})
