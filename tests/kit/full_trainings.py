"""Full trainings as they are stored, without any training."""

from __future__ import annotations

from dataclasses import replace

from nas.full.run import ClassScore, FullEpoch, FullRun, FullScores
from nas.full.store import FullRuns
from nas.study.study import Study
from nas.study.trial import Trial


def run_of(trial: Trial, score: float, seed: int = 0, **changes) -> FullRun:
    """Return the finished full training of a trial's variant."""
    scores = FullScores(
        0.7, 0.6, score + 0.2, score, (ClassScore("square", 0.7, 0.6, score + 0.2, score),),
        {"small": score - 0.1, "medium": score + 0.1, "large": None},
    )  # fmt: skip
    kept = FullRun(
        model=trial.variant.id, kind="baseline" if trial.variant.is_baseline else "variant", title=trial.describe(),
        name=trial.variant.name, yaml=trial.yaml, base=trial.variant.base, scale=trial.variant.scale,
        swaps=trial.variant.swaps, seed=seed, group="1a2b3c4d", start="scratch", distilled=False,
        arguments={"batch": 8}, epochs=2, imgsz=64, status="done", params=trial.params, gflops=trial.gflops,
        latency_ms=12.5, latency_on="a processor", curve=(FullEpoch(1, 0.5, 0.4, 0.3, 0.2), FullEpoch(2, 0, 0, 0, 0)),
        scores=scores, seconds=5.0, attempts=1, weights="best.pt", versions=(("ultralytics", "8.4.190"),),
    )  # fmt: skip
    return replace(kept, **changes)


def store(study: Study, *runs: FullRun) -> FullRuns:
    """Store runs as a training would."""
    kept = FullRuns(study.location)
    for run in runs:
        claim, _ = kept.claim([replace(run, status="running", scores=None)])
        assert claim
        claim.end(replace(run, attempts=1))
    return kept
