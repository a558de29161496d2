"""What a training step of a proxy costs on this CPU: the memory format, and each swap beside the stock model.

    python benchmarks/proxy_step.py --imgsz 160 --batch 16 --rounds 7

Prints the ratio of median step times (forward, loss, backward, AdamW), measured in turns within one run, so that what
else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from types import SimpleNamespace

CASES = {
    "stock, channels_last": [],
    "neck.up_*=CARAFE": ["neck.up_*=CARAFE"],
    "neck.up_*=DySample": ["neck.up_*=DySample"],
    "neck.down_*=SPConv": ["neck.down_*=SPConv"],
    "neck.down_*=DynamicConv": ["neck.down_*=DynamicConv"],
    "neck.down_*=DCNv4": ["neck.down_*=DCNv4"],
    "neck.c2f_*=C2f_SPConv": ["neck.c2f_*=C2f_SPConv"],
    "neck.c2f_*=C2f_DynamicConv": ["neck.c2f_*=C2f_DynamicConv"],
    "neck.c2f_*=C2f_DCNv4": ["neck.c2f_*=C2f_DCNv4"],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()

    from nas.workers.count import available_cores

    threads = args.threads or available_cores()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch
    import ultralytics

    torch.set_num_threads(threads)
    image = torch.rand(args.batch, 3, args.imgsz, args.imgsz)
    boxes = 10 * args.batch
    labels = {
        "cls": torch.zeros(boxes, 1),
        "bboxes": torch.rand(boxes, 4) * 0.3 + 0.2,
        "batch_idx": torch.arange(boxes) // 10,
    }
    runs = {"stock, contiguous": step([], torch.contiguous_format)}
    runs |= {name: step(swaps, torch.channels_last) for name, swaps in CASES.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.rounds + 1):
        for name, run in runs.items():
            seconds = run(image, labels)
            if turn:  # the first one warms up
                times[name].append(seconds)
    stock = statistics.median(times["stock, channels_last"])
    print(f"torch {torch.__version__}, ultralytics {ultralytics.__version__}, {threads} threads, yolov8n, ", end="")
    print(f"{args.imgsz} px, batch {args.batch}, {args.rounds} rounds; stock step {stock * 1000:.0f} ms")
    for name, seconds in times.items():
        print(f"{name:30} {statistics.median(seconds) / stock:5.2f} x")


def step(swaps: list[str], memory_format):
    """Return a function that makes one training step of a variant and returns its seconds."""
    import torch

    from nas.model.host import build
    from nas.model.render import render
    from nas.space.variant import parse_swaps

    torch.manual_seed(0)
    model = build(render(parse_swaps("yolov8", "n", swaps)).yaml, "n", nc=3).to(memory_format=memory_format).train()
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=10, cls_pw=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run(image, labels) -> float:
        batch = {**labels, "img": image.to(memory_format=memory_format)}
        started = time.perf_counter()
        model(batch)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    return run


if __name__ == "__main__":
    main()
