"""Block-wise distillation of a bank, in the training process: candidates learn their layers from the trained baseline.

One forward pass of the frozen baseline (the teacher) gives each slot's input and output; each candidate (a student)
regresses the output with its own optimizer, so that candidates do not affect each other. Block-wise distillation: Li
et al., "Blockwisely Supervised Neural Architecture Search with Knowledge Distillation" (DNA, arXiv:1911.13053); the
shared pass of the teacher for all candidates of all layers: Molchanov et al., "LANA: Latency Aware Network
Acceleration" (HANT, arXiv:2107.10624).

Everything random depends on the seed and the step only: an interrupted distillation resumes from its last checkpoint
with identical results, and a bank that is extended later is identical to one that is distilled at once.
"""

from __future__ import annotations

import copy
import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.bank.jobs import CONTROL, Bank, Candidate, DistilJob, Distilled, least_teacher
from nas.bank.seen import inputs_of, starts_from_images
from nas.bank.student import Student, Tap
from nas.data.assigned import count_assigned
from nas.errors import BuildError, ProxyError
from nas.files import replacing
from nas.model.host import build, check_head
from nas.model.render import render
from nas.model.transfer import decoded, start_decoded, warm_start_layer
from nas.ops.heads import is_head
from nas.ops.registry import Input
from nas.ops.stages import own_state
from nas.space.choice import AFTER
from nas.space.variant import Variant
from nas.training.jobs import ProxyJob
from nas.training.proxy_trainer import ProxyTrainer, collated
from nas.training.train import open_trainer

_SAVE_EVERY_S = 30.0
_WARMUP_STEPS = 10


def distil(job: DistilJob, threads: int, report: Callable[[tuple[int, int]], None]) -> Bank:
    """Distil candidates, resuming from a checkpoint, and write a file of named tensors for each that succeeds.

    Args:
        job: The distillation.
        threads: CPU threads.
        report: Called after each step, with the steps done and all steps.

    Raises:
        ProxyError: The baseline has not learnt enough to be a teacher.
    """
    started = time.process_time()
    recipe = job.proxy.recipe
    with open_trainer(job.proxy, threads) as trainer:
        trainer.set_up()
        teacher = trainer.ema.ema
        teacher_map = trainer.validate_now().map
        if teacher_map < (least := least_teacher(trainer.of_task, trainer.data["nc"])):
            raise ProxyError(
                f"the baseline has not learnt: its {trainer.of_task.metric} is {teacher_map:.3f}, and nothing can be "
                f"distilled from it below {least:g}; train it longer (--base-epochs), or bring one that is trained "
                "(--weights)"
            )
        dataset = trainer.augmented()
        per_epoch = math.ceil(len(dataset) / recipe.batch)

        def images(step: int) -> Any:
            return trainer.preprocess_batch(batch_of_step(dataset, recipe.batch, job.proxy.seed, step, per_epoch))[
                "img"
            ]

        inputs = inputs_of(teacher, _rows_seen(job), images)
        students, found = list[Student](), dict[Candidate, Distilled]()
        for candidate in job.candidates:
            try:
                students.append(_student(candidate, job.proxy, teacher, trainer.data, inputs))
            except BuildError as failure:
                found[candidate] = Distilled(candidate, "", math.nan, math.nan, str(failure))
        del inputs
        steps = recipe.bank_epochs * per_epoch
        saved = Path(job.folder) / f"progress-{_digest(*(f'{c.slot}={c.label}' for c in job.candidates))}.pt"
        done, spent = _restore(saved, students, steps)
        started -= spent
        if not done:
            for student, error in zip(students, _errors(teacher, students, trainer), strict=True):
                student.start_error = error
        last = time.monotonic()
        with Tap(teacher, _rows(students)) as tap:
            for step in range(done, steps if students else 0):
                batch = trainer.preprocess_batch(batch_of_step(dataset, recipe.batch, job.proxy.seed, step, per_epoch))
                with torch.no_grad():
                    teacher.predict(batch["img"])
                lr = learning_rate(step, steps, recipe.bank_lr0)
                for student in students:
                    student.step(tap.seen, lr)
                if time.monotonic() - last > _SAVE_EVERY_S:
                    states = [student.state() for student in students]
                    _save(saved, {"step": step + 1, "spent": time.process_time() - started, "learners": states})
                    last = time.monotonic()
                report((step + 1, steps))
        errors = [
            student.settle(error) for student, error in zip(students, _errors(teacher, students, trainer), strict=True)
        ]
        found |= {x.candidate: _finish(x, error, job) for x, error in zip(students, errors, strict=True)}
        slots = {x.candidate.slot: x.row for x in students if not x.inserted and not x.is_head}
        drops = tuple((slot, teacher_map - value) for slot, value in ablated(teacher, slots, trainer))
        saved.unlink(missing_ok=True)
        with torch.no_grad():
            levels = tuple(count_assigned(trainer).items())
        return Bank(teacher_map, drops, tuple(found[c] for c in job.candidates), time.process_time() - started, levels)


def _rows_seen(job: DistilJob) -> set[int]:
    """Return the rows of the layers whose inputs candidates start from."""
    names = Variant(job.proxy.base, job.proxy.scale).graph().names
    near = job.proxy.recipe.start == "near"
    return {names.index(c.slot) for c in job.candidates if near and starts_from_images(c)}


def _student(
    candidate: Candidate, proxy: ProxyJob, teacher: Any, data: Mapping[str, Any], inputs: Mapping[int, Input]
) -> Student:
    """Build a candidate as the model that will use it builds it, with initial values of its own seed.

    Args:
        candidate: The candidate.
        proxy: The teacher's job.
        teacher: The teacher's model.
        data: What the host knows of the data: ``nc``, and ``kpt_shape`` of poses.
        inputs: Row to the input of the teacher's layer on training images, where candidates start from it.
    """
    torch.manual_seed(_seed_of(proxy.seed, candidate.slot, candidate.label))
    is_control = candidate.label == CONTROL
    variant = Variant(proxy.base, proxy.scale, () if is_control else ((candidate.slot, candidate.label),))
    graph = variant.graph()
    names = graph.names
    inserted = candidate.slot.startswith(AFTER)
    row = names.index(candidate.slot.removeprefix(AFTER)) + inserted
    model: Any = build(render(variant).yaml, proxy.scale, data["nc"], data.get("kpt_shape"))
    module = model.model[row]
    if not is_head(module):
        check_head(model, teacher)
    one_map = inserted or is_control or is_head(module)  # the layer itself has one source, a head takes its maps
    sources = () if one_map else graph.layers[row].sources[1:]
    begun = False
    narrow = variant.narrowed == (candidate.slot,)
    if narrow:
        module = decoded(module, variant, candidate.slot)
    if narrow and proxy.recipe.start == "near":
        begun = start_decoded(module, variant, candidate.slot, teacher, inputs.get(row))
    elif not is_control and proxy.recipe.start == "near":
        begun = warm_start_layer(module, None if inserted else teacher.model[row], inputs.get(row))
    if proxy.recipe.channels_last:
        module = module.to(memory_format=torch.channels_last)
    device = next(teacher.parameters()).device
    guide = names.index(sources[0]) if sources else None
    return Student(candidate, module.to(device).train(), names[row], row, guide, begun, proxy.recipe.bank_lr0)


def _rows(students: list[Student]) -> list[int]:
    """Return the rows of the teacher that students need."""
    return sorted({row for student in students for row in student.rows})


def _errors(teacher: Any, students: list[Student], trainer: ProxyTrainer) -> list[float]:
    """Return each candidate's error on the validation images, in evaluation mode."""
    for student in students:
        student.module.eval()
    totals = [0.0] * len(students)
    images = 0
    with torch.no_grad(), Tap(teacher, _rows(students)) as tap:
        for batch in trainer.validation_batches():
            teacher.predict(batch["img"])
            count = len(batch["img"])
            images += count
            for i, student in enumerate(students):
                totals[i] += count * student.evaluate(tap.seen)
    return [total / max(1, images) for total in totals]


def _finish(student: Student, error: float, job: DistilJob) -> Distilled:
    """Write a candidate's tensors, unless it has failed."""
    c = student.candidate
    failure = student.failure
    if not failure and not math.isfinite(error):
        failure = "its distillation diverged: the output is no longer a number"
    if failure:
        return Distilled(c, "", student.start_error, error, failure, student.raised)
    name = f"{_digest(c.slot, c.label)}.pt"
    state = {f"{student.name}:{k}": v.detach().cpu().clone() for k, v in own_state(student.module).items()}
    _save(Path(job.folder) / name, state)
    return Distilled(c, name, student.start_error, error)


def ablated(teacher: Any, slots: Mapping[str, int], trainer: ProxyTrainer) -> Iterator[tuple[str, float]]:
    """Yield each slot with the baseline's mAP50-95 while that layer's output is replaced by its channel means.

    Args:
        teacher: The baseline's model.
        slots: Layers by name, and their rows.
        trainer: Set up, with the baseline's weights.
    """
    sums: dict[int, Any] = {}
    batches = 0
    with torch.no_grad(), Tap(teacher, sorted(set(slots.values()))) as tap:
        for batch in trainer.validation_batches():
            teacher.predict(batch["img"])
            batches += 1
            for row, (_, output) in tap.seen.items():
                sums[row] = sums.get(row, 0) + output.float().mean((0, 2, 3), keepdim=True)
    for slot, row in slots.items():
        mean = sums[row] / batches

        def hook(_module: Any, _inputs: Any, output: Any, mean: Any = mean) -> Any:
            return mean.to(output.dtype).expand_as(output).contiguous()

        handle = teacher.model[row].register_forward_hook(hook)
        try:
            yield slot, trainer.validate_now().map
        finally:
            handle.remove()


def batch_of_step(dataset: Any, size: int, seed: int, step: int, per_epoch: int) -> Any:
    """Return the batch of a step, which depends on the seed and the step only."""
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(_seed_of(seed, "order", epoch)))
    chosen = order[place * size : (place + 1) * size].tolist()
    if len(chosen) == 1:  # the statistics of a single image may not be defined
        chosen += order[:1].tolist()
    drawn = _seed_of(seed, "batch", step)
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)
    return collated(dataset, [dataset[i] for i in chosen])


def learning_rate(step: int, steps: int, lr0: float) -> float:
    """Return a step's learning rate: a short linear warm-up, then cosine decay to zero."""
    return lr0 * min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _seed_of(*what: object) -> int:
    """Return a random seed derived from names."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:4], "big")


def _digest(*what: str) -> str:
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]


def _save(path: Path, body: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        torch.save(body, temporary)


def _restore(path: Path, students: list[Student], steps: int) -> tuple[int, float]:
    """Restore the students from a checkpoint that fits, if any; return its step and the CPU seconds spent so far."""
    if not path.exists():
        return 0, 0.0
    try:
        body = torch.load(path, map_location="cpu", weights_only=True)
        if body["step"] > steps or len(body["learners"]) != len(students):
            return 0, 0.0
        kept = [copy.deepcopy(x.state()) for x in students]
        try:
            for student, state in zip(students, body["learners"], strict=True):
                student.restore(state)
        except Exception:  # loading may raise anything, and some students may be restored already
            for student, state in zip(students, kept, strict=True):
                student.restore(state)
            raise
        return int(body["step"]), float(body["spent"])
    except Exception:  # a damaged file counts as none
        return 0, 0.0
