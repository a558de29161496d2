"""Distilling a bank, in the training process: every candidate of every slot learns its layer from the trained baseline.

One pass of the frozen baseline gives each slot's input and output; each candidate regresses the output with an
optimizer of its own, so that what one does touches no other. Block-wise distillation: Li et al., "Blockwisely
Supervised Neural Architecture Search with Knowledge Distillation" (DNA, arXiv:1911.13053); the shared pass of the
teacher for all candidates of all layers: Molchanov et al., "LANA: Latency Aware Network Acceleration" (HANT,
arXiv:2107.10624).

Everything random depends on the seed and the step alone: an interrupted distillation goes on where its last save
stands, and a bank that is extended later is the bank that would have been made at once.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nas.bank.jobs import CONTROL, Bank, Candidate, DistilJob, Distilled
from nas.bank.student import Learner, Tap
from nas.errors import ProxyError
from nas.space.variant import AFTER
from nas.training.jobs import ProxyJob

LEAST_MAP = 0.02
"""mAP50-95 below which a baseline has not learnt what it is to teach."""
_SAVE_EVERY_S = 30.0
_WARMUP_STEPS = 10


def distil(job: DistilJob, threads: int, report: Callable[[tuple[int, int]], None]) -> Bank:
    """Distil candidates, or go on with it, and write a file of named tensors for each that succeeds.

    Args:
        job: What to distil.
        threads: CPU threads.
        report: Called after each step, with the steps done and all steps.

    Raises:
        ProxyError: The baseline has not learnt, so what it does would not be worth copying; or every one of several
            candidates raises an error, so it is hardly theirs.
    """
    import torch

    from nas.training.train import open_trainer, scratch_folder

    started = time.process_time()
    recipe = job.proxy.recipe
    with scratch_folder(job.proxy) as folder:
        trainer = open_trainer(job.proxy, threads, folder)
        teacher = trainer.ema.ema
        teacher_map = trainer.validate_now().map
        if teacher_map < LEAST_MAP:
            raise ProxyError(
                f"the baseline has not learnt: its mAP50-95 is {teacher_map:.3f}, and nothing can be distilled from it "
                f"below {LEAST_MAP}; train it longer (--base-epochs), or bring one that is trained (--weights)"
            )
        learners = [_learner(c, job.proxy, teacher, trainer.data["nc"]) for c in job.candidates]
        dataset = trainer.augmented()
        per_epoch = math.ceil(len(dataset) / recipe.batch)
        steps = recipe.bank_epochs * per_epoch
        saved = Path(job.folder) / f"progress-{_digest(*(f'{c.slot}={c.label}' for c in job.candidates))}.pt"
        done, spent = _restore(saved, learners, steps)
        started -= spent
        if not done:
            for learner, error in zip(learners, _errors(teacher, learners, trainer), strict=True):
                learner.start_error = error
        last = time.monotonic()
        with Tap(teacher, _rows(learners)) as tap:
            for step in range(done, steps):
                batch = trainer.preprocess_batch(_batch(dataset, recipe.batch, job.proxy.seed, step, per_epoch))
                with torch.no_grad():
                    teacher.predict(batch["img"])
                lr = _rate(step, steps, recipe.bank_lr0)
                for learner in learners:
                    learner.step(tap.seen, lr)
                if time.monotonic() - last > _SAVE_EVERY_S:
                    _save(saved, {"step": step + 1, "spent": time.process_time() - started, "learners": learners})
                    last = time.monotonic()
                report((step + 1, steps))
        errors = [
            learner.settle(error) for learner, error in zip(learners, _errors(teacher, learners, trainer), strict=True)
        ]
        if len(learners) > 1 and all(learner.raised for learner in learners):
            saved.unlink(missing_ok=True)
            raise ProxyError(f"every candidate failed; the last, {learners[-1].name}: {learners[-1].failure}")
        found = tuple(_finish(x, error, job) for x, error in zip(learners, errors, strict=True))
        drops = tuple((slot, teacher_map - value) for slot, value in _without(teacher, learners, trainer))
        saved.unlink(missing_ok=True)
        return Bank(teacher_map, drops, found, time.process_time() - started)


def _learner(candidate: Candidate, proxy: ProxyJob, teacher: Any, nc: int) -> Learner:
    """Build a candidate as the model that will use it builds it, with initial values of its own seed."""
    import torch

    from nas.model.host import build
    from nas.model.render import render
    from nas.model.transfer import begin
    from nas.space.variant import Variant

    torch.manual_seed(_draw(proxy.seed, candidate.slot, candidate.label))
    is_control = candidate.label == CONTROL
    variant = Variant(proxy.base, proxy.scale, () if is_control else ((candidate.slot, candidate.label),))
    graph = variant.graph()
    names = graph.names
    inserted = candidate.slot.startswith(AFTER)
    row = names.index(candidate.slot.removeprefix(AFTER)) + inserted
    sources = () if inserted or is_control else graph.layers[row].sources[1:]  # the layer itself has one source
    module: Any = build(render(variant).yaml, proxy.scale, nc).model[row]  # type: ignore[index]  # the host's list
    begun = False
    if not is_control and proxy.recipe.start == "near":
        begun = begin(module, None if inserted else teacher.model[row])
    if proxy.recipe.channels_last:
        module = module.to(memory_format=torch.channels_last)
    device = next(teacher.parameters()).device
    guide = names.index(sources[0]) if sources else None
    return Learner(candidate, module.to(device).train(), names[row], row, guide, begun, proxy.recipe.bank_lr0)


def _rows(learners: list[Learner]) -> list[int]:
    """Return the rows of the teacher that learners look at."""
    return sorted({row for learner in learners for row in learner.rows})


def _errors(teacher: Any, learners: list[Learner], trainer: Any) -> list[float]:
    """Return each candidate's error on the validation images, in evaluation mode."""
    import torch

    for learner in learners:
        learner.module.eval()
    totals = [0.0] * len(learners)
    images = 0
    with torch.no_grad(), Tap(teacher, _rows(learners)) as tap:
        for batch in trainer.validation_batches():
            teacher.predict(batch["img"])
            count = len(batch["img"])
            images += count
            for i, learner in enumerate(learners):
                totals[i] += count * learner.look(tap.seen)
    return [total / max(1, images) for total in totals]


def _finish(learner: Learner, error: float, job: DistilJob) -> Distilled:
    """Write a candidate's tensors, unless they are of no use."""
    c = learner.candidate
    failure = learner.failure
    if not failure and not math.isfinite(error):
        failure = "its distillation diverged: the output is no longer a number"
    if failure:
        return Distilled(c, "", learner.start_error, error, failure, learner.raised)
    name = f"{_digest(c.slot, c.label)}.pt"
    state = {f"{learner.name}:{k}": v.detach().cpu().clone() for k, v in learner.module.state_dict().items()}
    _save(Path(job.folder) / name, state)
    return Distilled(c, name, learner.start_error, error)


def _without(teacher: Any, learners: list[Learner], trainer: Any) -> Iterator[tuple[str, float]]:
    """Give, for each slot, the baseline's mAP50-95 while that layer puts out only its channels' means."""
    import torch

    slots = {x.candidate.slot: x.row for x in learners if not x.inserted}
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


def _batch(dataset: Any, size: int, seed: int, step: int, per_epoch: int) -> Any:
    """Return the batch of a step, which depends on the seed and the step alone."""
    import numpy as np
    import torch

    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(_draw(seed, "order", epoch)))
    chosen = order[place * size : (place + 1) * size].tolist()
    if len(chosen) == 1:  # the statistics of a single image may not be defined
        chosen += order[:1].tolist()
    drawn = _draw(seed, "batch", step)
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)
    return dataset.collate_fn([dataset[i] for i in chosen])


def _rate(step: int, steps: int, lr0: float) -> float:
    """Return a step's learning rate: a short linear warm-up, then half a cosine down to nothing."""
    return lr0 * min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _draw(*what: object) -> int:
    """Return a seed for something by its name."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:4], "big")


def _digest(*what: str) -> str:
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]


def _save(path: Path, body: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    import torch

    if "learners" in body:
        body = {**body, "learners": [x.state() for x in body["learners"]]}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    torch.save(body, beside)
    beside.replace(path)


def _restore(path: Path, learners: list[Learner], steps: int) -> tuple[int, float]:
    """Take up a save, if there is one that fits; return its step and the CPU seconds spent until then."""
    import torch

    if not path.exists():
        return 0, 0.0
    try:
        body = torch.load(path, map_location="cpu", weights_only=True)
        if body["step"] > steps or len(body["learners"]) != len(learners):
            return 0, 0.0
        kept = [copy.deepcopy(x.state()) for x in learners]
        try:
            for learner, state in zip(learners, body["learners"], strict=True):
                learner.restore(state)
        except Exception:  # whatever loading raises: some learners may have taken up their part already
            for learner, state in zip(learners, kept, strict=True):
                learner.restore(state)
            raise
        return int(body["step"]), float(body["spent"])
    except Exception:  # a damaged file is as good as none
        return 0, 0.0
