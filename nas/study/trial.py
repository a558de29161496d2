"""A trial: what a study keeps of one run, that is of one variant trained once, with one seed at one fidelity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from nas.space.choice import KEEP, NONE
from nas.space.variant import Variant, describe_swaps
from nas.training.scores import EpochScore, Validation, scores

Status = Literal["running", "done", "failed", "rejected", "interrupted"]
"""``rejected``: over a limit, never trained. ``interrupted``: its search was stopped; it is tried again."""
DIED = "its worker died"
"""What an interrupted trial says when its worker was gone without a word."""
DIED_OFTEN = "its worker died three times while it ran, in the same epoch"
"""What a trial says that has failed of that: it may be what kills them."""


class RunKey(NamedTuple):
    """What a run is known by: no two finished runs of a study have the same.

    Attributes:
        variant: Its id.
        seed: Of its training.
        fidelity: As `Trial.fidelity`.
    """

    variant: str
    seed: int
    fidelity: str


@dataclass(frozen=True)
class Trial:
    """One variant, tried once.

    Attributes:
        number: In order of the study.
        variant: What was tried.
        assignment: Slot key to label, as the space has them.
        status: How it ended.
        seed: Of its training, and of the bank that it is assembled from.
        fidelity: How far it was trained; empty is the study's own recipe, which alone is ranked.
        score: Which of `nas.training.scores.SCORES` it is ranked by.
        yaml: The model YAML that it was built from, byte for byte.
        params: Parameters.
        gflops: As `nas.model.cost.Cost.gflops`.
        stock_gflops: As `nas.model.cost.Cost.stock_gflops`.
        uncounted: As `nas.model.cost.Cost.uncounted`.
        latency_ms: Of one image on the study's machine, as `nas.model.latency.Latency.ms`; None where it was not
            measured.
        curve: A score an epoch.
        average: Validation of the averaged weights; None where the study's score is another, which needs none.
        distillation: The largest distillation error among its swaps, in variances of the layer's output; None without a
            bank.
        inherited: Tensors that started from given values, and all tensors.
        seconds: Wall time.
        versions: Of the tool and the packages that decide results.
        failure: What went wrong; empty unless `status` is failed or rejected.
        pooled: mAP50-95 over several seeds, where this stands for all runs of its variant (`nas.ranking.replicates`);
            never stored.
    """

    number: int
    variant: Variant
    assignment: Mapping[str, str]
    status: Status
    seed: int = 0
    fidelity: str = ""
    score: str = "map"
    yaml: str = ""
    params: int = 0
    gflops: float = 0.0
    stock_gflops: float = 0.0
    uncounted: tuple[tuple[str, int], ...] = ()
    latency_ms: float | None = None
    curve: tuple[EpochScore, ...] = ()
    average: Validation | None = None
    distillation: float | None = None
    inherited: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    versions: tuple[tuple[str, str], ...] = ()
    failure: str = ""
    pooled: float | None = None

    @property
    def key(self) -> RunKey:
        """What it is known by."""
        return RunKey(self.variant.id, self.seed, self.fidelity)

    @property
    def map(self) -> float:
        """mAP50-95 on the validation images by the study's score; 0 before there is any."""
        if self.pooled is not None:
            return self.pooled
        if self.status == "done":
            return self.scores[self.score]
        return self._last.map if self._last else 0.0

    @property
    def map50(self) -> float:
        """Final mAP50."""
        return self._last.map50 if self._last else 0.0

    @property
    def _last(self) -> Validation | None:
        return next((s.validation for s in reversed(self.curve) if s.validation), None)

    @cached_property
    def scores(self) -> dict[str, float]:
        """Every score of `nas.training.scores.SCORES` that was measured; of a finished trial."""
        return scores(self.curve, self.average)

    @property
    def map_per_gflop(self) -> float:
        """mAP50-95 over GFLOPs."""
        return self.map / self.gflops if self.gflops else 0.0

    @property
    def spent(self) -> bool:
        """Whether it is settled, so that it is not tried again; a baseline that failed has to be."""
        return self.status == "done" or (self.status == "failed" and not self.variant.is_baseline)

    def describe(self) -> str:
        """Return the swaps in one line, tied layers by the name of their slot."""
        return describe_swaps((k, v) for k, v in sorted(self.assignment.items()) if v not in (KEEP, NONE))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for storing; the number and the assignment are the storage's own."""
        body = asdict(self)
        del body["number"], body["assignment"], body["pooled"]
        return body

    @classmethod
    def from_json(cls, number: int, assignment: Mapping[str, str], body: dict[str, Any]) -> Trial:
        """Return what `to_json` stored."""
        pairs = {"uncounted", "versions"}
        given: dict[str, Any] = {k: tuple((a, b) for a, b in v) if k in pairs else v for k, v in body.items()}
        given["variant"] = Variant(
            body["variant"]["base"], body["variant"]["scale"], tuple((s, c) for s, c in body["variant"]["swaps"])
        )
        given["curve"] = tuple(EpochScore.from_json(score) for score in body["curve"])
        given["average"] = Validation(**body["average"]) if body["average"] else None
        given["inherited"] = (body["inherited"][0], body["inherited"][1])
        return cls(number=number, assignment=dict(assignment), **given)


def variants_spent(trials: Sequence[Trial]) -> int:
    """Return how many variants count towards those asked for: tried to the end, whatever came of it, or being tried."""
    return len({t.variant for t in trials if t.spent or t.status == "running"})
