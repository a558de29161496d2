"""Peak memory of a training on a CPU, over what `nas.workers.count.worker_memory` assumes of it.

    python benchmarks/workers.py
    python benchmarks/workers.py --case 16 320 s

Each row is a process of its own that imports what a training process does and makes two steps (forward, loss, backward,
AdamW) on random images: the peak of its resident memory, and the bytes per pixel of a batch above what it had before.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import subprocess
import sys

CASES = ((16, 160, "n"), (16, 320, "n"), (8, 640, "n"), (16, 320, "s"))
WIDTHS = {"n": 0.25, "s": 0.5, "m": 0.75, "l": 1.0, "x": 1.25}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs=3, metavar=("BATCH", "IMGSZ", "SCALE"))
    args = parser.parse_args()
    if args.case:
        return measure(int(args.case[0]), int(args.case[1]), args.case[2])
    print("| batch, image size, scale | before, MB | peak, MB | bytes per pixel | peak over the estimate |")
    print("|---|--:|--:|--:|--:|", flush=True)
    for case in CASES:
        subprocess.run([sys.executable, __file__, "--case", *map(str, case)], check=True)
    return None


def measure(batch: int, imgsz: int, scale: str) -> None:
    """Make two steps, and print a row."""
    import torch
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    from nas.workers.count import worker_memory

    importlib.import_module("nas.training.train")
    torch.set_num_threads(1)
    model = DetectionModel(f"yolov8{scale}.yaml", nc=3, verbose=False).to(memory_format=torch.channels_last).train()
    model.args = get_cfg()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    before = peak_bytes()
    boxes = 6 * batch
    labels = {"cls": torch.zeros(boxes, 1), "bboxes": torch.rand(boxes, 4) * 0.3 + 0.3}
    labels["batch_idx"] = torch.arange(boxes) // 6
    for _ in range(2):
        image = torch.rand(batch, 3, imgsz, imgsz).to(memory_format=torch.channels_last)
        model.loss({"img": image, **labels})[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    peak = peak_bytes()
    each = (peak - before) / (batch * imgsz**2)
    ratio = peak / worker_memory(batch, imgsz, WIDTHS[scale])
    print(
        f"| {batch}, {imgsz}, {scale} | {before / 1e6:.0f} | {peak / 1e6:.0f} | {each:.0f} | {ratio:.2f} |", flush=True
    )


def peak_bytes() -> float:
    """Return the peak of this process's resident memory (on Linux, which counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
