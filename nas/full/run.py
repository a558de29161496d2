"""A full training: the record of one model that the host trained as a user would, under one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from nas.files import dataclass_from_plain, from_plain
from nas.space.variant import Variant

FullStatus = Literal["running", "done", "failed"]
Kind = Literal["baseline", "variant", "pruned", "scaled"]
"""``pruned``: the yardstick (`nas.yardstick`), the baseline pruned uniformly to a variant's GFLOPs. ``scaled``: the
stock model at a smaller width and depth that has them."""


@dataclass(frozen=True)
class FullEpoch:
    """An epoch of the host's ``results.csv``; `map` and the others are 0 where it did not validate."""

    epoch: int
    precision: float | None
    recall: float | None
    map50: float
    map: float


@dataclass(frozen=True)
class ClassScore:
    """The final validation of one class; all are 0 to 1."""

    name: str
    precision: float
    recall: float
    map50: float
    map: float


@dataclass(frozen=True)
class FullScores:
    """The validation of ``best.pt``, as the host reports it at the end of a training.

    Attributes:
        precision: Mean over classes at the confidence of the best F1, as `recall`; None of classification.
        recall: See `precision`.
        map50: mAP50; of classification top-5 accuracy.
        map: mAP50-95; of classification top-1 accuracy.
        classes: The same of each class that the validation images have.
        sizes: mAP50-95 by size of object (`nas.data.sizes.SIZES`); None for a size that no object has.
    """

    precision: float | None
    recall: float | None
    map50: float
    map: float
    classes: tuple[ClassScore, ...] = ()
    sizes: Mapping[str, float | None] | None = None


class FullKey(NamedTuple):
    """The key of a full training; no two finished ones of a study share it."""

    model: str
    seed: int
    group: str


@dataclass(frozen=True)
class FullRun:
    """One full training.

    Attributes:
        model: ID of the row of a ranking: the variant's ID, or ``pruned-`` or ``scaled-`` and GFLOPs; ``+distil`` with
            a teacher.
        kind: As `Kind`.
        title: Its swaps in words.
        name: Stem of its model YAML.
        yaml: The model YAML, byte for byte.
        base: Its base, and `scale` its scale letter.
        swaps: Its swaps, as `nas.space.variant.Variant.swaps`.
        seed: Of the host's training.
        group: Digest, 8 hex digits, of everything besides model and seed that decides the result: runs of one group
            are compared.
        start: What it started from: ``scratch``, ``inherit``, ``bank``, or a file.
        distilled: Whether the trained baseline of the same seed was its teacher.
        arguments: The host's arguments that differ from its defaults; without paths and the seed.
        epochs: Epochs that were requested; early stopping may end it before.
        imgsz: Image side in pixels.
        status: As `FullStatus`; a training that was killed stays ``running`` until it is resumed.
        inherited: Number of tensors of the start that it took, and of all; zeros from scratch.
        params: Parameters.
        gflops: As `nas.model.cost.Cost.gflops`.
        latency_ms: Of the fused model, as `nas.model.latency.Latency.ms`; None where it was not measured.
        latency_on: The machine of that.
        curve: Its epochs.
        scores: The validation of its best weights; None before it has ended.
        seconds: Wall time of all attempts.
        attempts: How often it was started.
        folder: Folder of the host's files, and `weights` the best ones; both where it was trained.
        weights: See `folder`.
        versions: Of the tool and of the packages that decide results.
        failure: Reason if it failed; else empty.
    """

    model: str
    kind: Kind
    title: str
    name: str
    yaml: str
    base: str
    scale: str
    swaps: tuple[tuple[str, str], ...]
    seed: int
    group: str
    start: str
    distilled: bool
    arguments: Mapping[str, Any]
    epochs: int
    imgsz: int
    status: FullStatus = "running"
    inherited: tuple[int, int] = (0, 0)
    params: int = 0
    gflops: float = 0.0
    latency_ms: float | None = None
    latency_on: str = ""
    curve: tuple[FullEpoch, ...] = ()
    scores: FullScores | None = None
    seconds: float = 0.0
    attempts: int = 0
    folder: str = ""
    weights: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    failure: str = ""

    @property
    def key(self) -> FullKey:
        """Key of the run."""
        return FullKey(self.model, self.seed, self.group)

    @property
    def variant(self) -> Variant:
        """Its variant; of a scaled model the baseline."""
        return Variant(self.base, self.scale, self.swaps)

    @property
    def of_space(self) -> bool:
        """Whether it is the baseline or a variant of the search space."""
        return self.kind in ("baseline", "variant")

    @property
    def map(self) -> float:
        """mAP50-95 of its best weights; 0 before it has ended."""
        return self.scores.map if self.scores else 0.0

    @property
    def settings(self) -> str:
        """What it was trained with, in words."""
        further = "".join(f", {key}={value}" for key, value in sorted(self.arguments.items()))
        start = "from scratch" if self.start == "scratch" else f"from {self.start}"
        return f"{self.epochs} epoch{'s' * (self.epochs != 1)} at {self.imgsz} px {start}{further}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for storing."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Any) -> FullRun:
        """Return what `to_json` stored.

        Raises:
            SpaceError: It has a text that is no name.
            ValueError: It is damaged.
        """
        if not isinstance(body, dict):
            raise ValueError("a full training is no mapping")
        body = dict(body)
        arguments = from_plain(Mapping[str, Any], body.pop("arguments"), "arguments")
        made = dataclass_from_plain(cls, body, "a full training", arguments=arguments)
        if made.status == "done" and made.scores is None:
            raise ValueError("it is done, but has no scores")
        made.variant  # noqa: B018  raises for names that are none
        return made

    def failed(self, why: str) -> FullRun:
        """Return it as failed."""
        return replace(self, status="failed", failure=why)
