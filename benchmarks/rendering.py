"""How many random variants of a space one process renders, and what costing them without building takes.

    python benchmarks/rendering.py --space seeds --variants 2000

Prints variants a second, and each step's time over that of rendering, all measured in turns within one run. The time is
that of this process' one thread on its core, so that what else the machine does counts little.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="seeds")
    parser.add_argument("--variants", type=int, default=2000)
    parser.add_argument("--built", type=int, default=20, help="how many of them are built, too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    import torch
    import ultralytics
    import yaml

    from nas.emit.selection import random_variants
    from nas.model.cost import model_cost
    from nas.model.host import build
    from nas.model.render import render
    from nas.space.space_file import load_space

    torch.set_num_threads(1)
    space = load_space(args.space)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    variants = random_variants(space, args.variants, args.seed)
    files = [render(variant) for variant in variants]  # warms up: templates are compiled, the registry is filled
    few = files[: args.built]
    models = [build(f.yaml, space.scale) for f in few]
    steps = {
        "render": (args.variants, lambda: [render(variant) for variant in variants]),
        f"parse ({loader.__name__})": (args.variants, lambda: [yaml.load(f.yaml, loader) for f in files]),
        "build": (len(few), lambda: [build(f.yaml, space.scale) for f in few]),
        "cost of a built one": (len(few), lambda: [model_cost(model) for model in models]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, (count, step) in steps.items():
            started = time.process_time()
            step()
            seconds[name].append((time.process_time() - started) / count)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, ultralytics {ultralytics.__version__}"
    print(f"{versions}, 1 thread, {space.name}, {args.variants} variants, {args.rounds} rounds")
    rendering = statistics.median(seconds["render"])
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"{name:22} {1 / middle:8.1f} a second {middle / rendering:9.2f} x rendering")


if __name__ == "__main__":
    main()
