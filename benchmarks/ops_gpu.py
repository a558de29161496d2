"""What the ops cost on a GPU: kernels beside plain PyTorch, eager and compiled, and whole models beside stock YOLOv8.

    python benchmarks/ops_gpu.py > benchmarks/results/NAME-OF-THE-GPU.md

Forward and backward of each op, for the shapes and dtypes of the roofline table, in turns within one run: medians of
event times over buffers that rotate through more memory than the last cache holds. *Copy* is the share of this GPU's
own copy bandwidth, measured in the same run, that the fewest possible bytes would take in the measured time. Then
training steps of yolov8n and yolov8s with the swaps, in images a second. ``--device cpu --tiny`` runs all of it on
small tensors, to see that it works where there is no GPU; those figures mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

SHAPES = [(16, 64, 80, 80), (16, 128, 40, 40), (16, 256, 20, 20)]
SWAPS = {
    "stock": [],
    "CARAFE": ["neck.up_*=CARAFE"],
    "DySample": ["neck.up_*=DySample"],
    "SPConv": ["*.down_*=SPConv"],
    "DynamicConv": ["*.down_*=DynamicConv"],
    "C2f_DCNv4": ["neck.c2f_*=C2f_DCNv4"],
    "all five": [
        "neck.up_p4=CARAFE",
        "neck.up_p3=DySample",
        "neck.down_*=SPConv",
        "backbone.down_p5=DynamicConv",
        "neck.c2f_*=C2f_DCNv4",
    ],
}


@dataclass
class Case:
    """One op on one shape.

    Attributes:
        name: Of the op.
        make: Returns fresh tensors, inputs that are differentiated.
        op: The op as users call it.
        least: Fewest bytes that forward and backward move.
    """

    name: str
    make: Callable
    op: Callable
    least: tuple[int, int]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small tensors and models, two repetitions")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--no-models", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()

    os.environ.setdefault("YOLO_VERBOSE", "false")
    import torch
    import ultralytics

    from nas.ops.kernels import runtime

    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU; --device cpu --tiny shows that this program works")
    timer = Timer(args.device, 2 if args.tiny else args.repeats)
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else "CPU: these figures mean nothing"
    kernels = runtime.unavailable() or "kernels compiled at run time"
    print(f"# Ops on {gpu}\n\n    python benchmarks/ops_gpu.py\n")
    print(f"{time.strftime('%Y-%m-%d')}, torch {torch.__version__}, CUDA {torch.version.cuda}, ", end="")
    print(f"Ultralytics {ultralytics.__version__}, {kernels}; medians of {timer.repeats}.")
    bandwidth = copy_bandwidth(timer, args.tiny)
    print(f"Copy bandwidth: {bandwidth / 1e12:.2f} TB/s (bytes read and written).\n")

    shapes = [(2, 32, 8, 8)] if args.tiny else SHAPES
    print("| op | shape | dtype | pass | µs | copy | eager | compiled |\n|---|---|---|---|---|---|---|---|")
    for shape, dtype in itertools.product(shapes, (torch.float16, torch.bfloat16, torch.float32)):
        for case in cases(shape, dtype, args.device):
            for row in measured(case, timer, bandwidth, not args.no_compile):
                print(f"| {case.name} | {'x'.join(map(str, shape))} | {str(dtype)[6:]} | {row}", flush=True)
    print("\n*eager*, *compiled*: how many times longer plain PyTorch takes, as it is and under torch.compile.")
    print("\n| module | shape | dtype | mode | µs | plain convolution µs | ratio |\n|---|---|---|---|---|---|---|")
    for shape, dtype in itertools.product(shapes, (torch.float16, torch.bfloat16)):
        for row in convolutions(shape, dtype, args.device, timer):
            print(row, flush=True)
    if not args.no_models:
        models(args.device, args.tiny)


class Timer:
    """Measures functions in turns.

    Attributes:
        repeats: Measured rounds.
    """

    def __init__(self, device: str, repeats: int) -> None:
        self.device = device
        self.repeats = repeats

    def __call__(self, *functions: Callable[[int], object]) -> list[float]:
        """Return the median seconds of each; a function gets the number of the round, to rotate its buffers."""
        times: list[list[float]] = [[] for _ in functions]
        for turn in range(self.repeats + 3):
            for own, function in zip(times, functions, strict=True):
                seconds = self._once(function, turn)
                if turn >= 3:
                    own.append(seconds)
        return [statistics.median(own) for own in times]

    def _once(self, function: Callable[[int], object], turn: int) -> float:
        import torch

        if self.device == "cpu":
            started = time.perf_counter()
            function(turn)
            return time.perf_counter() - started
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Keep the GPU busy until the launch is queued: what is measured is the GPU, not Python.
        torch.cuda._sleep(2_000_000)
        start.record()
        function(turn)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000


def copy_bandwidth(timer: Timer, tiny: bool) -> float:
    """Return bytes a second, read and written, of a copy within the device."""
    import torch

    source = torch.empty((1 << 20) if tiny else (1 << 29), dtype=torch.uint8, device=timer.device)
    target = torch.empty_like(source)
    (seconds,) = timer(lambda _: target.copy_(source))
    return 2 * source.numel() / seconds


def buffers(make: Callable, least: int, device: str) -> list:
    """Return as many sets of tensors as exceed the last cache twice."""
    import torch

    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 1
    return [make() for _ in range(min(32, 2 + 2 * cache // max(least, 1)))]


def cases(shape: tuple[int, int, int, int], dtype, device: str) -> Iterator[Case]:
    """Yield the sampling ops for the input (N, C, H, W)."""
    import torch

    from nas.ops.functional.carafe import carafe
    from nas.ops.functional.dcnv4 import dcnv4
    from nas.ops.functional.dysample import dysample

    n, c, h, w = shape
    pixels, b = n * h * w, dtype.itemsize
    groups = c // 16
    row = -(-groups * 27 // 8) * 8

    def image(channels: int):
        x = torch.randn(n, channels, h, w, device=device, dtype=dtype)
        return x.contiguous(memory_format=torch.channels_last).requires_grad_()

    def nhwc(channels: int, scale: float = 1.0):
        return (scale * torch.randn(n, h, w, channels, device=device, dtype=dtype)).requires_grad_()

    yield Case(
        "DCNv4, width 16",
        lambda: (nhwc(c), nhwc(row, 0.5)),
        lambda x, om: dcnv4(x, om, kernel=3, pad=1, groups=groups),
        (b * pixels * (2 * c + row), b * pixels * (3 * c + 2 * row)),
    )
    yield Case(
        "CARAFE k5 s2",
        lambda: (image(c), image(100)),
        lambda x, logits: carafe(x, logits, 5, 2),
        (b * pixels * (5 * c + 100), b * pixels * (6 * c + 200)),
    )
    yield Case(
        "DySample g4 s2",
        lambda: (image(c), image(32)),
        lambda x, offset: dysample(x, offset, 2, 4, factor=0.25, initial=True),
        (b * pixels * (5 * c + 32), b * pixels * (6 * c + 64)),
    )


def measured(case: Case, timer: Timer, bandwidth: float, compiled: bool) -> Iterator[str]:
    """Yield the rest of a row for the forward and the backward of a case."""
    import torch

    sets = buffers(case.make, case.least[0], timer.device)
    variants = {"kernel": case.op, "eager": case.op}
    if compiled:
        torch._dynamo.reset()
        variants["compiled"] = torch.compile(case.op, dynamic=False)
    forward: dict[str, Callable] = {}
    backward: dict[str, Callable] = {}
    for name, op in variants.items():
        choice = "auto" if name == "kernel" else "reference"

        def run(turn: int, op=op, choice=choice):
            os.environ["NAS_KERNELS"] = choice
            with torch.no_grad():
                return op(*sets[turn % len(sets)])

        os.environ["NAS_KERNELS"] = choice
        outputs = [op(*tensors) for tensors in sets]
        dy = torch.randn_like(outputs[0])

        def back(turn: int, outputs=outputs, dy=dy):
            place = turn % len(sets)
            return torch.autograd.grad(outputs[place], sets[place], dy, retain_graph=True)

        forward[name], backward[name] = run, back
    for which, functions, least in (("forward", forward, case.least[0]), ("backward", backward, case.least[1])):
        seconds = dict(zip(functions, timer(*functions.values()), strict=True))
        own = seconds["kernel"]
        others = [f"{seconds[k] / own:.2f} x" if k in seconds else "–" for k in ("eager", "compiled")]
        yield f"{which} | {own * 1e6:.1f} | {least / own / bandwidth:.0%} | {others[0]} | {others[1]} |"


def convolutions(shape: tuple[int, int, int, int], dtype, device: str, timer: Timer) -> Iterator[str]:
    """Yield rows of the convolutions that stand in for a plain one, beside it."""
    import torch
    from torch import nn

    from nas.ops.dynamicconv import CondConv2d
    from nas.ops.spconv import SPConv

    os.environ["NAS_KERNELS"] = "auto"
    n, c, h, w = shape

    def image():
        return torch.randn(n, c, h, w, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)

    def on(module: nn.Module) -> nn.Module:
        return module.to(device, dtype).to(memory_format=torch.channels_last)

    def plain(k: int) -> nn.Module:
        return on(nn.Conv2d(c, c, k, padding=k // 2, bias=False))

    sets = buffers(lambda: (image(), torch.rand(n, 4, device=device, dtype=dtype)), 2 * n * c * h * w * 2, device)
    for k in (1, 3):
        conv, dynamic = plain(k), on(CondConv2d(c, c, k, 1, 4))
        with torch.no_grad():
            ours, theirs = timer(
                lambda t, m=dynamic: m(*sets[t % len(sets)]), lambda t, m=conv: m(sets[t % len(sets)][0])
            )
        yield _row(f"DynamicConv {k}x{k}", shape, dtype, "forward", ours, theirs)
    # Norms stay in float32, as under autocast.
    split, conv = on(SPConv(c, c)), on(nn.Sequential(plain(3), nn.BatchNorm2d(c), nn.SiLU()))
    for module in (*split.modules(), *conv.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    for mode in ("eval", "training"):
        split.train(mode == "training")
        conv.train(mode == "training")
        with torch.no_grad():
            ours, theirs = timer(lambda t: split(sets[t % len(sets)][0]), lambda t: conv(sets[t % len(sets)][0]))
        yield _row("SPConv", shape, dtype, f"forward, {mode}", ours, theirs)


def _row(name: str, shape: tuple[int, ...], dtype, mode: str, ours: float, theirs: float) -> str:
    sides = "x".join(map(str, shape))
    values = f"{ours * 1e6:.1f} | {theirs * 1e6:.1f} | {ours / theirs:.2f}"
    return f"| {name} | {sides} | {str(dtype)[6:]} | {mode} | {values} |"


def models(device: str, tiny: bool) -> None:
    """Print training throughput of the swaps beside the stock models, measured in turns."""
    import torch

    os.environ["NAS_KERNELS"] = "auto"
    batch, size, rounds = (2, 64, 1) if tiny else (16, 640, 12)
    print(f"\nTraining steps at {size} px, batch {batch}, float16 autocast, channels last: images a second, and share")
    print(
        "of the stock model's.\n\n| model | stock | "
        + " | ".join(list(SWAPS)[1:])
        + " |\n|"
        + "---|" * (len(SWAPS) + 1)
    )
    image = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = {
        "cls": torch.zeros(10 * batch, 1, device=device),
        "bboxes": torch.rand(10 * batch, 4, device=device) * 0.3 + 0.2,
        "batch_idx": torch.arange(10 * batch, device=device) // 10,
        "img": image,
    }
    for scale in "ns":
        runs = {name: step(swaps, scale, device) for name, swaps in SWAPS.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(rounds + 2):
            for name, run in runs.items():
                if device == "cuda":
                    torch.cuda.synchronize()
                started = time.perf_counter()
                run(labels)
                if device == "cuda":
                    torch.cuda.synchronize()
                if turn >= 2:
                    times[name].append(time.perf_counter() - started)
        speed = {name: batch / statistics.median(own) for name, own in times.items()}
        shares = " | ".join(f"{own / speed['stock']:.2f}" for name, own in speed.items() if name != "stock")
        print(f"| yolov8{scale} | {speed['stock']:.0f}/s | {shares} |", flush=True)


def step(swaps: list[str], scale: str, device: str) -> Callable:
    """Return a function that makes one training step of a variant."""
    import torch

    from nas.model.host import build
    from nas.model.render import render
    from nas.space.variant import parse_swaps

    torch.manual_seed(0)
    model = build(render(parse_swaps("yolov8", scale, swaps)).yaml, scale, nc=3).to(device)
    model = model.to(memory_format=torch.channels_last).train()
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=10, cls_pw=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")

    def run(batch) -> None:
        with torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16):
            loss = model(batch)[0].sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return run


if __name__ == "__main__":
    main()
