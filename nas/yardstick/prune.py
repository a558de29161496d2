"""Prune the baseline to a yardstick, in the training process: choose channels, take over weights, distil the layers.

The distillation is a bank's (`nas.bank.distil`), for as many epochs and with the same images and rates: every layer
learns the trained baseline's output from the baseline's own input, here in the channels that are kept; the head learns
the baseline's predictions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nas.bank.distil import batch_of_step, learning_rate
from nas.bank.jobs import Candidate
from nas.bank.student import Student, Tap
from nas.files import replacing
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import named_state
from nas.ops.heads import head_maps
from nas.space.bases import load_base
from nas.space.graph import LayerGraph
from nas.training.train import open_trainer
from nas.yardstick.channels import Kept, slice_model
from nas.yardstick.importance import BATCHES, channel_scores
from nas.yardstick.jobs import Pruned, PruneJob

_Maps = dict[int, tuple[Any, Any]]
"""Inputs and outputs of layers, by row."""


def prune(job: PruneJob, threads: int, report: Callable[[tuple[int, int]], None]) -> Pruned:
    """Prune, and write the tensors of the yardstick by layer name.

    Args:
        job: The pruning.
        threads: CPU threads.
        report: Called after each step of the distillation, with the steps done and all steps.
    """
    started = time.process_time()
    graph = load_base(job.proxy.base)
    with open_trainer(job.proxy, threads) as trainer:
        trainer.set_up()
        found = channel_scores(trainer.model, trainer.sample(BATCHES))
        wide = trainer.ema.ema
        narrow = build(
            render(job.yardstick).yaml, job.yardstick.scale, trainer.data["nc"], trainer.data.get("kpt_shape")
        )
        scores = {module: found[name] for name, module in wide.named_modules() if name in found}
        device = next(wide.parameters()).device
        kept = slice_model(wide.cpu(), narrow, graph, scores)
        wide.to(device)
        before, after = None, None
        if job.distils:
            before, after = _distil(job, wide, narrow.to(device), graph, kept, trainer, report)
        state = {name: value.detach().cpu().clone() for name, value in narrow.state_dict().items()}
        with replacing(Path(job.file)) as temporary:
            torch.save(named_state(state, graph), temporary)
    return Pruned(before, after, time.process_time() - started)


def _distil(
    job: PruneJob,
    wide: Any,
    narrow: Any,
    graph: LayerGraph,
    kept: list[Kept],
    trainer: Any,
    report: Callable[[tuple[int, int]], None],
) -> tuple[float, float]:
    """Distil the layers of the narrow model; return the mean distillation error of its layers before and after."""
    recipe = job.proxy.recipe
    view = _View(wide, graph, kept)
    students = []
    for i, layer in enumerate(graph.layers):
        module = narrow.model[i]
        if any(p.requires_grad for p in module.parameters()):
            if recipe.channels_last:
                module = module.to(memory_format=torch.channels_last)
            students.append(
                Student(Candidate(layer.name, "pruned"), module, layer.name, i, None, True, recipe.bank_lr0)
            )
    dataset = trainer.augmented()
    per_epoch = math.ceil(len(dataset) / recipe.batch)
    steps = recipe.bank_epochs * per_epoch
    before = _errors(view, students, trainer)
    for student, error in zip(students, before, strict=True):
        student.start_error = error
    for step in range(steps):
        batch = trainer.preprocess_batch(batch_of_step(dataset, recipe.batch, job.proxy.seed, step, per_epoch))
        maps = view.maps(batch["img"])
        for student in students:
            student.step(maps, learning_rate(step, steps, recipe.bank_lr0))
        report((step + 1, steps))
    after = [x.settle(error) for x, error in zip(students, _errors(view, students, trainer), strict=True)]
    for student, error in zip(students, after, strict=True):
        if student.failure or not math.isfinite(error):  # a pruned layer that diverges is left as it was pruned
            student.module.load_state_dict(student.begun)
    good = [b if x.failure or not math.isfinite(a) else a for x, a, b in zip(students, after, before, strict=True)]
    return sum(before) / len(before), sum(good) / len(good)


def _errors(view: _View, students: list[Student], trainer: Any) -> list[float]:
    """Return each layer's error on the validation images, in evaluation mode."""
    totals, images = [0.0] * len(students), 0
    for student in students:
        student.module.eval()
    with torch.no_grad():
        for batch in trainer.validation_batches():
            maps = view.maps(batch["img"])
            images += len(batch["img"])
            for i, student in enumerate(students):
                totals[i] += len(batch["img"]) * student.evaluate(maps)
    return [total / max(1, images) for total in totals]


class _View:
    """The baseline as the narrow layers see it: inputs and outputs in the channels that are kept."""

    def __init__(self, wide: Any, graph: LayerGraph, kept: list[Kept]) -> None:
        self.wide = wide.eval()
        self.head = len(graph.layers) - 1
        device = next(wide.parameters()).device
        self._kept = [k.index.to(device) for k in kept]
        rows = graph.rows()
        self._single = {r.index: r.source for r in rows[:-1] if isinstance(r.source, int)}
        last = rows[-1].source
        assert isinstance(last, tuple)
        self._levels = [s if s >= 0 else self.head - 1 for s in last]

    def maps(self, images: torch.Tensor) -> _Maps:
        """Run the baseline; return the inputs and outputs of layers with one input, and of the head."""
        with torch.no_grad(), Tap(self.wide, sorted({*self._single, *self._levels})) as tap:
            self.wide.predict(images)
            found: _Maps = {}
            for row, source in self._single.items():
                inputs, output = tap.seen[row]
                before = row - 1 if source < 0 else source
                given = inputs if before < 0 else inputs[:, self._kept[before]]
                found[row] = (given, output[:, self._kept[row]])
            full = [tap.seen[row][1] for row in self._levels]
            levels = [x[:, self._kept[row]] for x, row in zip(full, self._levels, strict=True)]
            found[self.head] = (levels, head_maps(self.wide.model[self.head], full))
        return found
