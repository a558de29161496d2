"""What a machine with a GPU shows of this package in nine minutes: one command, a file for each step.

    python benchmarks/gpu_check.py --out out                      # this package is installed
    python benchmarks/gpu_check.py --out out --wheels .whl        # a bare machine with torch: wheels are carried there
    python benchmarks/gpu_check.py --out out --cpu                # shows that the steps work; its figures mean nothing

Steps have their own limits and processes, so that a hang costs its step alone, and what is most wanted comes first.
`--only kernels,search` runs some. Each writes `NAME.txt`; the last lines of all are printed. Exit code 1 means that a
step failed or found something. With `--wheels`, for Python 3.12 on Linux:

    python -m pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
        -d .whl ultralytics ultralytics-thop optuna sqlalchemy colorlog alembic mako greenlet cuda-core
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CPU = "--cpu" in sys.argv
DEVICE = "cpu" if CPU else "cuda"
SIZE, BATCH = (64, 4) if CPU else (160, 16)
FIVE = [
    *("neck.up_p4=CARAFE", "neck.up_p3=DySample", "neck.down_*=SPConv"),
    *("backbone.down_p5=DynamicConv", "neck.c2f_*=C2f_DCNv4"),
]
GUARD_S = 15
"""A step does not begin with less time left."""


def main() -> None:
    """Run the steps, one process each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder of the steps' files")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first, without a network")
    parser.add_argument("--minutes", type=float, default=9, help="for all steps together")
    parser.add_argument("--only", default=",".join(STEPS), help="steps, in the order of the table")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        found = STEPS[args.step][1]()
        sys.exit(print("\n".join(f"FOUND: {line}" for line in found)) or 1 if found else 0)
    until = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    with tempfile.TemporaryDirectory(prefix="nas-gpu-check-") as scratch:
        environment = prepared(Path(scratch), args.wheels)
        for name, (limit, _) in STEPS.items():
            if name in args.only.split(","):
                left = until - time.monotonic()
                if left < GUARD_S:
                    print(f"== {name}: no time left")
                    continue
                limit *= 3 if CPU else 1
                if not run_step(name, min(limit, left), args.out, Path(scratch) / "work", environment):
                    failed.append(name)
    print(f"all steps: {60 * args.minutes - (until - time.monotonic()):.0f} s; failed: {', '.join(failed) or 'none'}")
    sys.exit(1 if failed else 0)


def prepared(scratch: Path, wheels: Path | None) -> dict[str, str]:
    """Lay out this package where it is not installed, and return the environment of the steps."""
    site, work = scratch / "site", scratch / "work"
    for folder in ("tests", "benchmarks"):  # not in the repository, where `import nas` would find its flat tree
        shutil.copytree(ROOT / folder, work / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", work)
    if wheels or importlib.util.find_spec("nas.ops") is None:
        shutil.copytree(ROOT / "nas", site / "nas")
        for folder in ("ops", "templates", "studies"):
            shutil.copytree(ROOT / folder, site / "nas" / folder)
    if wheels:
        files = [str(file) for file in wheels.glob("*.whl")]
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade", "--target"]
        subprocess.run([*pip, str(site), *files], check=True)
    quiet = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false", "PYTHONUNBUFFERED": "1"}
    paths = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    folders = {"NAS_CACHE": str(scratch / "cache"), "YOLO_CONFIG_DIR": str(scratch / "host"), "PYTHONPATH": paths}
    return {**os.environ, **quiet, **folders, "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "1"}


def run_step(name: str, limit: float, out: Path, work: Path, environment: dict[str, str]) -> bool:
    """Run a step within its limit, print the end of what it wrote, and return whether all is well."""
    script = work / "benchmarks" / Path(__file__).name
    started, file = time.monotonic(), out / f"{name}.txt"
    with file.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), "--step", name, *(["--cpu"] if CPU else [])],
            cwd=work, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=os.name != "nt",
        )  # fmt: skip
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = "none: past its limit"
            if os.name == "nt":
                process.kill()
            else:
                os.killpg(process.pid, 9)
            process.wait()
    print(f"== {name}: exit code {code}, {time.monotonic() - started:.0f} s of {limit:.0f}", flush=True)
    for line in file.read_text(errors="replace").splitlines()[-8:]:
        print(f"   {line[:300]}", flush=True)
    return code == 0


# ---- steps: each prints its figures, and returns what a reader has to look at ---------------------------------------


def env() -> list[str]:
    """Show versions, the first kernel, `nas doctor`."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from nas.ops.kernels import runtime, self_test

    print("torch", torch.__version__, "CUDA", torch.version.cuda, "cpu" if CPU else torch.cuda.get_device_name())
    for package in ("cuda-core", "cuda-bindings", "ultralytics", "optuna"):
        with contextlib.suppress(PackageNotFoundError):
            print(package, version(package))
    print("torch.cuda.Stream has __cuda_stream__:", hasattr(torch.cuda.Stream, "__cuda_stream__"))
    found = [] if CPU else [f"kernels: {why}" for why in filter(None, [runtime.unavailable()])]
    if not CPU:
        started = time.monotonic()
        import nas.ops.families  # noqa: F401  its operators give the kernels their tests

        found += self_test.kernel_failures(0)
        print(f"self-tests with their compilation: {time.monotonic() - started:.1f} s")
    subprocess.run([sys.executable, "-m", "nas", "doctor"], check=True)
    return found


def kernels() -> list[str]:
    """Run the kernels' own tests, against float64."""
    if CPU:
        print("needs a GPU")
        return []
    parallel = ["-n", "8"] if importlib.util.find_spec("xdist") else []
    tests = ["tests/ops/functional", "tests/ops/kernels", "tests/ops/test_dcnv4.py"]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *parallel, *tests]
    done = subprocess.run(command, env={**os.environ, "NAS_KERNELS": "cuda"}, check=False)
    return [f"pytest: exit code {done.returncode}"] if done.returncode else []


def modules() -> list[str]:
    """Run every module in every precision, kernels against plain PyTorch; list what warns about determinism."""
    sys.path.insert(0, "tests/ops/contract")
    import torch
    from contract_cases import CASES  # type: ignore[import-not-found]  # found by the path that the line above adds

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    count: collections.Counter[str] = collections.Counter()
    warned, worst, found = collections.defaultdict(set), [], []
    for case in CASES[:: 12 if CPU else 1]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                results = dict(in_every_mode(case))
            except Exception as error:
                found.append(f"{case}: {type(error).__name__}: {str(error)[:200]}")
                continue
        count.update(mode for _, mode in results)
        for (kind, mode), values in results.items():
            if not all(bool(v.isfinite().all()) for v in values):
                found.append(f"{case}: not finite: {kind}, {mode}")
            if kind == "auto":
                pairs = zip(values, results["reference", mode], strict=True)
                error = max(float((a - b).norm() / b.norm().clamp_min(1e-6)) for a, b in pairs)
                worst.append((error, mode, str(case)))
        for warning in seen:
            if "determin" in str(warning.message):
                warned[str(warning.message).split(" does not")[0].split(":")[0][:60]].add(case.entry.name)
    print("runs:", dict(count))
    for error, mode, name in sorted(worst, reverse=True)[:12]:
        print(f"kernel against plain: {error:.2e} {mode} {name}")
    for what, names in warned.items():
        print("not deterministic:", what, sorted(names))
    return found


def in_every_mode(case: Any) -> Iterator[tuple[tuple[str, str], list[Any]]]:
    """Yield outputs and gradients of a case by kind of kernels and mode."""
    import torch
    from contract_cases import each, tensors

    torch.manual_seed(0)
    last = torch.channels_last
    real = case.build().to(DEVICE).to(memory_format=last)
    x0 = each(case.inputs(2, 20, 20), lambda t: t.to(DEVICE).contiguous(memory_format=last))
    for kind in ("reference", "auto"):
        os.environ["NAS_KERNELS"] = kind
        modes = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16, "half": None}
        if CPU:  # not every CPU has the gradients of float16
            del modes["fp16"]
        for mode, dtype in modes.items():
            module = copy.deepcopy(real)
            if mode == "half":
                with torch.inference_mode():
                    yield (kind, mode), [module.eval().half()(each(x0, lambda t: t.half())).float()]
                continue
            x = each(x0, lambda t: t.clone().requires_grad_())
            with torch.autocast(DEVICE, dtype) if dtype else contextlib.nullcontext():
                y = module.train()(x)
            y.float().square().mean().backward()
            grads = [t.grad for t in [*tensors(x), *module.parameters()] if t.grad is not None]
            yield (kind, mode), [y.detach().float(), *(g.float() for g in grads)]


def amp() -> list[str]:
    """Train all five swaps by plain Ultralytics with AMP in fp16; then validate and export in half."""
    from ultralytics import YOLO

    import nas

    del nas
    path, seen = Path("yolov8n-five.yaml"), []
    path.write_text(yaml_of(FIVE))
    model = YOLO(str(path))
    model.add_callback("on_train_batch_end", lambda t: seen.append((float(t.loss), t.scaler.get_scale())))
    place: dict[str, Any] = {"device": "cpu" if CPU else 0, "project": str(Path("amp").resolve()), "exist_ok": True}
    common: dict[str, Any] = {"data": str(data()), "imgsz": 64 if CPU else 256, "plots": False, **place}
    model.train(epochs=1 if CPU else 6, batch=16, amp=not CPU, workers=0 if CPU else 4, name="train", **common)
    print("loss and scale:", [(round(a, 2), b) for a, b in seen[:: max(1, len(seen) // 8)]])
    best = YOLO("amp/train/weights/last.pt")
    for half in (False,) if CPU else (False, True):
        metrics = best.val(half=half, name=f"val-{half}", **common)
        print("validated in half:" if half else "validated:", metrics.results_dict["metrics/mAP50-95(B)"])
    if not CPU:
        print("ONNX in half:", best.export(format="onnx", half=True, imgsz=256, device=0, simplify=False))
    return [] if all(loss == loss for loss, _ in seen) else ["the loss was not a number"]


def search() -> list[str]:
    """Search on the demo data, two trainings in parallel."""
    sizes = ["--epochs", "1", "--base-epochs", "2" if CPU else "16", "--imgsz", str(SIZE), "--trials", "3"]
    bank = ["--init", "scratch"] if CPU else ["--bank-epochs", "2", "--one-baseline"]
    more = ["--confirm", "0", "--workers", "2", "--study", "gpu", *(["--device", "cpu"] if CPU else [])]
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "nas", "search", "quick", *sizes, *bank, *more], check=False)
    print(f"exit code {done.returncode}, {time.monotonic() - started:.0f} s")
    return [f"nas search: exit code {done.returncode}"] if done.returncode else []


def memory() -> list[str]:
    """Measure peak memory and time of a training step at 640 px, with kernels and without."""
    import torch

    from nas.model.host import build

    swaps = {"stock": [], "five": FIVE, "DCNv2": ["*.down_*=DCNv2"], "DCNv4": ["*.down_*=DCNv4"]}
    side, batch = (64, 1) if CPU else (640, 16)
    for kind in ("auto", "reference"):
        os.environ["NAS_KERNELS"] = kind
        for name, chosen in swaps.items():
            model: Any = build(yaml_of(chosen), "n", 80).to(DEVICE).to(memory_format=torch.channels_last).train()
            x = torch.rand(batch, 3, side, side, device=DEVICE).contiguous(memory_format=torch.channels_last)
            if not CPU:
                torch.cuda.reset_peak_memory_stats()
            for turn in range(2 if CPU else 6):
                if turn == 1:
                    settle()
                    started = time.perf_counter()
                with torch.autocast(DEVICE, torch.bfloat16 if CPU else torch.float16):
                    out = model.predict(x)
                leaves = [t for t in torch.utils._pytree.tree_leaves(out) if getattr(t, "requires_grad", False)]
                sum(t.float().square().mean() for t in leaves).backward()
                model.zero_grad()
            settle()
            ms = 1e3 * (time.perf_counter() - started) / (1 if CPU else 5)
            peak = 0.0 if CPU else torch.cuda.max_memory_allocated() / 2**30
            print(f"{kind:9} {name:6} peak {peak:5.2f} GiB, {ms:6.1f} ms a step", flush=True)
            del model, x, out, leaves
    return []


def settle() -> None:
    """Wait for the GPU."""
    import torch

    if not CPU:
        torch.cuda.synchronize()


def leftovers() -> list[str]:
    """List what jobs without epochs leave in their process: trainers, GPU memory."""
    import gc

    import torch

    from nas.training.proxy_trainer import ProxyTrainer
    from nas.workers.worker import handle_job

    kept = []
    for turn in range(2 if CPU else 4):
        kind, body = handle_job(job(0), 2, lambda _: None)
        alive = sum(issubclass(type(o), ProxyTrainer) for o in gc.get_objects())
        kept.append(0.0 if CPU else torch.cuda.memory_reserved() / 2**20)
        print(f"job {turn}: {kind}, {alive} trainers, {kept[-1]:.0f} MiB reserved", body if kind != "done" else "")
        if alive or kind != "done":
            return [f"job {turn}: {kind}, {alive} trainers alive"]
    return [] if kept[-1] <= kept[0] + 64 else [f"reserved memory grows: {kept}"]


def precision() -> list[str]:
    """Train the same twice, and compare to the bit."""
    from nas.workers.worker import handle_job

    for name, swaps in (("stock", []), ("five", FIVE)):
        curves = []
        for _ in range(2):
            kind, body = handle_job(job(1 if CPU else 6, swaps), 2, lambda _: None)
            if kind != "done":
                return [f"{name}: {body}"]
            curves.append([(score.train_loss, score.validation) for score in body.curve])
        print(
            f"{name}: {'repeated to the bit' if curves[0] == curves[1] else 'differs'}: {curves[0][-1]} {curves[1][-1]}"
        )
    return []


def latency() -> list[str]:
    """Measure latencies, and again in fresh processes."""
    for name, swaps in (("stock", []), ("five", FIVE)):
        path = Path(f"yolov8n-{name}.yaml")
        path.write_text(yaml_of(swaps))
        for turn in range(1 if CPU else 2):
            cache = {**os.environ, "NAS_CACHE": f"{os.environ['NAS_CACHE']}-{turn}"}
            given = ["cost", str(path), "--latency", "--imgsz", str(SIZE), "--device", "cpu" if CPU else "0"]
            subprocess.run([sys.executable, "-m", "nas", *given], check=True, env=cache)
    return []


def timings() -> list[str]:
    """Measure the ops by `benchmarks/ops_gpu.py`."""
    given = ["--device", "cpu", "--tiny"] if CPU else ["--repeats", "10"]
    script = [sys.executable, "benchmarks/ops_gpu.py", "--no-models", "--no-compile"]
    return [f"exit code {code}"] if (code := subprocess.run([*script, *given], check=False).returncode) else []


def data() -> Path:
    """Return the demo data, as the host can read them."""
    from nas.data.dataset import load_or_demo, write_resolved

    return write_resolved(load_or_demo(None), Path("demo").resolve())


def yaml_of(swaps: list[str]) -> str:
    """Return the YAML of a YOLOv8n with swaps."""
    from nas.model.render import render
    from nas.space.variant import parse_swaps

    return render(parse_swaps("yolov8", "n", swaps)).yaml


def job(epochs: int, swaps: list[str] | None = None) -> Any:
    """Return a training from scratch on the demo data."""
    from nas.space.variant import parse_swaps
    from nas.training.jobs import ProxyJob
    from nas.training.recipe import make_recipe

    variant = parse_swaps("yolov8", "n", swaps or [])
    where = "cpu" if CPU else "0"
    recipe = make_recipe(init="scratch", epochs=epochs, imgsz=SIZE, batch=BATCH, base_epochs=1, device=where)
    made = ProxyJob("yolov8n-x", yaml_of(swaps or []), "yolov8", "n", variant.swaps, str(data()), "demo", recipe, 0)
    return replace(made, average=False)


STEPS: dict[str, tuple[int, Callable[[], list[str]]]] = {
    "env": (40, env),
    "kernels": (110, kernels),
    "modules": (70, modules),
    "amp": (75, amp),
    "search": (100, search),
    "memory": (35, memory),
    "precision": (40, precision),
    "leftovers": (30, leftovers),
    "latency": (30, latency),
    "timings": (90, timings),
}
"""By name, in order: seconds at most, and what it does."""

if __name__ == "__main__":
    main()
