"""What tests share: a baseline that has really learnt, trained once a session, and stand-ins that answer at once."""

from __future__ import annotations

import random
import shutil
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image, ImageDraw

import nas.study.storage
from nas.bank.artifacts import ArtifactStore, Baseline
from nas.bank.jobs import Bank, DistilJob, Distilled
from nas.bank.store import SwapBank
from nas.calibration.calibrator import Calibration, Calibrator, full_recipe, proxy_recipe
from nas.calibration.result import CalibrationResult
from nas.data.dataset import load, write_resolved
from nas.errors import ProxyFailure
from nas.space.choice import parse_choice
from nas.space.search_space import SearchSpace
from nas.space.space_file import load_space, read_space
from nas.space.variant import parse_swaps
from nas.study.location import locate
from nas.study.settings import PER_SEED, Settings, current_versions
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.jobs import ProxyJob, ProxyResult
from nas.training.recipe import Recipe, make_recipe
from nas.training.scores import EpochScore, Validation
from nas.workers.process import ProxyWorker

BASE_EPOCHS = 20
LEAST = 0.3
"""mAP50-95 that the baseline has to reach here; it is 0.7 where this was written."""
SPACE = """
slots:
  neck.up_p3: [CARAFE, DySample]
  backbone.down_p3: [SPConv, DynamicConv]
  neck.c2f_n5: [C2f_SPConv]
"""


class RecordingObserver:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.ended: list[tuple] = []

    def baseline_training(self, recipe, seed) -> None:
        self.said.append(f"baseline training of {recipe.epochs}")

    def distilling(self, count) -> None:
        self.said.append(f"distilling {count}")

    def scoring(self, count) -> None:
        self.said.append(f"scoring {count}")

    def epoch(self, score, epochs) -> None:
        pass

    def steps(self, done, total) -> None:
        pass

    def note(self, text) -> None:
        self.said.append(text)

    def for_worker(self, number):
        return self

    def run_ended(self, run, done, position, total, left) -> None:
        self.ended.append((run, done, position, total, left))


@dataclass(frozen=True)
class Taught:
    """A trained baseline, and what is needed to have something inherit from it.

    Attributes:
        yaml: The data.yaml of its images: 64 for training and 32 for validation, of 64 px.
        data: The same, as the host can read it, and `fingerprint` of what it names.
        recipe: Of a proxy that inherits from it and trains nothing.
        baseline: Its tensors and curve.
        worker: A training process that is kept.
        weights: Its maker, in the folder that holds it; nothing else may be made there.
    """

    yaml: Path
    data: Path
    fingerprint: str
    recipe: Recipe
    baseline: Baseline
    worker: ProxyWorker
    weights: ArtifactStore
    maps: dict = field(default_factory=dict)

    @property
    def recipe_of_bank(self) -> Recipe:
        """The recipe of variants that are assembled from a bank, which is distilled in 16 steps."""
        return replace(self.recipe, init="bank", mosaic=0.0, bank_epochs=2)

    def weights_in(self, folder: Path, space: SearchSpace | None = None, **changes) -> ArtifactStore:
        """Return a maker in another folder, with a copy of the baseline."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.weights.folder.glob("baseline-*.*"):
            shutil.copy(file, folder)
        given = {"folder": folder, "observer": RecordingObserver(), "space": space or self.weights.space}
        return replace(self.weights, **{**given, **changes})

    def job(self, *swaps: str, **recipe) -> ProxyJob:
        """Return the validation of a variant as it starts on the baseline, or what a changed recipe makes of it."""
        changed = replace(self.recipe, **recipe)
        variant = parse_swaps("yolov8", "n", swaps)
        return replace(self.weights.job(variant, changed, 0), init=str(self.baseline.file))

    def map_of(self, *swaps: str, bank: SwapBank | None = None, **recipe) -> float:
        """Return the mAP50-95 at the end of `job`, with what a bank holds of the swaps."""
        job = self.job(*swaps, **recipe)
        job = replace(job, overlay=bank.files(job.swaps) if bank else ())
        if job not in self.maps:
            self.maps[job] = self.worker.run(job).curve[-1].validation.map
        return self.maps[job]


@pytest.fixture(autouse=True)
def _full_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a test that stops a search from shortening the timeouts of the tests after it."""
    monkeypatch.setattr(nas.study.storage, "_SHORTENED", threading.Event())


@pytest.fixture(scope="session")
def boxes_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data.yaml of images that a detector learns in seconds: red discs and blue squares of 64 px."""
    root = tmp_path_factory.mktemp("boxes")
    rng = random.Random(0)
    for split, count in (("train", 64), ("val", 32)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGB", (64, 64), tuple(rng.randrange(60, 120) for _ in range(3)))
            draw, rows = ImageDraw.Draw(image), []
            for _ in range(rng.randrange(1, 4)):
                side = rng.randrange(14, 30)
                x, y, disc = rng.randrange(64 - side), rng.randrange(64 - side), rng.randrange(2)
                box = (x, y, x + side - 1, y + side - 1)
                (draw.ellipse if disc else draw.rectangle)(box, fill=(250, 40, 40) if disc else (40, 40, 250))
                rows.append(f"{disc} {(x + side / 2) / 64} {(y + side / 2) / 64} {side / 64} {side / 64}\n")
            image.save(root / "images" / split / f"{i:02d}.png")
            (root / "labels" / split / f"{i:02d}.txt").write_text("".join(rows))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {0: square, 1: disc}\n")
    return root / "data.yaml"


@pytest.fixture(scope="session")
def taught(boxes_data: Path, own_cache: Path, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory):
    """Train the baseline, and keep a process that trains.

    It is trained once for all processes that run the tests: `ArtifactStore` waits for another one that is at it.
    """
    dataset = load(boxes_data)
    data = write_resolved(dataset, tmp_path_factory.mktemp("boxes-resolved"))
    recipe = make_recipe(init="baseline", epochs=0, imgsz=64, batch=8, base_epochs=BASE_EPOCHS, device="cpu")
    with ProxyWorker(own_cache, threads=1) as worker:
        weights = ArtifactStore(
            folder=shared_cache / "taught",
            space=read_space(SPACE, "small.yaml", "small"),
            data=data,
            fingerprint=dataset.fingerprint,
            versions=current_versions(),
            seed=0,
            worker=worker,
            observer=RecordingObserver(),
            scratch=tmp_path_factory.mktemp("taught-scratch"),
        )
        baseline = weights.baseline(recipe)
        assert baseline.map >= LEAST
        yield Taught(boxes_data, data, dataset.fingerprint, recipe, baseline, worker, weights)


@pytest.fixture(scope="session")
def bank(taught: Taught, tmp_path_factory: pytest.TempPathFactory) -> SwapBank:
    """Return the bank of the small space; it is not to be changed."""
    weights = taught.weights_in(tmp_path_factory.mktemp("bank"))
    return weights.bank(taught.recipe_of_bank, 0)


@pytest.fixture(scope="module")
def inside():
    """Let a module train in this very process, and restore torch."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def recorder() -> RecordingObserver:
    """Return a listener that keeps what it hears."""
    return RecordingObserver()


@pytest.fixture
def ranked_study(tmp_path: Path):
    """Return what creates a study of trials: what is swapped, how it ended, mAP50-95 and GFLOPs."""

    def make(
        scores: list[tuple[dict[str, str], str, float, float]],
        calibrated: CalibrationResult | None = None,
        folder: str = "",
        **changes,
    ) -> Study:
        settings = Settings(load_space("quick"), Recipe(), "", "f" * 16, ("a",), (4, 2), 0, 0.02, current_versions())
        if calibrated:
            changes["calibration"] = calibrated.to_json()
        settings = replace(settings, **changes)
        (tmp_path / folder).mkdir(exist_ok=True)
        study = Study.create(locate("s", f"sqlite:///{tmp_path / folder / 's.db'}"), settings, 9)
        for changed, status, score, gflops in scores:
            assignment = {**settings.space.baseline(), **changed}
            variant = settings.space.variant(assignment)
            trial = Trial(-1, variant, assignment, "running", gflops=gflops, stock_gflops=gflops)
            curve = (EpochScore(1, 2.0, 0.1, Validation(score + 0.2, score, 1.0)),)
            study.start(trial).end(
                status=status, curve=curve if status == "done" else (), failure="why" if score == 0 else ""
            )
        return study

    return make


class FakeWorker:
    """In place of a training process: answers with a formula of the variant, the proxy and the seed, at once.

    A variant's effect is 0.02 times its share in `EFFECTS`; a control loses 0.01 by being distilled; from scratch,
    scores are drawn by lot. Class attributes say what has been asked for, and what fails.
    """

    EFFECTS: ClassVar[dict[str, float]] = {
        "CARAFE": 1.0,
        "DySample": 2.0,
        "SPConv": -1.0,
        "DynamicConv": 0.5,
        "C2f_SPConv": -3.0,
        "C2f_DCNv4": 3.0,
    }
    jobs: ClassVar[list[ProxyJob]] = []
    distilled: ClassVar[list[DistilJob]] = []
    fails: ClassVar[dict[str, ProxyFailure]] = {}
    stop_at = 0

    def __init__(self, cache: Path, threads: int | None = None) -> None:
        self.threads = threads

    @classmethod
    def forget(cls) -> None:
        """Take back what was asked for, and every failure."""
        cls.jobs, cls.distilled, cls.fails, cls.stop_at = [], [], {}, 0

    @classmethod
    def effect(cls, job: ProxyJob) -> float:
        """Return what a variant is worth."""
        modules = {parse_choice(label).module for _, label in job.swaps}
        return 0.02 * sum(cls.EFFECTS[m] for m in modules)

    def run(self, job: ProxyJob, on_epoch=None) -> ProxyResult:
        self.jobs.append(job)
        if self.stop_at == len(self.jobs):
            raise KeyboardInterrupt
        for _, label in job.swaps:
            if label in self.fails and not job.save:
                raise self.fails[label]
        recipe = job.recipe
        rng = random.Random(f"{job.seed} {recipe.init} {recipe.epochs} {job.swaps}")
        score = 0.4 + 0.01 * job.seed + self.effect(job)
        if recipe.init == "bank":
            score += -0.01 * len(job.overlay) + rng.uniform(-0.001, 0.001)
        elif recipe.init == "scratch" and recipe.epochs < 10:
            score = rng.uniform(0.1, 0.2)
        else:
            score += rng.uniform(-0.002, 0.002)
        if job.save:
            Path(job.save).write_bytes(b"baseline")
        seen = Validation(score + 0.2, score, 2.0 - score)
        first = 1 if recipe.epochs else 0
        curve = tuple(EpochScore(e, 3.0 - score, 0.1, seen) for e in range(first, recipe.epochs + 1))
        if on_epoch:
            on_epoch(curve[-1])
        return ProxyResult(curve, seen, (355, 355), 6.0 * (recipe.epochs + 1), 6.0)

    def work(self, job: DistilJob, on_progress=None) -> Bank:
        self.distilled.append(job)
        found = []
        for c in job.candidates:
            if c.label in self.fails:
                found.append(Distilled(c, "", 1.0, float("nan"), str(self.fails[c.label])))
                continue
            file = f"{c.slot}-{c.label}.pt"
            Path(job.folder).mkdir(parents=True, exist_ok=True)
            (Path(job.folder) / file).write_bytes(file.encode())
            found.append(Distilled(c, file, 1.0, 0.25))
        drops = {c.slot: 0.0 if c.slot == "neck.down_n5" else 0.1 for c in job.candidates}
        return Bank(0.4, tuple(drops.items()), tuple(found), 60.0)

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    """Let a calibration run on `FakeWorker`."""
    FakeWorker.forget()
    monkeypatch.setattr("nas.calibration.calibrator.ProxyWorker", FakeWorker)
    return FakeWorker


@pytest.fixture
def calibrator(fake_worker: type[FakeWorker], recorder: RecordingObserver, tmp_path: Path):
    """Return what makes a calibration of the quick space, in one folder unless another is given."""
    common = make_recipe(init="bank", epochs=0, imgsz=64, batch=8, base_epochs=20, device="cpu")

    def make(
        variants: int = 6,
        seeds: int = 3,
        full_seeds: int = 2,
        proxies=("bank-0", "scratch-2"),
        workers: int = 1,
        **given,
    ) -> Calibrator:
        folder = tmp_path / "studies" / "quick.calibration"
        calibration = Calibration(
            space=load_space("quick"),
            variants=variants,
            data="",
            fingerprint="f" * 16,
            full=full_recipe(common, 20),
            full_seeds=full_seeds,
            proxies=tuple((name, proxy_recipe(name, common)) for name in proxies),
            seeds=seeds,
            versions=(("swapnas", "1"),),
        )
        calibration = replace(calibration, **given)
        weights = ArtifactStore(
            folder=tmp_path / "studies" / "weights",
            space=calibration.space,
            data=Path("data.yaml"),
            fingerprint=calibration.fingerprint,
            versions=calibration.versions,
            seed=0,
            worker=fake_worker(tmp_path),
            observer=recorder,
            scratch=tmp_path / "run",
            per_seed=calibration.baselines == PER_SEED,
        )
        return Calibrator(calibration, folder, weights, workers, tmp_path, recorder)

    return make
