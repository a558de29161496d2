"""A trial: the record of one run, that is of one variant trained once, with one seed at one fidelity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

from nas.errors import escaped, shown
from nas.files import check_whole_numbers
from nas.space.choice import KEEP, NONE
from nas.space.variant import Variant, describe_swaps
from nas.training.scores import SCORES, EpochScore, Validation, scores

Status = Literal["running", "done", "failed", "rejected", "interrupted"]
"""``rejected``: over a limit, never trained. ``interrupted``: its search was stopped; it will be retried."""
DIED = "its worker died"
"""Failure text of a trial that was interrupted by the death of its worker."""
DIED_OFTEN = "its worker died three times while it ran, in the same epoch"
"""Failure text of a trial that failed after several such deaths: its variant may be the cause."""


class RunKey(NamedTuple):
    """The key of a run; no two finished runs of a study share it.

    Attributes:
        variant: ID of the variant.
        seed: Of its training.
        fidelity: As `Trial.fidelity`.
    """

    variant: str
    seed: int
    fidelity: str


_NUMBER = (float, int)
_KINDS: Mapping[str, tuple[type, ...]] = {
    "status": (str,), "seed": (int,), "fidelity": (str,), "score": (str,), "yaml": (str,), "params": (int, float),
    "gflops": _NUMBER, "stock_gflops": _NUMBER, "latency_ms": (*_NUMBER, type(None)), "curve": (list, tuple),
    "distillation": (*_NUMBER, type(None)), "seconds": _NUMBER, "failure": (str,), "inherited": (list, tuple),
    "machine": (str,),
}  # fmt: skip
"""Types of the plain values of a stored trial; the others have constructors that refuse what they cannot use."""


@dataclass(frozen=True)
class Trial:
    """One run of a variant.

    Attributes:
        number: Number within the study.
        variant: The variant.
        assignment: Slot key to label, as in the space.
        status: Status.
        seed: Seed of its training, and of the bank that it is assembled from.
        fidelity: As `nas.study.budget.Rung.fidelity`; empty is the study's own recipe, the only one that is ranked.
        score: The score of `nas.training.scores.SCORES` that ranks it.
        yaml: The model YAML that it was built from, byte for byte.
        params: Parameters.
        gflops: As `nas.model.cost.Cost.gflops`.
        stock_gflops: As `nas.model.cost.Cost.stock_gflops`.
        uncounted: As `nas.model.cost.Cost.uncounted`.
        latency_ms: Of one image on the study's machine, as `nas.model.latency.Latency.ms`; None where it was not
            measured.
        curve: One score per epoch.
        average: Validation of the averaged weights; None if the study's score does not need it.
        distillation: The largest distillation error among its swaps, in variances of the layer's output; None without a
            bank.
        inherited: Number of inherited tensors, and of all tensors.
        seconds: Wall time.
        versions: Versions of the tool and of the packages that influence results.
        machine: What it was trained on, as `nas.device.hardware`; empty in older studies.
        failure: The reason if `status` is failed, rejected or interrupted; else empty.
        pooled: mAP50-95 over several seeds, if this trial represents all runs of its variant
            (`nas.ranking.replicates`); never stored.
        seeds: Number of seeds under which both it and the baseline were trained, if it represents several runs; never
            stored.
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
    machine: str = ""
    failure: str = ""
    pooled: float | None = None
    seeds: int = 1

    @property
    def key(self) -> RunKey:
        """Key of the run."""
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
        """Whether it is final. A failed baseline is not, because everything is compared with it: it is retried."""
        return self.status == "done" or (self.status == "failed" and not self.variant.is_baseline)

    def describe(self) -> str:
        """Return the swaps in one line, tied layers by the name of their slot."""
        if self.variant.width is not None:
            return f"yardstick: pruned to width {self.variant.width:g}"
        return describe_swaps((k, v) for k, v in sorted(self.assignment.items()) if v not in (KEEP, NONE))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for storing; the storage itself holds the number and the assignment."""
        body = asdict(self)
        for key in ("number", "assignment", "pooled", "seeds"):
            del body[key]
        return body

    @classmethod
    def from_json(cls, number: int, assignment: Mapping[str, str], body: dict[str, Any]) -> Trial:
        """Return what `to_json` stored.

        Raises:
            SpaceError: It has a text that is no name.
            ValueError, TypeError, LookupError, AttributeError: It is damaged.
        """
        check_whole_numbers(body)
        for key, kinds in _KINDS.items():
            if key in body and type(body[key]) not in kinds:
                raise ValueError(f"{key} is {shown(body[key])}, expected a {kinds[0].__name__}")
        if body["status"] not in get_args(Status) or body.get("score", "map") not in SCORES:
            raise ValueError(f"status {shown(body['status'])} or score {shown(body.get('score'))} is unknown")
        if body["status"] == "done" and not any(score["validation"] for score in body["curve"]):
            raise ValueError("it is done, but has no validation")
        body = {**body, **{key: escaped(body.get(key, "")) for key in ("failure", "machine")}}
        pairs = {"uncounted", "versions"}
        given: dict[str, Any] = {k: tuple((a, b) for a, b in v) if k in pairs else v for k, v in body.items()}
        given["variant"] = Variant(
            body["variant"]["base"], body["variant"]["scale"], tuple((s, c) for s, c in body["variant"]["swaps"])
        )
        given["curve"] = tuple(EpochScore.from_json(score) for score in body["curve"])
        given["average"] = Validation(**body["average"]) if body["average"] else None
        given["inherited"] = (body["inherited"][0], body["inherited"][1])
        labels = {escaped(slot): escaped(label) for slot, label in assignment.items()}
        return cls(number=number, assignment=labels, **given)


def with_latencies(trials: list[Trial], ms: Mapping[str, float]) -> list[Trial]:
    """Return trials with the latencies of their variants by ID; those of other variants stay as they are."""
    return [replace(t, latency_ms=ms[t.variant.id]) if t.variant.id in ms else t for t in trials]


def variants_spent(trials: Sequence[Trial]) -> int:
    """Return how many variants count towards the requested number: those with a final or a running trial."""
    return len({t.variant for t in trials if t.spent or t.status == "running"})
