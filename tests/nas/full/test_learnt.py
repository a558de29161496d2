"""From what a search has learnt to a trained winner: bank, teacher, checkpoints without our classes, the folder."""

from __future__ import annotations

import itertools
import json
import pickletools
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import ultralytics
from click.testing import CliRunner
from learnt_study import filled, learnt_study

from nas.bank.artifacts import baseline_key
from nas.bank.store import SwapBank
from nas.cli import cli
from nas.errors import NasError
from nas.full.arguments import FullOptions
from nas.full.handover import hand_over, rows_of
from nas.full.session import FullTraining
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import named_state
from nas.model.weights_file import read_checkpoint, read_state
from nas.space.variant import Variant
from nas.study.catalog import copy_study
from nas.study.location import locate
from nas.study.settings import PER_SEED, SHARED
from nas.study.study import Study

pytestmark = pytest.mark.slow
SWAPS = {"neck.up_p3": "CARAFE"}


class Quiet:
    def note(self, text: str) -> None:
        pass

    def epoch(self, run, last) -> None:
        pass


@pytest.fixture(scope="module")
def learnt(taught, bank, own_cache, tmp_path_factory) -> Study:
    """Return a study with a trained baseline and a bank; its winner is a variant with CARAFE."""
    return learnt_study(taught, bank, tmp_path_factory.mktemp("learnt"), SWAPS)


@pytest.fixture(scope="module")
def trained(learnt, own_cache):
    """Train baseline and winner for an epoch, from the bank and with the baseline as teacher."""
    given = ("batch=16", "plots=False", "amp=False", "optimizer=AdamW", "lr0=0.0005")
    options = FullOptions(epochs=1, imgsz=64, device="cpu", start="bank", distill=True, arguments=given)
    return FullTraining.open(own_cache, learnt, options, Quiet()).run()


def test_nothing_that_was_learnt_is_lost(learnt, trained, bank):
    base, winner = trained
    assert (base.kind, winner.kind, winner.distilled) == ("baseline", "variant", True)
    assert winner.model.endswith("+distil")
    assert base.inherited == (355, 355)
    assert winner.inherited == (355, 355)
    start = read_checkpoint(Path(winner.folder) / "start" / f"{winner.name}.pt")
    own = named_state(start.tensors, winner.variant.graph())
    for file in bank.files(winner.swaps):
        for key, tensor in read_state(file, "yolov8").items():
            assert torch.equal(own[key], tensor.float()), key
    # From such a start an epoch at a low rate keeps what was learnt.
    assert base.map > 0.3
    assert winner.map > 0.3
    assert "dis_loss" in (Path(winner.folder) / "results.csv").read_text().splitlines()[0]
    assert "dis_loss" not in (Path(base.folder) / "results.csv").read_text().splitlines()[0]


def classes_in(file: Path) -> set[str]:
    """Return the modules that a checkpoint names."""
    with zipfile.ZipFile(file) as archive:
        content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return {str(arg).split()[0].split(".")[0] for code, arg, _ in pickletools.genops(content) if code.name == "GLOBAL"}


def test_emitted_weights_are_those_of_the_study_without_our_classes(learnt, trained, tmp_path):
    winner = trained[1]
    study = ["--study", "s", "--storage", learnt.location.url]
    for which in ("bank", "trained"):
        done = CliRunner().invoke(
            cli, ["emit-yaml", *study, "--best", "--form", "yaml", "--weights", which, "-o", str(tmp_path / which)]
        )
        assert done.exit_code == 0, done.output
    for which in ("bank", "trained"):
        assert "nas" not in classes_in(tmp_path / which / f"{winner.name}.pt")
    start = read_checkpoint(Path(winner.folder) / "start" / f"{winner.name}.pt").tensors
    emitted = read_checkpoint(tmp_path / "bank" / f"{winner.name}.pt").tensors
    assert all(torch.equal(emitted[key], tensor) for key, tensor in start.items())
    host = ultralytics.YOLO(winner.weights).model.float().state_dict()
    loaded = ultralytics.YOLO(str(tmp_path / "trained" / f"{winner.name}.pt"))
    assert loaded.names == {0: "square", 1: "disc"}
    assert all(torch.equal(host[key], tensor) for key, tensor in loaded.model.float().state_dict().items())
    without = CliRunner().invoke(cli, ["emit-yaml", "--swap", "neck.up_p4=CARAFE", "--weights", "bank"])
    assert "give --study NAME" in without.output
    assert without.exit_code == 2


ALONE = """
import sys, torch
import {module}
from ultralytics import YOLO
model = YOLO("best.pt", task="detect")
image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    torch.save(model.model.float().eval()(image)[0], "out.pt")
assert not [m for m in sys.modules if m == "nas" or m.startswith("nas.")]
"""


def test_the_winners_folder_can_be_handed_on(learnt, trained, tmp_path):
    made = hand_over(learnt, rows_of(learnt, trained), ["train", "s", "--distill"])
    winner = trained[1]
    folder = tmp_path / winner.name
    for path, content in made.texts.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    module = f"{winner.name.replace('-', '_')}_modules"
    assert {p.name for p in folder.iterdir()} == {
        "best.pt", "model.onnx", f"{winner.name}.yaml", f"{module}.py", "train.py", "requirements.txt", "README.md",
        "table.md", "table.csv", "commands.txt", "versions.txt",
    }  # fmt: skip
    assert "| `best.pt` | the trained model |" in (folder / "README.md").read_text()
    assert (folder / "commands.txt").read_text().splitlines()[1] == "nas train s --distill"
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(module=module)], cwd=folder, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = ultralytics.YOLO(winner.weights).model.float().eval()(image)[0]
    assert torch.allclose(torch.load(folder / "out.pt"), theirs, atol=1e-3)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    assert np.allclose(found, theirs.numpy(), atol=0.1)  # boxes in pixels


def of_further_seed(study: Study, bank: SwapBank, seed: int, leave_out: str = "") -> str:
    """Store copies of the first seed's baseline and bank as those of another; return the name of the baseline."""
    s, weights = study.settings, study.location.weights
    first, key = (baseline_key(s.recipe, s.fingerprint, s.space, k, s.versions) for k in (0, seed))
    for suffix in (".pt", ".json"):
        shutil.copy(weights / f"baseline-{first}{suffix}", weights / f"baseline-{key}{suffix}")
    folder = shutil.copytree(bank.folder, weights / f"bank-of-seed-{seed}")
    body = json.loads((folder / "bank.json").read_text())
    body["about"] |= {"seed": seed, "baseline": key}
    body["candidates"] = [c for c in body["candidates"] if c["candidate"]["label"] != leave_out]
    (folder / "bank.json").write_text(json.dumps(body))
    return f"baseline-{key}.pt"


def test_each_seed_starts_from_its_own_weights(learnt, bank, own_cache, tmp_path):
    """Where the search has trained a baseline for each."""
    shutil.copytree(learnt.location.weights, tmp_path / "weights")

    def opened(name: str, baselines: str, **options):
        settings = replace(learnt.settings, baselines=baselines)
        study = filled(Study.create(locate(name, f"sqlite:///{tmp_path / 's.db'}"), settings, 2), bank, SWAPS)
        heard = Quiet()
        heard.note = (lines := []).append
        given = FullOptions(**{"start": "bank", "seeds": 4, "device": "cpu", "extras": ("baseline",), **options})
        return lambda: (FullTraining.open(own_cache, study, given, heard), lines), study

    begin, study = opened("own", PER_SEED)
    own = of_further_seed(study, bank, 1)
    of_further_seed(study, bank, 2, leave_out="CARAFE")
    made, lines = begin()
    assert made.starts[1].given.path.name == own
    assert made.starts[1].bank.folder.name == "bank-of-seed-1"
    assert made.starts[2] is made.starts[3] is made.starts[0]
    assert lines == [
        "seed 2 starts from the weights of the study's first seed: its bank of seed 2 lacks neck.up_p3=CARAFE",
        "seed 3 starts from the weights of the study's first seed: it has no baseline of seed 3",
    ]
    from_baseline, _ = opened("inherit", PER_SEED, start="inherit")[0]()
    assert [from_baseline.starts[k].given.path.name == own for k in range(3)] == [False, True, False]
    shared, lines = opened("shared", SHARED)[0]()
    assert lines == []
    assert {id(start) for start in shared.starts.values()} == {id(shared.starts[0])}


def test_trainings_from_other_weights_are_of_another_group(learnt, own_cache, tmp_path):
    """And from scratch, or from a file, of the same."""
    numbers = itertools.count()

    def group(start: str, **recipe) -> str:
        settings = replace(learnt.settings, recipe=replace(learnt.settings.recipe, **recipe))
        name = f"g{next(numbers)}"
        study = Study.create(locate(name, f"sqlite:///{tmp_path / f'{name}.db'}"), settings, 1)
        for file in learnt.location.weights.glob("baseline-*"):
            key = baseline_key(settings.recipe, settings.fingerprint, settings.space, 0, settings.versions)
            (tmp_path / "weights").mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / "weights" / f"baseline-{key}{file.suffix}")
        trial = learnt.trials()[0]
        study.start(replace(trial, number=-1, status="running", curve=())).end(status="done", curve=trial.curve)
        return FullTraining.open(own_cache, study, FullOptions(start=start, device="cpu"), Quiet()).wanted[0].group

    assert group("inherit") == group("inherit")
    assert group("inherit", base_epochs=9) != group("inherit")
    assert group("scratch", base_epochs=9) == group("scratch")


def test_what_is_gone_is_said_in_one_message(learnt, own_cache, tmp_path):
    study = copy_study(learnt, replace(learnt.location, file=tmp_path / "s.db"))
    starts = (("inherit", "the trained baseline of"), ("nothing.pt", "is no file"), ("x", "expected scratch"))
    for start, words in starts:
        with pytest.raises(NasError, match=words):
            FullTraining.open(own_cache, study, FullOptions(start=start, device="cpu"), Quiet())
    (tmp_path / "weights").mkdir()
    for file in learnt.location.weights.glob("baseline-*"):
        shutil.copy(file, tmp_path / "weights")
    study._write({"nas_bank": {**study.bank, "folder": str(tmp_path / "gone")}})
    with pytest.raises(NasError, match=r"the bank of the study 's'.* is gone"):
        FullTraining.open(own_cache, study, FullOptions(start="bank", device="cpu"), Quiet())
    # Weights of another scale, and of another number of classes: the first are refused, the second lose their head.
    torch.save(build(render(Variant("yolov8", "s")).yaml, "s").state_dict(), tmp_path / "s.pt")
    with pytest.raises(NasError, match="of another model or scale than yolov8n"):
        FullTraining.open(own_cache, study, FullOptions(start=str(tmp_path / "s.pt"), device="cpu"), Quiet())
    torch.save(build(render(Variant("yolov8", "n")).yaml, "n").state_dict(), tmp_path / "n.pt")
    made = FullTraining.open(own_cache, study, FullOptions(start=str(tmp_path / "n.pt"), device="cpu"), Quiet())
    assert made.starts[0].given.nc == 80
    assert made.wanted[0].start.startswith("n.pt (")


def test_the_pictures_of_a_report_are_of_trained_weights(learnt, trained):
    from nas.pictures.detections import look

    found = look(learnt, trained, None)
    assert found.origin.startswith("Weights of full training, best.pt of seed 0: 1 epoch at 64 px from bank")
    assert found.title == trained[1].title
    assert found.imgsz == 64
    assert found.base[0] > found.base[1]  # it detects
