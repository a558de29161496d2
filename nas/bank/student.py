"""A student: one candidate of the swap bank during distillation; and the tap on the teacher's activations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch

from nas.bank.head_error import head_error
from nas.bank.jobs import Candidate
from nas.errors import failure_kind, one_line
from nas.ops.heads import head_maps, is_head
from nas.space.choice import AFTER

_MACHINE = ("cuda error", "cuda_error", "cudnn_status", "cublas_status", "unable to find a valid cudnn")
"""Parts of the messages of errors that no module causes, or that the process on a GPU does not survive."""


class Student:
    """A candidate during its distillation."""

    def __init__(
        self, candidate: Candidate, module: Any, name: str, row: int, guide: int | None, begun: bool, lr0: float
    ) -> None:
        """Prepare.

        Args:
            candidate: The candidate.
            module: Its module, with its initial values.
            name: The layer's name in the model that will use the module.
            row: The layer's row in that model.
            guide: Row of the teacher whose output is a second input; None without one.
            begun: Whether the initial values are near the layer.
            lr0: Initial learning rate.
        """
        self.candidate = candidate
        self.module = module
        self.name = name
        self.inserted = candidate.slot.startswith(AFTER)
        self.row = row - self.inserted  # of the teacher's layer
        self.guide = guide
        self.is_head = is_head(module)
        self.failure = ""
        self.raised = False
        """Whether the module raised an error."""
        self.start_error = math.nan
        self.begun = {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
        # An inserted module that starts near the identity could only learn to do nothing.
        given = [p for p in module.parameters() if p.requires_grad and not (self.inserted and begun)]
        self.optimizer = torch.optim.AdamW(given, lr=lr0, weight_decay=0.0) if given else None

    @property
    def rows(self) -> set[int]:
        """The rows of the teacher that it needs."""
        return {self.row} if self.guide is None else {self.row, self.guide}

    def step(self, seen: dict[int, tuple[Any, Any]], lr: float) -> None:
        """Take one step towards the layer's output; an error that the module raises is its failure."""
        with self._failing():
            self._step(seen, lr)

    def evaluate(self, seen: dict[int, tuple[Any, Any]]) -> float:
        """Return the distillation error; an error that the module raises is its failure, and the result is NaN."""
        error = math.nan
        with self._failing():
            if not self.failure:
                error = float(self.error(seen))
        return error

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Record an error that the module raises, unless it is out of memory or a fault of the device or a kernel."""
        try:
            yield
        except Exception as error:
            if machine_at_fault(error):
                raise
            self.failure, self.raised = f"its distillation failed: {one_line(error)}", True

    def _step(self, seen: dict[int, tuple[Any, Any]], lr: float) -> None:
        if self.optimizer is None or self.failure:
            return
        self.module.train()
        loss = self.error(seen)
        if not math.isfinite(float(loss.detach())):
            self.failure = "its distillation diverged: the error was no longer a number"
            return
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 10.0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def error(self, seen: dict[int, tuple[Any, Any]]) -> Any:
        """Return the distillation error for rows' inputs and outputs; the target of an inserted module is its input."""
        inputs, target = seen[self.row]
        if self.is_head:
            return head_error(head_maps(self.module, inputs), target)
        if self.inserted:
            inputs = target
        elif self.guide is not None:
            inputs = [inputs, seen[self.guide][1]]
        return relative_error(self.module(inputs), target)

    def settle(self, error: float) -> float:
        """Restore the initial values if they were nearer to the layer; return the error of the result."""
        if self.failure or not (math.isfinite(error) and error >= self.start_error):
            return error
        self.module.load_state_dict(self.begun)
        return self.start_error

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "failure": self.failure,
            "raised": self.raised,
            "start_error": self.start_error,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.module.load_state_dict(state["module"])
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
        self.failure, self.raised, self.start_error = state["failure"], state["raised"], state["start_error"]


def machine_at_fault(error: Exception) -> bool:
    """Return whether an error is out of memory or a fault of the device or a kernel, which no module causes."""
    return failure_kind(error) in ("memory", "kernel") or any(text in str(error).lower() for text in _MACHINE)


def relative_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error over the variance of the target (about its channels' means)."""
    target = target.float()
    spread = (target - target.mean((0, 2, 3), keepdim=True)).square().mean()
    return (output.float() - target).square().mean() / spread.clamp_min(1e-12)


class Tap:
    """Records the inputs and outputs of layers of the teacher while it is open; of a head, its `head_maps`."""

    def __init__(self, teacher: Any, rows: list[int]) -> None:
        self.seen: dict[int, tuple[Any, Any]] = {}
        heads = [row for row in rows if is_head(teacher.model[row])]
        self._handles = [teacher.model[row].register_forward_hook(self._note(row)) for row in rows if row not in heads]
        self._handles += [teacher.model[row].register_forward_pre_hook(self._note_head(row)) for row in heads]

    def _note(self, row: int) -> Any:
        def hook(_module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            self.seen[row] = (inputs[0], output)

        return hook

    def _note_head(self, row: int) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            maps = list(inputs[0])  # older heads write into the list that they are given
            self.seen[row] = (maps, head_maps(module, maps))

        return hook

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
