"""SwapNAS: measured architecture search over YOLO module swaps.

``import nas`` lets plain Ultralytics build, train and load every model YAML and checkpoint of the tool, whichever of
the two is imported first; `register` does it at once, and raises where it cannot be done. Importing this package is
cheap: torch and Ultralytics wait until they are needed.

For notebooks (see docs/python.md)::

    import nas
    study = nas.load_study("blood")  # or nas.search("seeds", data="data.yaml", study="blood")
    study.ranking()
    study.report("report.html")

For modules of your own (see docs/own-modules.md)::

    import nas
    from torch import nn

    @nas.module(rule="block", kinds={"block"}, paper="-", summary="two convolutions")
    class MyBlock(nn.Module):
        def __init__(self, c1, c2, n=1): ...

`Arg` and `FromSlot` describe the constructor's further parameters, `counts_macs` what the class spends outside its
child modules, and `load_modules` loads such a file into a script.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.import_hook import install
from nas.version import __version__

if TYPE_CHECKING:
    from nas.api import RankedVariant as RankedVariant
    from nas.api import StudyResult as StudyResult
    from nas.api import load_study as load_study
    from nas.api import search as search
    from nas.model.host import register as register
    from nas.model.trainer import ClassifyTrainer as ClassifyTrainer
    from nas.model.trainer import OBBTrainer as OBBTrainer
    from nas.model.trainer import PoseTrainer as PoseTrainer
    from nas.model.trainer import RTDETRTrainer as RTDETRTrainer
    from nas.model.trainer import SegmentTrainer as SegmentTrainer
    from nas.model.trainer import Trainer as Trainer
    from nas.ops.registry import Arg as Arg
    from nas.ops.registry import FromSlot as FromSlot
    from nas.ops.registry import counts_macs as counts_macs
    from nas.ops.registry import register as module
    from nas.own import load_modules as load_modules

__all__ = [
    "Arg",
    "ClassifyTrainer",
    "FromSlot",
    "OBBTrainer",
    "PoseTrainer",
    "RTDETRTrainer",
    "RankedVariant",
    "SegmentTrainer",
    "StudyResult",
    "Trainer",
    "__version__",
    "counts_macs",
    "load_modules",
    "load_study",
    "module",
    "register",
    "search",
]

PUBLIC = {
    "Arg": ("nas.ops.registry", "Arg"),
    "FromSlot": ("nas.ops.registry", "FromSlot"),
    "RankedVariant": ("nas.api", "RankedVariant"),
    "StudyResult": ("nas.api", "StudyResult"),
    **{
        name: ("nas.model.trainer", name)
        for name in ("ClassifyTrainer", "OBBTrainer", "PoseTrainer", "RTDETRTrainer", "SegmentTrainer", "Trainer")
    },
    "counts_macs": ("nas.ops.registry", "counts_macs"),
    "load_modules": ("nas.own", "load_modules"),
    "load_study": ("nas.api", "load_study"),
    "module": ("nas.ops.registry", "register"),
    "register": ("nas.model.host", "register"),
}
"""Public name to the module that has it, and its name there; imported at first use."""


def __getattr__(name: str) -> Any:
    """Import a public name at first use."""
    from importlib import import_module

    if name == "search":
        return import_module("nas.search")  # a package that can be called
    if name not in PUBLIC:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    source, inner = PUBLIC[name]
    return getattr(import_module(source), inner)


install()
