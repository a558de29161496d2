"""The engines that run exported models, and what each needs. Light: the command line lists them without torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from nas.errors import OptionError


def _version(package: str) -> str:
    """Return the version of a package by the distribution that has it: onnxruntime is in onnxruntime-gpu too."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        having = metadata.packages_distributions().get(package)
        return metadata.version(having[0]) if having else "unknown"


@dataclass(frozen=True)
class Engine:
    """An engine.

    Attributes:
        name: What users type; for an engine of its own, also its package, and what is imported of it.
        title: Its name in texts.
        packages: What has to be installed, by the names on PyPI, which are also those that are imported.
        tolerance: Largest difference from PyTorch by precision: of scores, and of boxes as a share of the image side.
            Has an entry for each precision that it takes.
        one_image: Whether it takes one image at a time.
        exported: Whether it runs a file that is exported for it, in a process of its own and on other machines. If
            not, PyTorch runs the model itself in this process.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    tolerance: Mapping[str, float]
    one_image: bool = False
    exported: bool = True

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that are not installed."""
        return tuple(name for name in self.packages if importlib.util.find_spec(name) is None)

    @property
    def versions(self) -> str:
        """The versions of its packages, such as ``onnxruntime 1.20.0, onnx 1.17.0``."""
        return ", ".join(f"{name} {_version(name)}" for name in self.packages)


_FP32, _FP16 = 1e-3, 3e-2
ENGINES: Mapping[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine("pytorch", "PyTorch", ("torch",), {"fp32": _FP32}, exported=False),
        Engine("compile", "torch.compile", ("torch",), {"fp32": _FP32}, exported=False),
        Engine("onnxruntime", "ONNX Runtime", ("onnxruntime", "onnx"), {"fp32": _FP32}),
        Engine("openvino", "OpenVINO", ("openvino",), {"fp32": _FP32, "fp16": _FP16}),
        Engine("ncnn", "NCNN", ("ncnn", "pnnx"), {"fp32": _FP32, "fp16": _FP16}, one_image=True),
    )
}
"""All engines by name; a new one has its export in `nas.engines.export` and its run in `nas.engines.board`."""
SEPARATE = "separate"
"""In place of an engine's name where a search measures no latencies: ``nas latency`` stores them in the study."""


@dataclass(frozen=True)
class Conditions:
    """Under what a model is measured.

    Attributes:
        imgsz: Image side in pixels.
        batch: Images in a run.
        threads: Threads of the engine.
        precision: ``fp32`` or ``fp16``.
        rounds: Blocks of runs of each model; 0 compares answers and times nothing.
        pause_s: Pause before each block, in seconds: against throttling.
    """

    imgsz: int = 640
    batch: int = 1
    threads: int = 1
    precision: str = "fp32"
    rounds: int = 10
    pause_s: float = 0.2

    @property
    def words(self) -> str:
        """The conditions in words that belong to a figure."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.imgsz} px, batch {self.batch}, {self.precision}, {threads}"


def chosen_engines(names: str, conditions: Conditions) -> list[Engine]:
    """Return engines that are installed and can be used under some conditions.

    Args:
        names: Their names, separated by commas.
        conditions: What is asked of them.

    Raises:
        OptionError: There is no such engine, a package is not installed, or it does not take the batch or precision.
    """
    found = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name not in ENGINES:
            raise OptionError(f"there is no engine {name!r}; there are {', '.join(ENGINES)}")
        engine = ENGINES[name]
        if missing := engine.missing:
            raise OptionError(f"{engine.title} is not installed: pip install {' '.join(missing)}")
        if conditions.precision not in engine.tolerance:
            takes = ", ".join(engine.tolerance)
            raise OptionError(f"{engine.title} is not measured in {conditions.precision}; it takes {takes}")
        if engine.one_image and conditions.batch > 1:
            raise OptionError(f"{engine.title} takes one image at a time, not a batch of {conditions.batch}")
        found.append(engine)
    if not found:
        raise OptionError(f"no engine is given; there are {', '.join(ENGINES)}")
    return found
