"""Fixtures for all tests. No test reads or writes the user's own cache, studies or host settings.

With `pytest -n 2` each process has a cache and fixtures of its own, and one core: torch, and every training that a test
starts, takes as many threads as there are cores, and threads that wait for a core taken by the other process burn it.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from nas.model.offline import go_offline


def _take_one_core(worker: str) -> None:
    """Let this process and all that it starts run on one core: the k-th test process on the k-th there is."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
"""Name of this process where several run the tests, such as gw0."""
if WORKER and hasattr(os, "sched_setaffinity"):
    _take_one_core(WORKER)  # before torch counts them

# Before any test module imports the host, which reads its settings once.
_CACHE = tempfile.TemporaryDirectory(prefix="nas-tests-")
os.environ["NAS_CACHE"] = _CACHE.name
os.environ["YOLO_CONFIG_DIR"] = str(Path(_CACHE.name) / "host")
os.environ.setdefault("NAS_TESTS_SHARED", str(Path(_CACHE.name) / "shared"))  # the first process hands it on
go_offline(Path(_CACHE.name))


pytest_plugins = ["shared_storage"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let `-n 2` hand out whole files, in their order: what a module's fixtures train is trained once."""
    from xdist.scheduler import LoadFileScheduling

    if config.option.dist != "load":  # something else was asked for
        return None
    config.option.loadscopereorder = False  # sorted by their number of tests, the slowest would come last
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of architectures that are newer than the installed Ultralytics."""
    from nas.space.bases import base_names, p2_names

    known = {*base_names(), *p2_names()}
    for item in items:
        made = getattr(item, "callspec", None)
        for value in made.params.values() if made else ():
            if isinstance(value, str) and value.startswith(("yolo12", "yolo26")) and value not in known:
                item.add_marker(pytest.mark.skip(reason=f"the installed Ultralytics has no {value}"))


@contextmanager
def _registry_restored() -> Iterator[None]:
    """Leave the registry with the modules that it had."""
    from nas.ops import registry  # brings torch, which the environment above has to be set for

    before = registry.entries()
    yield
    for name in registry.entries():
        registry.drop(name)
    for entry in before.values():
        registry.replace(entry)


@pytest.fixture(scope="module", autouse=True)
def _modules_of_one_file() -> Iterator[None]:
    """Keep modules that one file of tests registers from the next: a checkpoint registers its own when it is loaded."""
    with _registry_restored():
        yield


@pytest.fixture
def registry_as_before() -> Iterator[None]:
    """Leave the registry after each test as it was before it."""
    with _registry_restored():
        yield


@pytest.fixture(scope="session")
def own_cache() -> Path:
    """Return the folder of this run to which everything goes that is cached, the host's settings included."""
    return Path(_CACHE.name)


@pytest.fixture(scope="session")
def shared_cache() -> Path:
    """Return a folder for what takes long to make and is put in its place whole: all processes of this run share it."""
    folder = Path(os.environ["NAS_TESTS_SHARED"])
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data.yaml of 16 training and 8 validation images of 64 px with coloured boxes of two classes."""
    root = tmp_path_factory.mktemp("tiny")
    rng = random.Random(0)
    for split, count in (("train", 16), ("val", 8)):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGB", (64, 64), tuple(rng.randrange(60, 120) for _ in range(3)))
            lines = []
            for _ in range(rng.randrange(1, 4)):
                side = rng.randrange(14, 30)
                x, y = rng.randrange(64 - side), rng.randrange(64 - side)
                kind = rng.randrange(2)
                box = (x, y, x + side - 1, y + side - 1)
                draw = ImageDraw.Draw(image)
                if kind:
                    draw.ellipse(box, fill=(250, 40, 40))
                else:
                    draw.rectangle(box, fill=(40, 40, 250))
                lines.append(
                    f"{kind} {(x + side / 2) / 64:.6f} {(y + side / 2) / 64:.6f} {side / 64:.6f} {side / 64:.6f}"
                )
            image.save(root / "images" / split / f"{i:02d}.png")
            (root / "labels" / split / f"{i:02d}.txt").write_text("\n".join(lines) + "\n")
    data = root / "data.yaml"
    data.write_text("train: images/train\nval: images/val\nnames: {0: square, 1: disc}\n")
    return data
