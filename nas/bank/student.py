"""A candidate of the swap bank while it learns its layer, and the tap on the teacher that it learns from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from nas.bank.jobs import Candidate
from nas.errors import failure_kind
from nas.space.variant import AFTER

_MACHINE = ("cuda error", "cudnn_status", "cublas_status", "unable to find a valid cudnn", "unable to find an engine")
"""What is in the message of an error that is no module's, or that a GPU's process does not survive."""


class Learner:
    """A candidate while it learns."""

    def __init__(
        self, candidate: Candidate, module: Any, name: str, row: int, guide: int | None, begun: bool, lr0: float
    ) -> None:
        import torch

        self.candidate = candidate
        self.module = module
        self.name = name
        self.inserted = candidate.slot.startswith(AFTER)
        self.row = row - self.inserted  # of the layer that it learns from
        self.guide = guide  # the row whose output it takes beside its layer's input
        self.failure = ""
        self.raised = False
        """Whether its failure is an error that it raised."""
        self.start_error = math.nan
        self.begun = {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
        # An inserted module that starts near handing on what it gets could only learn to do nothing.
        given = [p for p in module.parameters() if p.requires_grad and not (self.inserted and begun)]
        self.optimizer = torch.optim.AdamW(given, lr=lr0, weight_decay=0.0) if given else None

    @property
    def rows(self) -> set[int]:
        """The rows of the teacher that it looks at."""
        return {self.row} if self.guide is None else {self.row, self.guide}

    def step(self, seen: dict[int, tuple[Any, Any]], lr: float) -> None:
        """Take one step towards the layer's output; what the module raises is its failure."""
        with self._failing():
            self._step(seen, lr)

    def look(self, seen: dict[int, tuple[Any, Any]]) -> float:
        """Return the error as a number; what the module raises is its failure, and then there is none."""
        error = math.nan
        with self._failing():
            if not self.failure:
                error = float(self.error(seen))
        return error

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Keep what the module raises, unless it is a lack of memory or a fault of the device."""
        from nas.errors import one_line

        try:
            yield
        except Exception as error:
            if failure_kind(error) == "memory" or any(text in str(error).lower() for text in _MACHINE):
                raise
            self.failure, self.raised = f"its distillation failed: {one_line(error)}", True

    def _step(self, seen: dict[int, tuple[Any, Any]], lr: float) -> None:
        import torch

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
        """Return the error for rows' inputs and outputs; an inserted module has to hand on what it gets."""
        inputs, target = seen[self.row]
        if self.inserted:
            inputs = target
        elif self.guide is not None:
            inputs = [inputs, seen[self.guide][1]]
        return relative_error(self.module(inputs), target)

    def settle(self, error: float) -> float:
        """Take back what was learnt if the start was nearer to the layer; return the error that this leaves."""
        if self.failure or not (math.isfinite(error) and error >= self.start_error):
            return error
        self.module.load_state_dict(self.begun)
        return self.start_error

    def state(self) -> dict[str, Any]:
        """Return what a save keeps."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "failure": self.failure,
            "raised": self.raised,
            "start_error": self.start_error,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.module.load_state_dict(state["module"])
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
        self.failure, self.raised, self.start_error = state["failure"], state["raised"], state["start_error"]


def relative_error(output: Any, target: Any) -> Any:
    """Return the mean squared error over the variance of the target (about its channels' means)."""
    target = target.float()
    spread = (target - target.mean((0, 2, 3), keepdim=True)).square().mean()
    return (output.float() - target).square().mean() / spread.clamp_min(1e-12)


class Tap:
    """Keeps what layers of the teacher take and put out while it is open."""

    def __init__(self, teacher: Any, rows: list[int]) -> None:
        self.seen: dict[int, tuple[Any, Any]] = {}
        self._handles = [teacher.model[row].register_forward_hook(self._note(row)) for row in rows]

    def _note(self, row: int) -> Any:
        def hook(_module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            self.seen[row] = (inputs[0], output)

        return hook

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
