"""What a screening costs with the proxy that is chosen for a target, against images of 160 px.

    python benchmarks/target_cost.py bccd/data.yaml

Trains the stock model for as many epochs as a proxy of the default (4, of which the last three are validated), on what
`nas data` chooses for the target and on images of 160 px, in turn, in one process with one thread. The first training
of a fidelity augments the images; the others find its batches, as the trainings of one seed do in a search. The cost of
a screening of 24 variants is that of one first training and 23 others, CPU seconds. Each round measures both
fidelities; the ratio is taken within a round, so that what else the machine does meanwhile counts for both.

`--images N` takes N training images, and as large a share of the validation images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

VARIANTS = 24


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--target", type=int, default=640)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    from nas.files import cache_dir
    from nas.model.offline import go_offline

    go_offline(cache_dir())
    from nas.data.dataset import load, write_resolved
    from nas.data.fidelity import Fidelity, choose_fidelity
    from nas.data.levels import read_labels
    from nas.model.render import render
    from nas.space.variant import Variant
    from nas.training.jobs import ProxyJob
    from nas.training.recipe import make_recipe
    from nas.training.train import train

    dataset = load(options.data)
    chosen, small = choose_fidelity(read_labels(dataset)[0], options.target), Fidelity(160)
    count = options.images or len(dataset.train)
    val = max(1, len(dataset.val) * count // len(dataset.train))
    step, step_val = len(dataset.train) // count, len(dataset.val) // val
    part = replace(
        dataset, train=dataset.train[::step][:count], val=dataset.val[::step_val][:val],
        sources=((dataset.yaml,), (dataset.yaml,)),
    )  # fmt: skip
    variant = Variant("yolov8", "n")
    print(f"{len(part.train)} training and {len(part.val)} validation images, {options.epochs} epochs, CPU seconds")
    print(
        "| round | proxy | first training | later ones | screening of 24 | ratio to 160 px |\n|---|---|---|---|---|---|"
    )
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_resolved(part, Path(folder))
        for number in range(1, options.rounds + 1):
            costs = {}
            for fidelity in (small, chosen):
                recipe = make_recipe(
                    init="scratch", epochs=options.epochs, imgsz=fidelity.imgsz, windows_at=fidelity.windows_at,
                    batch=16, base_epochs=None, device="cpu",
                )  # fmt: skip
                job = ProxyJob(
                    name=variant.name, yaml=render(variant).yaml, base=variant.base, scale=variant.scale, swaps=(),
                    data=str(data), data_key=f"{dataset.fingerprint} {count}", recipe=recipe, seed=0, scratch=folder,
                    average=False,
                )  # fmt: skip
                first, *later = (train(job, 1, lambda _: None).cpu_seconds for _ in range(3))
                costs[fidelity] = first + (VARIANTS - 1) * statistics.mean(later)
                ratio = costs[fidelity] / costs[small]
                print(
                    f"| {number} | {fidelity.words} | {first:.1f} | {statistics.mean(later):.1f} | "
                    f"{costs[fidelity]:.0f} | {ratio:.2f} |",
                    flush=True,
                )
            ratios.append(costs[chosen] / costs[small])
    spread = f"rounds {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"ratio of {chosen.words} to 160 px: {statistics.mean(ratios):.2f} ({spread})")


if __name__ == "__main__":
    main()
