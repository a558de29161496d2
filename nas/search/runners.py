"""Create the runners of a search: one for each training process, with its device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from nas.data.dataset import Dataset, write_resolved
from nas.device import assign_devices, choose_device, choose_precision
from nas.engines.meter import study_meter
from nas.errors import OptionError
from nas.search.runner import Runner, SearchObserver
from nas.study.study import Study
from nas.workers.parallel import DeviceLock
from nas.workers.process import ProxyWorker


@contextlib.contextmanager
def runners_of(
    study: Study, dataset: Dataset, cache: Path, observer: SearchObserver, trainers: Sequence[ProxyWorker]
) -> Iterator[list[Runner]]:
    """Yield runners that train in parallel, each in its own process.

    Args:
        study: The study whose trials they run.
        dataset: The checked dataset, with the study's fingerprint.
        cache: Folder where training processes may write.
        observer: Called on progress.
        trainers: The training processes; there is one runner for each.

    Raises:
        OptionError: The study measures latencies, which parallel trainings would disturb; or this machine has not the
            device of its recipe, or one that cannot train in its precision.
    """
    s = study.settings
    device = choose_device(s.recipe.device)
    choose_precision(device, s.recipe.amp)
    workers = len(trainers)
    if s.measures_latency:
        if workers > 1:
            raise OptionError(
                f"--workers {workers}: the study {study.location.name!r} measures latencies, which parallel trainings "
                "would disturb; leave --workers out"
            )
        trainers[0].close()  # its imports would disturb the measurement too; the first job starts it again
    meter = study_meter(s.engine, cache / "latency", device, s.deployed_imgsz, s.space) if s.measures_latency else None
    data = write_resolved(dataset, study.scratch)
    shares = {
        fraction: write_resolved(dataset, study.scratch / f"share-{fraction:g}", fraction)
        for fraction in {rung.fraction for rung in s.rungs} - {1.0}
    }
    devices = assign_devices(device, workers, s.recipe.amp)
    device_locks = {device: DeviceLock() for device in devices}
    yield [
        Runner(study, data, trainer, observer.for_worker(k) if workers > 1 else observer, shares=shares, meter=meter,
               device=device, device_lock=device_locks[device])
        for k, (trainer, device) in enumerate(zip(trainers, devices, strict=True))
    ]  # fmt: skip
