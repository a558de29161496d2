"""The engines that run the module itself in this process: PyTorch, and PyTorch's compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.engines.board import Arrays, Run


def loader(engine: str, modules: Mapping[str, nn.Module]) -> Callable[[Path, dict[str, Any], Arrays], Run]:
    """Return what `nas.engines.board.measure` loads models with.

    Args:
        engine: ``pytorch`` or ``compile``.
        modules: The modules by the name of their folder.
    """

    def load(folder: Path, plan: dict[str, Any], inputs: Arrays) -> Run:
        module: Any = modules[folder.name]
        if engine == "compile":
            torch.compiler.reset()
            module = torch.compile(module, dynamic=False)
        given = tuple(torch.from_numpy(x) for x in inputs)

        def run() -> Arrays:
            before = torch.get_num_threads()
            torch.set_num_threads(plan["threads"])
            try:
                with torch.inference_mode():
                    found = module(*given)
            finally:
                torch.set_num_threads(before)
            return [found.numpy()] if isinstance(found, torch.Tensor) else [y.numpy() for y in found]

        return run

    return load
