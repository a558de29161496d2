"""What the swapped blocks cost on this CPU in plain PyTorch: time and memory of a step, beside the stock block.

    python benchmarks/blocks_cpu.py --rounds 7

Time is the ratio of median steps (forward and backward of one block), measured in turns within one run. Memory is the
ratio of what a fresh process grows by during one step, at its peak.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PAIRS = {
    "C2f_DCNv4": "C2f",
    "C2f_SPConv": "C2f",
    "C2f_DynamicConv": "C2f",
    "DCNv4": "Conv",
    "SPConv": "Conv",
    "DynamicConv": "Conv",
    "CARAFE": "Upsample",
    "DySample": "Upsample",
}
CHANNELS = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=40, help="pixels a side of the block's input")
    parser.add_argument("--grow", metavar="NAME", help="print the bytes that one step of this block takes")
    args = parser.parse_args()
    if args.grow:
        print(grown(args.grow, args.batch, args.size))
        return

    import torch

    names = list(dict.fromkeys([*PAIRS, *PAIRS.values()]))
    blocks = {name: block(name) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.rounds + 1):
        for name, own in blocks.items():
            started = time.perf_counter()
            step(own, args.batch, args.size)
            if turn:
                times[name].append(time.perf_counter() - started)
    own_arguments = [f"--batch={args.batch}", f"--size={args.size}"]
    memory = {
        name: int(
            subprocess.run(
                [sys.executable, __file__, "--grow", name, *own_arguments], capture_output=True, text=True, check=True
            ).stdout
        )
        for name in names
    }
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {CHANNELS} channels, ", end="")
    print(f"{args.size} px, batch {args.batch}, channels last, {args.rounds} rounds\n")
    print("| block | in place of | time | memory | memory, MB |\n|---|---|---|---|---|")
    for name, stock in PAIRS.items():
        ratio = statistics.median(times[name]) / statistics.median(times[stock])
        print(f"| {name} | {stock} | {ratio:.2f} x | {memory[name] / memory[stock]:.2f} x | {memory[name] / 1e6:.0f} |")


def block(name: str):
    """Return a block in training mode, channels last."""
    import torch
    from torch import nn
    from ultralytics.nn.modules import C2f, Conv

    import nas.ops.families  # noqa: F401  registers the modules
    from nas.ops.registry import get

    torch.manual_seed(0)
    made = {
        "C2f": lambda: C2f(CHANNELS, CHANNELS, 1, True),
        "Conv": lambda: Conv(CHANNELS, CHANNELS, 3, 1),
        "Upsample": lambda: nn.Upsample(scale_factor=2),
    }
    if name in made:
        module = made[name]()
    else:
        entry = get(name)
        channels = {"same": (CHANNELS,), "conv": (CHANNELS, CHANNELS), "block": (CHANNELS, CHANNELS, 1)}[entry.rule]
        slot = {"scale": 2, "kernel": 3, "stride": 1, "shortcut": True}
        module = entry.cls(*channels, *entry.row_args(slot, {}))
    return module.to(memory_format=torch.channels_last).train()


def step(module, batch: int, size: int) -> None:
    """Run forward and backward once."""
    import torch

    x = torch.randn(batch, CHANNELS, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
    module(x).square().mean().backward()


def grown(name: str, batch: int, size: int) -> int:
    """Return by how many bytes this process grows during a step, at its peak. Reads Linux's own account."""
    module = block(name)
    step(module, 1, 8)  # libraries are loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    step(module, batch, size)
    return status("VmHWM") - before


def status(field: str) -> int:
    """Return a field of the kernel's account of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
