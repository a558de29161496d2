"""Studies to report: with everything that a report shows, without most of it, with many variants, and hostile ones."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path

from full_trainings import run_of as full_run
from full_trainings import store as store_full
from PIL import Image

from nas.calibration.result import CalibrationResult
from nas.full.run import FullEpoch, FullScores
from nas.html.source import Source
from nas.pictures.detections import Box, Detections, Shown, Side
from nas.ranking.rank import rank_trials
from nas.space.space_file import load_space
from nas.space.variant import make_yardstick
from nas.study.budget import Confirm
from nas.study.location import StudyLocation
from nas.study.settings import Settings, current_versions
from nas.study.study import Study
from nas.study.trial import Trial
from nas.training.recipe import Recipe
from nas.training.scores import EpochScore, Validation

SWAPS = {
    "neck.up_*=DySample": (0.021, 8.9, 7.4, 0.02),
    "neck.c2f_*=C2f_SPConv": (-0.030, 8.4, 6.8, 0.31),
    "neck.down_*=SPConv": (0.001, 8.6, 7.0, 0.12),
    "neck.up_*=CARAFE": (0.004, 9.2, 7.9, 0.04),
    "neck.c2f_*=C2f_DCNv4": (-0.008, 8.5, 8.1, 0.40),
    "neck.down_*=DynamicConv": (0.002, 8.7, 7.3, 0.09),
    "neck.up_*=DySample neck.down_*=SPConv": (0.020, 8.65, 7.1, 0.12),
}
"""Swaps to the effect on mAP, GFLOPs, milliseconds and distillation error."""
LONG = ("neck.up_*=DySample", "neck.c2f_*=C2f_SPConv", "neck.down_*=SPConv", "neck.up_*=CARAFE")
"""Swaps of the full trainings."""
HOSTILE = "<script>alert('1')</script>\"'&amp;</style>${x}`|深度可分离卷积" + "w" * 200
MACHINE = "a made-up processor, 2 cores"
"""What all trials say that they were trained on."""


def make_settings(**changes) -> Settings:
    recipe = Recipe(epochs=3, init="bank")
    settings = Settings(load_space("quick"), recipe, "", "f" * 16, ("a",), (64, 32), 0, 0.05, current_versions())
    return replace(settings, **changes)


def make_study(folder: Path, settings: Settings, name: str = "s") -> Study:
    return Study.create(
        StudyLocation(name, folder / f"{name}.db"),
        settings,
        9,
        confirm=Confirm(3, 3),
        options={"trials": 9, "epochs": 3},
    )


def run(study: Study, text: str, seed: int, score: float, gflops: float, ms: float | None, error: float | None, **more):
    """Store a finished run."""
    swaps = dict(swap.split("=") for swap in text.split()) if text else {}
    assignment = {**study.settings.space.baseline(), **swaps}
    trial = Trial(-1, study.settings.space.variant(assignment), assignment, "running", seed=seed, machine=MACHINE)
    curve = tuple(
        EpochScore(k, 3.0 / k, 1.0, Validation(score + 0.2, score - 0.1 / k + 0.1 / 3, 1.0)) for k in (1, 2, 3)
    )
    facts = {"gflops": gflops, "stock_gflops": gflops, "params": round(gflops * 3.6e5), "curve": curve, "seconds": 61.0}
    facts |= {"latency_ms": ms, "distillation": error, "status": "done", **more}
    study.start(replace(trial, gflops=gflops)).end(**facts)


def full_scores(score: float) -> FullScores:
    return FullScores(0.7, 0.6, score + 0.1, score)


def full_study(tmp_path: Path) -> Study:
    """Return a study with everything: seeds, latency, bank, calibration with points, levels, a failure."""
    settings = make_settings(latency_on="a made-up CPU", target=640, levels=((0.2, 0.5, 0.3), (0.25, 0.5, 0.25)))
    calibrated = CalibrationResult(
        "bank-4", "map", settings.recipe, 0.002, 0.006, 0.01, 0.62, (0.3, 0.8), "9 variants of quick on made-up data",
        settings.fingerprint, "yolov8n", 16,
    )  # fmt: skip
    study = make_study(tmp_path, replace(settings, calibration=calibrated.to_json()))
    rng = random.Random(1)
    for seed in range(7):
        run(study, "", seed, 0.5 + rng.gauss(0, 0.003), 8.8, 7.2, None)
    for text, (effect, gflops, ms, error) in SWAPS.items():
        for seed in range(3 if abs(effect) != 0.002 else 1):
            run(study, text, seed, 0.5 + effect + rng.gauss(0, 0.001), gflops, ms, error)
    run(
        study,
        "neck.c2f_*=C2f_SPConv neck.up_*=CARAFE",
        0,
        0.0,
        8.6,
        None,
        None,
        status="failed",
        curve=(),
        failure="why",
    )
    drops = {"neck.up_p4": 0.08, "neck.up_p3": 0.2, "neck.down_n4": 0.0, "neck.down_n5": 0.0, "neck.c2f_p4": 0.3}
    body = {"folder": "gone", "teacher_map": 0.5, "drops": drops, "failures": {"neck.c2f_n4=C2f_DCNv4": "not finite"}}
    study._write({"nas_bank": body})
    ids = {t.variant.id: t.describe() for t in study.runs() if t.status == "done"}
    scores = {key: [round(rng.gauss(0.4, 0.01), 5) for _ in range(2)] for key in ids}
    file = tmp_path / "calibration.json"
    points = {"full": scores, "proxies": {"bank-4": {"score": "map", "values": scores}}}
    file.write_text(json.dumps({"points": points, "variants": ids, "chosen": {"proxy": "bank-4"}}))
    study._write({"nas_options": {"trials": 9, "proxy": str(file), "epochs": 3}})
    return study


def trained_study(tmp_path: Path) -> Study:
    """Return the study with everything, with yardsticks and full trainings besides."""
    study, rng = full_study(tmp_path), random.Random(3)
    for width, score, gflops in ((0.22, 0.47, 8.0), (0.2, 0.44, 7.0), (0.245, 0.492, 8.62)):
        for seed in range(3):
            trial = Trial(-1, make_yardstick("yolov8", "n", width), {}, "running", gflops=gflops, seed=seed)
            end = Validation(score + 0.2, score + rng.gauss(0, 0.001), 1.0)
            study.start(trial).end(status="done", curve=(EpochScore(3, 2.0, 0.1, end),), params=round(gflops * 3.6e5))
    runs = []
    done = {t.describe(): t for t in study.runs() if t.status == "done"}
    for text, effect in (("baseline", 0.0), *((text, 0.8 * SWAPS[text.replace("  ", " ")][0]) for text in LONG)):
        for seed in range(3):
            score = 0.6 + effect + rng.gauss(0, 0.002)
            curve = tuple(FullEpoch(k, 0.6, 0.5, 0.7, score * (1 - 0.8**k)) for k in range(1, 21))
            runs.append(full_run(done[text], score, seed, curve=curve, epochs=20, imgsz=640))
    pruned = {"model": "pruned-8.62", "kind": "pruned", "title": "stock, pruned to width 0.245", "gflops": 8.62}
    runs += [replace(runs[seed], **pruned, scores=full_scores(0.585)) for seed in range(3)]
    store_full(study, *runs, replace(runs[4], seed=7, status="failed", scores=None, failure="why not"))
    return study


def made_detections(hostile: str = "") -> Detections:
    """Return made-up detections on two images, without any model."""

    def jpeg(colour: str, side: tuple[int, int]) -> bytes:
        text = io.BytesIO()
        Image.new("RGB", side, colour).save(text, "JPEG")
        return text.getvalue()

    found = Box("found", (60.0, 40.0, 180.0, 160.0), f"disc{hostile}", 0.91)
    missed = Box("missed", (240.0, 60.0, 300.0, 200.0), "square")
    false = Box("false", (10.0, 4.0, 90.0, 30.0), "square", 0.31)
    base, other = Side((found, missed), (1, 1, 0), b""), Side((found, false), (2, 0, 1), b"")
    heats = [replace(side, heat=jpeg("navy", (200, 150))) for side in (base, other)]
    images = (
        Shown(f"one{hostile}.png", (320, 240), jpeg("olive", (320, 240)), heats[0], heats[1]),
        Shown("two.png", (640, 480), jpeg("teal", (440, 330)), replace(base, heat=b""), other),
    )
    return Detections(f"neck.up_*=CARAFE{hostile}", "Made up.", 320, (2, 9), (2, 2, 0), (4, 0, 2), 2, images)


def one_trial(tmp_path: Path) -> Study:
    """Return a study in which only the baseline has finished, and without bank, target and calibration."""
    study = make_study(tmp_path, make_settings(recipe=Recipe(epochs=1)), "one")
    run(study, "", 0, 0.5, 8.8, None, None, curve=(EpochScore(1, 2.0, 0.1, Validation(0.7, 0.5, 1.0)),))
    return study


def hostile_source(study: Study) -> Source:
    """Return the source of a study in which every name is hostile."""
    named = [
        replace(t, assignment={f"{HOSTILE}.a": f"{HOSTILE}(b=1)"}, failure=HOSTILE)
        if t.assignment and t.variant.swaps
        else t
        for t in study.runs()
    ]
    s = study.settings
    study.settings = replace(s, data=f"/{HOSTILE}/data.yaml", classes=(HOSTILE, "猫"), latency_on=HOSTILE)
    return Source(study, tuple(named), tuple(rank_trials(named, s.floor, s.goal, s.prior)), [HOSTILE])


def many(study: Study, trials: int) -> Source:
    """Return the source of a study with many made-up variants, none of which is stored."""
    rng, space = random.Random(2), load_space("full")
    settings = replace(study.settings, space=space)
    found, seen = [], set()
    assignment = space.baseline()
    while len(found) < trials:
        variant = space.variant(assignment)
        if variant.id not in seen and not space.forbids(assignment):
            seen.add(variant.id)
            score, gflops = 0.5 + rng.gauss(0, 0.01) * (len(found) > 0), 8.8 + rng.gauss(0, 0.4) * (len(found) > 0)
            curve = tuple(EpochScore(k, 3.0, 1.0, Validation(score + 0.1, score * k / 4, 1.0)) for k in (1, 2, 3, 4))
            facts = {
                "gflops": gflops,
                "params": 3_000_000,
                "curve": curve,
                "latency_ms": gflops,
                "distillation": rng.random(),
            }
            found.append(Trial(len(found), variant, dict(assignment), "done", **facts))
        swapped = {slot.key: rng.choice(slot.choices) for slot in rng.sample(space.active, 3)}
        assignment = {**space.baseline(), **swapped}
    study.settings = settings
    return Source(study, tuple(found), tuple(rank_trials(found, settings.floor)))
