"""Run exported models with their engine: compare answers with PyTorch's, and time them alternately with the first.

This file needs Python 3.9, NumPy and the engine alone, not `nas`: it measures here, in a process of its own that an
engine may crash, and as ``run.py`` of the folder that ``nas latency export`` writes, on another machine.

    python run.py                     # measures all models of its folder and writes latencies.json

A folder has ``plan.json``, the inputs, and for each model its files and PyTorch's answers. What is timed is one run of
the model, from NumPy arrays to its outputs, after a warm-up. Models alternate with the first model, the baseline, in
blocks of several runs with pauses between them, so that a machine that becomes slower does so for both. With one
thread the time is the processor time of the process, which other work on the machine changes little; with several it
is the time that passes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
"""Version of ``plan.json`` and ``latencies.json``."""
PLAN, SCRIPT, RESULTS = "plan.json", "run.py", "latencies.json"
_WARM_RUNS, _WARM_S = 3, 0.3
_UNTIMED = 1
"""Runs at the start of a block that are not timed: they bring the model back into the caches."""
_BLOCK_S, _LEAST_IN_BLOCK, _MOST_IN_BLOCK = 0.05, 2, 50
_LONGEST_S = 1800
"""Seconds after which the process of a model is ended: its engine hangs."""

Arrays = list[Any]
Run = Callable[[], Arrays]
Loader = Callable[[Path, dict[str, Any], Arrays], Run]


# ---- engines --------------------------------------------------------------------------------------------------------


def load_onnxruntime(place: Path, plan: dict[str, Any], inputs: Arrays) -> Run:
    """Return a run of an ONNX file, or of ``model.onnx`` in a folder, by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = plan["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    file = place / "model.onnx" if place.is_dir() else place
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    given = {node.name: x for node, x in zip(session.get_inputs(), inputs)}
    return lambda: list(session.run(None, given))


def load_openvino(folder: Path, plan: dict[str, Any], inputs: Arrays) -> Run:
    """Return a run of ``model.xml`` by OpenVINO on the CPU."""
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": plan["threads"],
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "fp16": "f16"}[plan["precision"]],
    }
    request = openvino.Core().compile_model(str(folder / "model.xml"), "CPU", options).create_infer_request()
    given = dict(enumerate(inputs))

    def run() -> Arrays:
        request.infer(given, share_inputs=True)
        return [output.data for output in request.output_tensors]

    return run


def load_ncnn(folder: Path, plan: dict[str, Any], inputs: Arrays) -> Run:
    """Return a run of ``model.param`` by NCNN on the CPU, which takes one image at a time.

    Raises:
        RuntimeError: It has layers that NCNN does not have, or does not run.
    """
    import ncnn

    param = folder / "model.param"
    if missing := missing_layers(param.read_text(encoding="utf-8"), ncnn.layer_to_index):
        raise RuntimeError(f"NCNN has no layer {', '.join(missing)}")
    net = ncnn.Net()
    net.opt.num_threads = plan["threads"]
    net.opt.use_vulkan_compute = False
    half = plan["precision"] == "fp16"
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.use_bf16_storage = False
    if net.load_param(str(param)) or net.load_model(str(folder / "model.bin")):
        raise RuntimeError("NCNN cannot load it")
    names, outputs = sorted(net.input_names()), sorted(net.output_names())
    images = [np.ascontiguousarray(x[0]) for x in inputs]

    def run() -> Arrays:
        extractor = net.create_extractor()
        for name, image in zip(names, images):
            extractor.input(name, ncnn.Mat(image))
        found = []
        for name in outputs:
            code, mat = extractor.extract(name)
            if code:
                raise RuntimeError(f"NCNN stops with code {code}")
            found.append(np.array(mat)[None])
        return found

    return run


def missing_layers(param: str, index_of: Callable[[str], int]) -> list[str]:
    """Return the types of layers in a text of NCNN that it does not have, such as ``F.grid_sample``.

    Args:
        param: Text of the file of layers: its number of the format, the number of layers, then a layer a line.
        index_of: Returns the number of a type, below 0 where there is none.
    """
    types = {line.split()[0] for line in param.splitlines()[2:] if line.strip()}
    return sorted(name for name in types if index_of(name) < 0)


LOADERS: dict[str, Loader] = {
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "ncnn": load_ncnn,
}
"""Returns for each engine a run of the model in a folder."""


# ---- comparing ------------------------------------------------------------------------------------------------------


def differences(expected: Sequence[Any], found: Sequence[Any], imgsz: int) -> dict[str, float]:
    """Return the largest differences between two answers.

    Args:
        expected: PyTorch's outputs.
        found: The engine's.
        imgsz: Image side in pixels; 0 for a part of a model, whose outputs are no boxes.

    Returns:
        ``boxes``, as a share of the image side, and ``scores``, of a model; ``values``, as a share of the largest
        value, of a part of one. Infinite where a value is not a number.

    Raises:
        ValueError: The answers are not of one shape.
    """
    shapes = [tuple(np.shape(y)) for y in expected], [tuple(np.shape(y)) for y in found]
    if shapes[0] != shapes[1]:
        raise ValueError(f"its answer is of shape {shapes[1]}, not {shapes[0]}")
    if not all(np.isfinite(y).all() for y in found):
        return {"values": math.inf} if not imgsz else {"boxes": math.inf, "scores": math.inf}
    if not imgsz:
        largest = max(float(np.abs(y).max()) for y in expected) or 1.0
        return {"values": max(float(np.abs(a - b).max()) for a, b in zip(expected, found)) / largest}
    theirs, ours = np.asarray(expected[0]), np.asarray(found[0])
    if theirs.ndim == 3 and theirs.shape[2] == 6:
        return _unordered(theirs, ours, imgsz)
    difference = np.abs(theirs - ours)
    return {"boxes": float(difference[:, :4].max()) / imgsz, "scores": float(difference[:, 4:].max())}


def _unordered(expected: Any, found: Any, imgsz: int) -> dict[str, float]:
    """Return the differences of lists of detections, each (x1, y1, x2, y2, score, class), whose order may differ.

    Each detection is compared with the most similar one of its class in the other list. The last of a list may have
    another in its place that scores as much, so those that score no more than the larger of the two last scores are
    not looked for.
    """
    worst = {"boxes": 0.0, "scores": 0.0}
    scale = np.array([imgsz] * 4 + [1.0, 1e-6])
    for a, b in zip(expected / scale, found / scale):
        last = max(a[:, 4].min(), b[:, 4].min()) + 1e-3
        for one, other in ((a[a[:, 4] > last], b), (b[b[:, 4] > last], a)):
            for detection in one:
                difference = np.abs(other - detection)
                nearest = difference[difference.max(1).argmin()]
                worst["boxes"] = max(worst["boxes"], float(nearest[:4].max()))
                worst["scores"] = max(worst["scores"], float(nearest[4]))
    return worst


# ---- timing ---------------------------------------------------------------------------------------------------------


def clock_of(threads: int) -> tuple[Callable[[], float], str]:
    """Return the clock in seconds for a number of threads, and its name: ``processor time`` or ``time``."""
    if threads == 1 and time.get_clock_info("process_time").resolution < 1e-4:
        return time.process_time, "processor time"
    return time.perf_counter, "time"


def alternate(run: Run, baseline: Run, rounds: int, pause_s: float, clock: Callable[[], float]) -> dict[str, Any]:
    """Return the times of a run, and their ratio to those of another that alternates with it.

    Args:
        run: What is timed.
        baseline: The run of the baseline.
        rounds: Number of blocks of each, at least 2.
        pause_s: Pause before each block, in seconds.
        clock: Returns seconds.

    Returns:
        ``ms``, the median of all runs; ``spread_ms``, their interquartile range; ``runs``; ``ratio``, the median over
        the rounds of the ratio of the two blocks' medians; ``ratio_low`` and ``ratio_high``, its quartiles.
    """
    counts = [_warm(one, clock) for one in (run, baseline)]
    times: list[float] = []
    ratios = []
    for turn in range(rounds):
        blocks = [[0.0], [0.0]]
        for k in (0, 1) if turn % 2 else (1, 0):
            time.sleep(pause_s)
            blocks[k] = _block((run, baseline)[k], counts[k], clock)
        times += blocks[0]
        ratios.append(statistics.median(blocks[0]) / statistics.median(blocks[1]))
    quarters = statistics.quantiles(times, n=4)
    low, ratio, high = statistics.quantiles(ratios, n=4)
    return {
        "ms": 1e3 * statistics.median(times),
        "spread_ms": 1e3 * (quarters[2] - quarters[0]),
        "runs": len(times),
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
    }


def _warm(run: Run, clock: Callable[[], float]) -> int:
    """Warm a run up, and return how many of it make a block."""
    until = time.perf_counter() + _WARM_S
    times: list[float] = []
    while len(times) < _WARM_RUNS or time.perf_counter() < until:
        started = clock()
        run()
        times.append(clock() - started)
    return max(_LEAST_IN_BLOCK, min(_MOST_IN_BLOCK, math.ceil(_BLOCK_S / max(min(times), 1e-6))))


def _block(run: Run, count: int, clock: Callable[[], float]) -> list[float]:
    """Return the seconds of each of `count` runs."""
    for _ in range(_UNTIMED):
        run()
    times = []
    for _ in range(count):
        started = clock()
        run()
        times.append(max(clock() - started, 1e-9))
    return times


# ---- a folder -------------------------------------------------------------------------------------------------------


def measure(folder: Path, name: str, baseline: str = "", loaders: dict[str, Loader] | None = None) -> dict[str, Any]:
    """Return the result of a model of a folder: its differences and times, or why it has none.

    Args:
        folder: The folder with ``plan.json``.
        name: The model.
        baseline: The baseline, which it alternates with; itself if empty.
        loaders: What loads models, by engine; `LOADERS` if None.
    """
    load = loaders or LOADERS
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    model, first = (next(m for m in plan["models"] if m["name"] == one) for one in (name, baseline or name))
    found = {"name": name, "digest": model["digest"], "failure": ""}
    try:
        run, expected = _loaded(folder, plan, model, load)
        difference = differences(expected, run(), model["imgsz"])
        found.update(difference)
        if worst := ", ".join(f"{key} by {x:.2g}" for key, x in difference.items() if not x <= model["tolerance"]):
            why = f"its answer differs from PyTorch's in {worst}, more than {model['tolerance']:.2g}"
            return {**found, "failure": why}
        if plan["rounds"]:
            other = run if first is model else _loaded(folder, plan, first, load)[0]
            found.update(alternate(run, other, plan["rounds"], plan["pause_s"], clock_of(plan["threads"])[0]))
    except Exception as error:  # of many kinds, by the engine
        found["failure"] = f"{type(error).__name__}: {_first_line(error)}"
    return found


def _loaded(
    folder: Path, plan: dict[str, Any], model: dict[str, Any], loaders: dict[str, Loader]
) -> tuple[Run, Arrays]:
    """Return a run of a model, and PyTorch's answers."""
    place = folder / model["folder"]
    run = loaders[plan["engine"]](place, plan, _arrays(folder / model["inputs"]))
    return run, _arrays(place / "answers.npz")


def _arrays(file: Path) -> Arrays:
    with np.load(file) as stored:
        return [stored[f"x{i}"] for i in range(len(stored.files))]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:500]


def measure_in_process(folder: Path, name: str, baseline: str = "") -> dict[str, Any]:
    """Return the result of `measure` from a process of its own, which the engine may crash.

    Args:
        folder: The folder, which has this file as ``run.py``.
        name: The model.
        baseline: As `measure`.
    """
    command = [sys.executable, str(folder / SCRIPT), str(folder), "--only", name, "--baseline", baseline]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_LONGEST_S)
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        said = "".join(done.stderr.strip().splitlines()[-1:])[:500] or "no message"
        why = f"ended its process ({how}): {said}"
        with contextlib.suppress(ValueError, IndexError):
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found
    except subprocess.TimeoutExpired:
        why = f"did not finish within {_LONGEST_S} s"
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    digest = next(m["digest"] for m in plan["models"] if m["name"] == name)
    return {"name": name, "digest": digest, "failure": f"{plan['engine']} {why}"}


def machine() -> str:
    """Return the name of the processor."""
    for file, names in (("/proc/cpuinfo", ("model name", "Model", "Hardware")), ("/proc/device-tree/model", ())):
        with contextlib.suppress(OSError):
            text = Path(file).read_text(encoding="utf-8", errors="replace")
            if not names:
                return text.strip("\0\n ")
            for name in names:
                for line in text.splitlines():
                    if line.partition(":")[0].strip() == name:
                        return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def where_measured(plan: dict[str, Any]) -> dict[str, Any]:
    """Return what a result depends on besides the models: engine and its version, machine, threads, clock."""
    engine = plan["engine"]
    return {
        "engine": engine,
        "version": str(importlib.import_module(engine).__version__),
        "machine": machine(),
        "system": f"{platform.system()} {platform.machine()}",
        "precision": plan["precision"],
        "threads": plan["threads"],
        "clock": clock_of(plan["threads"])[1],
    }


def _steps(folder: Path, plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the result of each model, and print it."""
    first = ""  # the first that has not failed
    for model in plan["models"]:
        found = measure_in_process(folder, model["name"], first)
        first = first or ("" if found["failure"] else model["name"])
        said = found["failure"] or f"{found['ms']:.2f} ms, {found['ratio']:.3f} of {first}"
        print(f"{model['name']}: {said}", file=sys.stderr, flush=True)  # noqa: T201  runs alone, too
        yield found


def main() -> None:
    """Measure the models of a folder."""
    parser = argparse.ArgumentParser(description="Measure the exported models of a folder with their engine.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--only", metavar="NAME", help="measure this model alone and print its result")
    parser.add_argument("--baseline", metavar="NAME", default="", help="with --only: the baseline")
    parser.add_argument("--output", type=Path, help=f"the file of results; default: {RESULTS} in the folder")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.folder, args.only, args.baseline)))  # noqa: T201
        return
    plan = json.loads((args.folder / PLAN).read_text(encoding="utf-8"))
    try:
        importlib.import_module(plan["engine"])
    except ImportError:
        sys.exit(f"{plan['engine']} is not installed: pip install {plan['engine']}")
    body = {"format": FORMAT, "imgsz": plan["imgsz"], "batch": plan["batch"]}
    body.update(where_measured(plan), models=list(_steps(args.folder, plan)))
    output = args.output or args.folder / RESULTS
    output.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {output}; on the machine with nas: nas latency import {output.name}")  # noqa: T201


if __name__ == "__main__":
    main()
