"""The report of ``nas doctor``: versions, devices, kernels and folders, for bug reports."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import click

from nas.device import check_gpus, choose_device, choose_precision, describe_device, gpus
from nas.engines import ENGINES
from nas.errors import NasError
from nas.files import cache_dir
from nas.study.settings import current_versions


def environment_report() -> dict[str, str]:
    """Return facts about this installation, the most useful first."""
    from nas.workers.count import available_cores

    facts = dict(current_versions())
    facts["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts["CPU cores"] = f"{available_cores()} of {os.cpu_count()}"
    facts["GPUs"], facts["trainings"] = _devices()
    facts["kernels"] = _kernels()
    if facts["GPUs"] != "none":
        passed = "a convolution" + (" and all kernels run" if facts["kernels"].startswith("compiled") else " runs")
        facts["GPU test"] = "; ".join(check_gpus()) or f"{passed} on each that can be used"
    facts["engines"] = _engines()
    facts["host anchor"] = _anchor()
    facts["modules"] = _modules()
    facts["cache"] = _folder(cache_dir())
    facts["host settings"] = os.environ.get("YOLO_CONFIG_DIR", "")
    facts["studies"] = _folder(Path("studies").resolve())
    return facts


def print_report(*, as_json: bool) -> None:
    """Print the report."""
    facts = environment_report()
    if as_json:
        return click.echo(json.dumps(facts, indent=2))
    width = max(map(len, facts))
    for key, value in facts.items():
        click.echo(f"{key:{width}}  {value}")
    return None


def _devices() -> tuple[str, str]:
    """Return the GPUs, and where and in which precision trainings run by default."""
    try:
        found = [
            f"{k}: {gpu}" + (f" (PROBLEM: {gpu.unsupported})" if gpu.unsupported else "")
            for k, gpu in enumerate(gpus())
        ]
        device = choose_device(None)
        return "; ".join(found) or "none", describe_device(device, choose_precision(device)).removeprefix("trainings ")
    except NasError as error:
        return f"PROBLEM: {error}", "run on the CPU in fp32 with --device cpu"


def _engines() -> str:
    """Return the engines of exported models that are installed, and what the others lack."""
    exported = [engine for engine in ENGINES.values() if engine.exported]
    return "; ".join(
        f"{engine.title}: pip install {' '.join(missing)}" if (missing := engine.missing) else engine.versions
        for engine in exported
    )


def _anchor() -> str:
    """Return whether modules can be registered with the installed Ultralytics, or why not."""
    from nas.model.host import register, version

    try:
        register()
    except NasError as error:
        return f"PROBLEM: {error}"
    return f"found in Ultralytics {version()}; modules are registered in memory"


def _kernels() -> str:
    """Return what CUDA tensors are computed with."""
    from nas.ops.kernels import runtime

    try:
        chosen = runtime.mode()
    except ValueError as error:
        return f"PROBLEM: {error}"
    missing = runtime.unavailable()
    if chosen == "reference":
        return "not used: NAS_KERNELS=reference"
    if missing:
        return f"{'PROBLEM' if chosen == 'cuda' else 'plain PyTorch on GPUs'}: {missing}"
    return f"compiled at first use on a GPU, kept in {_folder(runtime.cache_folder())}"


def _modules() -> str:
    """Return the registered modules' names."""
    from nas.ops import registry

    return ", ".join(registry.entries())


def _folder(path: Path) -> str:
    """Return a folder, and whether it exists and can be written."""
    nearest = next(p for p in [path, *path.parents] if p.exists())
    writable = "writable" if os.access(nearest, os.W_OK) else "PROBLEM: not writable"
    return f"{path} ({writable}{'' if path.exists() else ', not there yet'})"
