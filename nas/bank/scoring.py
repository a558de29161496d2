"""Output scores in the training process: how far the head's outputs of a variant are from the trained baseline's.

The baseline's forward pass is made once for each batch. A variant is run from its first row that differs, on the
baseline's outputs of the rows before; rows that are the same further on are the baseline's own modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from nas.bank.further_score import classes_apart, further_divergence
from nas.bank.head_error import divergence
from nas.bank.jobs import Assembled, OutputScore, ScoreJob
from nas.bank.student import machine_at_fault
from nas.errors import one_line
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import copy_matching, named_state, reader_tensors
from nas.model.weights_file import read_state
from nas.space.bases import load_base, task_of_base
from nas.space.variant import Variant
from nas.task.task import Task
from nas.training.host_version import Level, further_of, levels_of
from nas.training.jobs import ProxyJob
from nas.training.train import open_trainer


def score_outputs(job: ScoreJob, threads: int, report: Callable[[tuple[int, int]], None]) -> tuple[OutputScore, ...]:
    """Return the score of each variant; one whose modules raise an error has a score with the failure.

    Args:
        job: What to score.
        threads: CPU threads.
        report: Called after each batch of images, with the batches done and all batches.
    """
    with open_trainer(job.proxy, threads) as trainer, torch.no_grad():
        trainer.set_up()
        teacher = trainer.ema.ema.eval()
        task = task_of_base(job.proxy.base)
        batches = math.ceil(job.images / job.proxy.recipe.batch)
        grafts = [_Graft(variant, job.proxy, teacher, trainer.data) for variant in job.variants]
        for done, batch in enumerate(trainer.sample(batches), 1):
            seen, target = _forward(teacher, batch["img"], task)
            for graft in grafts:
                versions = [x._version for x in seen]
                graft.add(seen, batch["img"], target)
                if versions != [x._version for x in seen]:  # a module has written to its input
                    seen, target = _forward(teacher, batch["img"], task)
            report((done, batches))
        return tuple(graft.score() for graft in grafts)


class _Target(NamedTuple):
    """What the baseline's head puts out on a batch."""

    levels: list[Level]
    further: dict[str, torch.Tensor]

    def apart(self, head: Any, task: Task) -> torch.Tensor:
        """Return how far another head's outputs are: (images, levels, 2), with 3 where the task has something further.

        Args:
            head: What it puts out.
            task: Its task.
        """
        if not task.has_objects:
            return classes_apart(self.levels[0][1], head)
        found = divergence(self.levels, levels_of(head, self.levels[0][1].shape[1]))
        weight = torch.cat([classes.sigmoid().amax(1) for _, classes in self.levels], 1)
        sizes = [classes.shape[2] for _, classes in self.levels]
        rest = further_divergence(self.further, further_of(head, task), weight, sizes)
        return found if rest is None else torch.cat([found, rest[:, :, None]], 2)


class _Graft:
    """A variant on the baseline's model: its own rows from the first that differs."""

    def __init__(self, variant: Assembled, proxy: ProxyJob, teacher: Any, data: Mapping[str, Any]) -> None:
        self.failure = ""
        self._task = task_of_base(proxy.base)
        self._sums: list[torch.Tensor] = []
        try:
            self._build(variant, proxy, teacher, data)
        except Exception as error:
            self._fail(error)

    def _build(self, variant: Assembled, proxy: ProxyJob, teacher: Any, data: Mapping[str, Any]) -> None:
        described = Variant(proxy.base, proxy.scale, variant.swaps)
        graph, base = described.graph(), load_base(proxy.base)
        model: Any = build(render(described).yaml, proxy.scale, data["nc"], data.get("kpt_shape"))
        state: dict[str, torch.Tensor] = {}
        for file in variant.files:
            state.update(read_state(file, proxy.base, part=True))
        if described.narrowed:
            trained = named_state({k: v.cpu() for k, v in teacher.state_dict().items()}, base)
            state.update(reader_tensors(described, model, {**trained, **state}))
        copy_matching(model, graph, state)
        rows = {name: row for row, name in enumerate(base.names)}
        self._rows: list[tuple[Any, Any]] = []
        self._first = -1
        device = next(teacher.parameters()).device
        for row, (layer, module) in enumerate(zip(graph.layers, model.model, strict=True)):
            own = teacher.model[rows[layer.name]] if layer.name in rows and not layer.swap else None
            if own is not None and _shapes(own) != _shapes(module):
                own = None
            if self._first < 0:
                if own is not None:
                    continue
                self._first = row
            self._rows.append((module.f, own if own is not None else module.to(device).eval()))
        if self._rows and self._rows[-1][1] is not teacher.model[-1]:
            self._rows[-1][1].training = True  # the head's raw outputs; its own modules are in evaluation mode

    def add(self, seen: list[Any], images: torch.Tensor, target: _Target) -> None:
        """Add a batch: the baseline's outputs by row, the images, and the baseline's head."""
        if self.failure:
            return
        if not self._rows:  # the baseline
            self._sums.append(torch.zeros(len(images), len(target.levels), 3 if target.further else 2))
            return
        try:
            outputs = list(seen[: self._first])
            head: Any = None
            for source, module in self._rows:
                head = module(_input(source, outputs, images))
                outputs.append(head)
            self._sums.append(target.apart(head, self._task).float().cpu())
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if machine_at_fault(error):
            raise error
        self.failure = f"its outputs cannot be scored: {one_line(error)}"

    def score(self) -> OutputScore:
        """Return the score over all batches."""
        if self.failure:
            return OutputScore(failure=self.failure)
        every = torch.cat(self._sums).double()
        mean = every.mean(0)
        if not bool(mean.isfinite().all()):
            return OutputScore(failure="its outputs are not numbers")
        first, second = (float(every[start::2].sum((1, 2)).mean()) for start in (0, 1))
        further = tuple(mean[:, 2].tolist()) if mean.shape[1] > 2 else ()
        return OutputScore(tuple(mean[:, 0].tolist()), tuple(mean[:, 1].tolist()), (first, second), further=further)


def _shapes(module: Any) -> list[tuple[str, Any]]:
    return [(type(module).__name__, ()), *((key, value.shape) for key, value in module.state_dict().items())]


def _input(source: Any, outputs: list[Any], images: torch.Tensor) -> Any:
    """Return the input of a row, as the host's model resolves its sources."""
    before = outputs[-1] if outputs else images
    if source == -1:
        return before
    if isinstance(source, int):
        return outputs[source]
    return [before if j == -1 else outputs[j] for j in source]


def _forward(teacher: Any, images: torch.Tensor, task: Task) -> tuple[list[Any], _Target]:
    """Run the baseline; return the outputs of all rows but the head, and what the head puts out."""
    head = teacher.model[-1]
    head.training = True  # the raw outputs; its own modules stay in evaluation mode
    outputs: list[Any] = []
    for module in teacher.model[:-1]:
        outputs.append(module(_input(module.f, outputs, images)))
    found = head(_input(head.f, outputs, images))
    if not task.has_objects:
        return outputs, _Target([(found, found)], {})  # one level of class logits, and no boxes
    return outputs, _Target(levels_of(found, head.nc), further_of(found, task))
