"""One full training, in a process of its own: ``python -m nas.full.training JOB.json``.

It is what a user's script would do: register the modules, `YOLO(model).train(...)` with the host's own loaders,
augmentation, precision, moving average, early stopping and plots. What is added: a copy of the last checkpoint that is
whole at any moment, resuming from it by the host's ``resume=True``, and the scores in ``result.json``.

No heavy import stands at the top: the environment has to be set before torch and Ultralytics read it.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import LockError, NasError, failure_kind, failure_text
from nas.files import write_atomic
from nas.full.run import ClassScore, FullScores
from nas.locks import open_lock, try_lock
from nas.task.task import DETECT, TASKS, Task

if TYPE_CHECKING:
    from nas.data.sizes import Seen

JOB, RESULT, LOG, LOCK = "job.json", "result.json", "train.log", "lock"
"""Files of a run's folder: what is trained, the scores or the failure, what the host prints, and who trains in it."""
_WHOLE = {"last.pt": "last.whole.pt", "best.pt": "best.whole.pt"}
"""Checkpoints and their copies: the host itself does not write them in one piece."""
_WATCH_S = 1.0
_PATIENCE_S = 60.0
_OF_VALIDATION = (
    "data", "imgsz", "iou", "max_det", "workers", "single_cls", "classes", "conf", "agnostic_nms", "augment"
)  # fmt: skip
"""Arguments that the host's validation at the end of a training has too."""


def train(job: Mapping[str, Any]) -> FullScores:
    """Train, or go on with a training that was stopped, and return the scores of its best weights.

    Args:
        job: ``task`` is that of the model (`nas.task`); ``model`` is a model YAML or a checkpoint to start from;
            ``arguments`` are the host's, with project and name; ``images`` are the validation images; ``threads``
            limits those of a CPU, 0 is the host's choice.
    """
    from nas.model.trainer import TRAINERS

    yolo_of = importlib.import_module("ultralytics").YOLO
    arguments, task = dict(job["arguments"]), TASKS[job["task"]]
    weights = Path(arguments["project"]) / arguments["name"] / "weights"
    epoch = _last_epoch(weights)
    if epoch is not None and not 0 <= epoch < arguments["epochs"] - 1:  # all epochs are done, their validation is not
        return _finish(weights, job)
    model = yolo_of(str(job["model"] if epoch is None else weights / "last.pt"), task=task.name)
    model.add_callback("on_model_save", keep_whole)
    if job["threads"]:
        model.add_callback("on_train_start", lambda _: _take_threads(job["threads"]))
    further = {} if epoch is None else {"resume": True}
    model.train(trainer=TRAINERS[task.name], **arguments, **further)
    found = getattr(getattr(model.trainer, "validator", None), "metrics", None)
    by_class = getattr(getattr(found, task.scores, None), "all_ap", ())
    if not (len(by_class) if task.has_objects else getattr(found, "top1", 0)):  # nothing right; or processes of DDP
        found = _validate(weights / "best.pt", job)
    return _ended(found, weights, job)


def keep_whole(trainer: Any) -> None:
    """Copy the checkpoints that the host has just written, so that they are whole if the next write is cut off."""
    _copy(trainer.last)
    if trainer.best_fitness == trainer.fitness:  # where the host writes best.pt too
        _copy(trainer.best)


def _copy(file: Path) -> None:
    whole = file.with_name(_WHOLE[file.name])
    with contextlib.suppress(OSError):  # a training is worth more than the copy
        shutil.copyfile(file, whole.with_suffix(".part"))
        os.replace(whole.with_suffix(".part"), whole)


def scores_of(found: Any, sizes: Mapping[str, float | None] | None = None, task: Task = DETECT) -> FullScores:
    """Return the scores of the host's metrics of a task, such as ``DetMetrics``."""
    if not task.has_objects:
        return FullScores(None, None, float(found.top5), float(found.top1))
    box = getattr(found, task.scores)
    names = found.names
    classes = []
    for k, number in enumerate(getattr(box, "ap_class_index", ())):
        precision, recall, map50, mean = (float(value) for value in box.class_result(k))
        classes.append(ClassScore(str(names[int(number)]), precision, recall, map50, mean))
    precision, recall, map50, mean = (float(value) for value in box.mean_results())
    return FullScores(precision, recall, map50, mean, tuple(classes), sizes)


def map_by_size_of(weights: Path, job: Mapping[str, Any]) -> dict[str, float | None] | None:
    """Return mAP50-95 by size of object on the validation images, from the host's predictions; None for other tasks."""
    from nas.data.sizes import map_by_size

    if job["task"] != DETECT.name:
        return None
    return map_by_size(_seen(weights, job))


def _seen(weights: Path, job: Mapping[str, Any]) -> list[Seen]:
    """Return labels and predictions of the validation images, in pixels."""
    import numpy as np

    from nas.data.levels import read_rows
    from nas.data.sizes import Seen

    arguments, images = job["arguments"], job["images"]
    model = importlib.import_module("ultralytics").YOLO(str(weights), task=job["task"])
    device = str(arguments.get("device") or "").split(",")[0]
    predicted = detect_each(
        model, images, conf=0.001, iou=arguments.get("iou", 0.7), imgsz=arguments["imgsz"],
        max_det=arguments.get("max_det", 300), **({"device": device} if device else {}),
    )  # fmt: skip
    found = []
    for image, result in zip(images, predicted, strict=True):
        height, width = result.orig_shape
        labels = labels_as_trained(read_rows(Path(image)), arguments)
        labels[:, 1:] *= np.array([width, height, width, height])
        boxes = result.boxes
        parts = (boxes.cls[:, None], boxes.conf[:, None], boxes.xyxy)
        found.append(Seen(labels, np.concatenate([part.cpu().numpy().astype(np.float64) for part in parts], 1)))
    return found


def detect_each(model: Any, images: Iterable[str], **arguments: Any) -> Iterator[Any]:
    """Yield the host's result of each image, one at a time.

    A list of files is one batch to the host, however long: 5,000 images of 640 px would take 25 GB.

    Args:
        model: The host's ``YOLO``.
        images: Absolute paths.
        **arguments: Of its ``predict``.
    """
    for image in images:
        source = glob.escape(image) if "*" in image else image  # which the host takes for a pattern
        yield from model.predict(source, verbose=False, save=False, **arguments)


def labels_as_trained(labels: Any, arguments: Mapping[str, Any]) -> Any:
    """Return labels, (n, 5), as the host reads them: those of ``classes`` alone; with ``single_cls`` all of class 0."""
    import numpy as np

    kept = arguments.get("classes")
    if kept is not None:
        labels = labels[np.isin(labels[:, 0], kept)]
    if arguments.get("single_cls"):
        labels[:, 0] = 0
    return labels


def _last_epoch(weights: Path) -> int | None:
    """Return the epoch of last.pt, counted from 0; -1 if its training has ended, None if there is none to go on with.

    What a killed process has left half written is replaced: last.pt by its copy; best.pt by last.pt, which the host
    writes before it with the same content, or after the last epoch, when it reduces both to their models, by its copy.
    """
    torch = importlib.import_module("torch")
    last, best = weights / "last.pt", weights / "best.pt"
    whole, whole_best = (weights / name for name in _WHOLE.values())

    def epoch_of(path: Path) -> int | None:
        with contextlib.suppress(Exception):  # whatever a damaged file raises
            return int(torch.load(path, map_location="cpu", weights_only=False)["epoch"])
        return None

    if epoch_of(last) is None:
        if epoch_of(whole) is None:
            return None
        os.replace(whole, last)
    epoch = epoch_of(last)
    if best.exists() and epoch_of(best) is None:
        shutil.copyfile(whole_best if epoch == -1 and epoch_of(whole_best) is not None else last, best)
    return epoch


def _finish(weights: Path, job: Mapping[str, Any]) -> FullScores:
    """Do what is left after the last epoch: reduce the checkpoints to their models, and validate the best."""
    strip = importlib.import_module("ultralytics.utils.torch_utils").strip_optimizer
    for name in ("last.pt", "best.pt"):
        strip(weights / name)
    return _ended(_validate(weights / "best.pt", job), weights, job)


def _ended(found: Any, weights: Path, job: Mapping[str, Any]) -> FullScores:
    """Return the scores of a training that has ended, whose copies of checkpoints are no longer needed."""
    scores = scores_of(found, map_by_size_of(weights / "best.pt", job), TASKS[job["task"]])
    for name in _WHOLE.values():
        (weights / name).unlink(missing_ok=True)
    return scores


def _validate(weights: Path, job: Mapping[str, Any]) -> Any:
    """Validate as the host does at the end of a training: with batches of twice the size."""
    arguments = job["arguments"]
    known = {key: arguments[key] for key in _OF_VALIDATION if key in arguments}
    batch = arguments.get("batch", 16)
    batch = 2 * batch if isinstance(batch, int) and batch > 0 else 16
    device = str(arguments.get("device") or "").split(",")[0]
    model = importlib.import_module("ultralytics").YOLO(str(weights), task=job["task"])
    place = {"project": str(weights.parent), "name": "val", "exist_ok": True}
    return model.val(**known, **place, batch=batch, plots=False, **({"device": device} if device else {}))


def _take_threads(count: int) -> None:
    importlib.import_module("torch").set_num_threads(count)


def _die_with_parent(parent: int) -> None:
    """End this process and those that it started, such as loaders and ranks, when its parent has ended."""
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    if hasattr(os, "killpg"):
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os._exit(1)


def _wait_for(lock: Any, folder: Path) -> None:
    """Wait until no other process trains in a folder: one whose parent was killed lives on for a moment.

    Raises:
        LockError: One still does after `_PATIENCE_S`.
    """
    until = time.monotonic() + _PATIENCE_S
    while not try_lock(lock):
        if time.monotonic() > until:
            raise LockError(f"another process has trained in {folder} for {_PATIENCE_S:g} s: end it, and start again")
        time.sleep(0.1)


def main(file: str) -> int:
    """Train what a job file says, and write the result next to it; return the exit code."""
    path = Path(file)
    job = json.loads(path.read_text(encoding="utf-8"))
    if os.name != "nt":  # there the parent's number does not change when it ends
        threading.Thread(target=_die_with_parent, args=(job["parent"],), daemon=True).start()
    from nas.model.offline import go_offline

    go_offline(Path(job["cache"]))
    os.environ["YOLO_VERBOSE"] = "true"
    try:
        lock = open_lock(path.with_name(LOCK))  # held until this process ends
        _wait_for(lock, path.parent)
        from nas.model.host import register
        from nas.own import use
        from nas.own.files import ModuleFile

        use([ModuleFile(**module) for module in job["modules"]])
        register()
        result: dict[str, Any] = {"scores": asdict(train(job))}
    except NasError as error:
        result = {"failure": str(error), "kind": failure_kind(error)}
    except Exception as error:  # whatever the host raises: its message, and the traceback in the log
        importlib.import_module("traceback").print_exc()
        result = {"failure": failure_text(error), "kind": failure_kind(error)}
    write_atomic(path.with_name(RESULT), json.dumps(result))
    return 0 if "scores" in result else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
