"""How long each registered module takes on this CPU, beside the stock layer whose place it takes.

    python benchmarks/modules_cpu.py --rounds 15

A step is forward and backward of one module in plain PyTorch, at the size of `nas.model.module_card`. Every module runs
in turns with the layer that it replaces (an attention replaces none: with the C2f block that it stands behind), and
what is written is the ratio of the fastest steps, in processor time of one thread: what else the machine does is not
counted, and what it does to caches only ever adds. `nas ops` and docs/modules.md show it, from nas/modules_cpu.json.
SPPF stands beside itself: how far it is from 1 says how good the run is.

    python benchmarks/modules_cpu.py --only SPPF --only EMA     # measures these again, and keeps the others
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "nas" / "model" / "modules_cpu.json"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--only", action="append", default=[], help="measure this module alone; may be repeated")
    args = parser.parse_args()

    import torch

    import nas.ops.families  # noqa: F401  registers the modules
    from nas.model.module_card import example, in_order
    from nas.ops.registry import entries

    torch.manual_seed(0)
    torch.set_num_threads(1)
    found = {}
    if args.only:
        known = json.loads(args.output.read_text(encoding="utf-8"))["modules"]
        found = {name: known[name] for name in entries() if name in known}
    for entry in sorted(entries().values(), key=in_order):
        if args.only and entry.name not in args.only:
            continue
        module, inputs = example(entry)
        stock, name = replaced(entry, module, inputs)
        times = {"own": [], "stock": []}
        for turn in range(args.rounds + 1):
            taken = inputs if name == "Detect" else first(inputs)
            for key, part, x in (("own", module, inputs), ("stock", stock, taken)):
                spent = step(part, x, args.batch)
                if turn:
                    times[key].append(spent)
        ratio = min(times["own"]) / min(times["stock"])
        found[entry.name] = {"beside": name, "time": float(f"{ratio:.2g}")}
        print(f"{entry.name:20}{ratio:8.2f} x {name}")
    how = f"torch {torch.__version__.split('+')[0]}, processor time of one thread, batch {args.batch}"
    ordered = {e.name: found[e.name] for e in sorted(entries().values(), key=in_order) if e.name in found}
    body = {"how": f"{how}, fastest of {args.rounds}", "modules": ordered}
    args.output.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def first(inputs):
    """Return the input that a stock layer takes."""
    return inputs[0] if isinstance(inputs, list) else inputs


def replaced(entry, module, inputs):
    """Return the layer in whose place the module stands, and what it is called."""
    import torch
    from torch import nn
    from ultralytics.nn.modules import SPPF, C2f, Conv, Detect

    c = first(inputs).shape[1]
    if "head" in entry.kinds:
        return Detect(80, ch=tuple(x.shape[1] for x in inputs)), "Detect"
    if "up" in entry.kinds:
        return nn.Upsample(scale_factor=2), "nearest"
    if "attention" in entry.kinds or "block" in entry.kinds:
        return C2f(c, c, 1, True), "C2f"
    if "pool" in entry.kinds:
        return SPPF(c, c), "SPPF"
    with torch.no_grad():
        stride = first(inputs).shape[2] // module.eval()(inputs).shape[2]
    return Conv(c, c, 3, stride), "Conv 3x3" + ", stride 2" * (stride == 2)


def step(module, inputs, batch: int) -> float:
    """Return the seconds of processor time of one forward and backward."""
    import torch

    from nas.ops.heads import head_maps, is_head

    module.train()
    grown = [
        x.expand(batch, -1, -1, -1).contiguous().requires_grad_()
        for x in (inputs if isinstance(inputs, list) else [inputs])
    ]
    started = time.process_time()
    if is_head(module):
        torch.cat([part.flatten() for pair in head_maps(module, grown) for part in pair]).square().mean().backward()
    else:
        module(grown if isinstance(inputs, list) else grown[0]).square().mean().backward()
    return time.process_time() - started


if __name__ == "__main__":
    main()
