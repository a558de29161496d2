"""Do output scores add up, and what do they say of mAP? Random combinations, predicted against measured.

    python benchmarks/additivity.py STUDY [--combinations 60] [--epochs 4]

STUDY has a bank and output scores: one of `benchmarks/budget_table.py`, or of a search with budgets. Combinations of 2
to 10 swaps are drawn, with a uniform number of swaps, from the two thirds of each slot that move the outputs least.
Predicted is the sum of the scores of the swaps; measured are the score of the combination, its mAP50-95 as it is
assembled from the bank, and with `--epochs` its mAP50-95 after such a training. The correlations with mAP are with the
negated score. Everything runs again if it is interrupted: about 5 CPU seconds a combination, without training.
"""

from __future__ import annotations

import argparse
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from budget_table import drawn
from scipy.stats import kendalltau, spearmanr


def row(name: str, predicted: Any, measured: Any) -> str:
    """Return a row of the table."""
    return f"| {name} | {spearmanr(predicted, measured)[0]:.3f} | {kendalltau(predicted, measured)[0]:.3f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("--combinations", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=0)
    args = parser.parse_args()
    from nas.cli.options import prepare

    cache = prepare()
    from nas.bank.jobs import Assembled
    from nas.bank.output_score import score_variants
    from nas.data.dataset import load_or_demo, write_resolved
    from nas.report.console import make_console
    from nas.report.progress import Progress
    from nas.search.inheritance import weights_of
    from nas.solver.facts import facts_of_study
    from nas.study.location import locate
    from nas.study.study import Study
    from nas.workers.process import ProxyWorker

    study = Study.load(locate(args.study, None))
    s, facts = study.settings, facts_of_study(study)
    if not facts.parts:
        raise SystemExit(f"the study {args.study} has no output scores")
    made = drawn(s.space, facts, seed=1)
    combinations: list[dict[str, str]] = []
    for assignment in itertools.islice(made, 1 + len(s.space.single_swaps()), None):
        if assignment not in combinations and not s.space.forbids(assignment):
            combinations.append(assignment)
        if len(combinations) == args.combinations:
            break
    predicted = np.array([facts.distance(a) for a in combinations])
    gflops = np.array([facts.cost(a, "gflops") for a in combinations])
    with ProxyWorker(cache, threads=1) as worker, Progress(make_console(stderr=True), study) as progress:
        dataset = load_or_demo(s.data or None)
        weights = weights_of(study, write_resolved(dataset, Path(study.scratch)), worker, progress)
        bank = weights.bank(s.recipe, s.seed)
        variants = [s.space.variant(a) for a in combinations]
        scores = score_variants(weights, s.recipe, s.seed, [Assembled(v.swaps, bank.files(v.swaps)) for v in variants])
        keep = np.array([not score.failure for score in scores])
        measured = np.array([score.total for score in scores])[keep]
        halves = np.array([score.halves for score in scores])[keep]
        predicted, gflops = predicted[keep], gflops[keep]
        median, most = np.quantile(np.abs(predicted - measured) / np.maximum(measured, 1e-9), [0.5, 0.9])
        print(f"{len(measured)} combinations of 2 to 10 swaps of {s.space.name}, {s.data or 'the demo data'}.")
        print(f"Relative error of the sum of scores: median {median:.1%}, 90th percentile {most:.1%}.")
        print("Failed: " + (", ".join(sorted({score.failure for score in scores if score.failure})) or "none") + "\n")
        print("| | Spearman | Kendall |\n|---|---|---|")
        print(row("halves of the images", halves[:, 0], halves[:, 1]))
        print(row("sum of scores, measured score", predicted, measured), flush=True)
        known = {"sum of scores": -predicted, "measured score": -measured, "GFLOPs": gflops}
        for epochs in dict.fromkeys((0, args.epochs)):
            maps = np.array([map_of(weights, worker, s, v, bank, epochs) for v in variants])[keep]
            words = f"mAP50-95 after {epochs} epochs" if epochs else "mAP50-95 as assembled"
            for name, values in known.items():
                print(row(f"{name}, {words}", values, maps), flush=True)
            known[words] = maps


def map_of(weights: Any, worker: Any, settings: Any, variant: Any, bank: Any, epochs: int) -> float:
    """Return the mAP50-95 of a variant that is assembled from the bank, after so many epochs."""
    job = weights.job(variant, replace(settings.recipe, epochs=epochs), settings.seed)
    files = weights.initial_files(settings.recipe, variant.swaps, bank, settings.seed)
    seen = worker.run(replace(job, average=False, **files)).curve[-1].validation
    return seen.map if seen else 0.0


if __name__ == "__main__":
    main()
