"""Each form in which a variant is emitted, from clean processes: trained, reloaded, fused, exported, and distributed.

One variant has all that there is: every module of the tool that the default space offers, and an own one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import ultralytics

from nas import own
from nas.emit.bundle import module_name
from nas.emit.forms import texts_of
from nas.emit.output import write_files
from nas.emit.patch import apply_patch
from nas.emit.selection import files_of_variant
from nas.model.render import ModelFiles
from nas.ops import registry
from nas.space.variant import Variant, parse_swaps

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
SWAPS = [
    "backbone.down_p3=SPConv",
    "neck.c2f_p3=C2f_DCNv4",
    "neck.c2f_n5=MyBlock(kernel=7)",
    "neck.down_n4=DynamicConv",
    "neck.up_p3=DySample",
    "neck.up_p4=CARAFE",
]
KINDS = {"SPConv", "C2f_DCNv4", "MyBlock", "DynamicConv", "DySample", "CARAFE"}
SMALL = {"epochs": 1, "imgsz": 64, "batch": 8, "device": "cpu", "workers": 0, "plots": False, "exist_ok": True}
FORMS = ("plugin", "bundle", "patch", "snippet")

CHECK = """
import sys, numpy, onnxruntime, torch
PREAMBLE
from ultralytics import YOLO
checkpoint, kinds = sys.argv[1], set(sys.argv[2:])
torch.manual_seed(0)
image = torch.rand(1, 3, 64, 64)
def fresh():
    return YOLO(checkpoint).model.float().eval()
found = {type(m).__name__ for m in fresh().modules()}
assert kinds <= found, found
with torch.no_grad():
    expected = fresh()(image)[0]
    fused = fresh().fuse(verbose=False)(image)[0]
torch.testing.assert_close(fused, expected, rtol=1e-3, atol=1e-3)
assert len(YOLO(checkpoint).predict(image, verbose=False)) == 1
onnx = YOLO(checkpoint).export(format="onnx", imgsz=64, opset=17, verbose=False)
session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
(result,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
numpy.testing.assert_allclose(result, expected.numpy(), rtol=1e-3, atol=5e-3)
script = YOLO(checkpoint).export(format="torchscript", imgsz=64, verbose=False)
with torch.no_grad():
    traced = torch.jit.load(script)(image)
traced = traced[0] if isinstance(traced, tuple) else traced
torch.testing.assert_close(traced, expected, rtol=1e-3, atol=5e-3)
print(sorted({m.split(".")[0] for m in sys.modules} & {"nas"}))
"""


@dataclass(frozen=True)
class Emitted:
    """The variant in all forms, and where each process finds what."""

    variant: Variant
    files: ModelFiles
    out: Path
    paths: dict[str, tuple[Path, ...]]
    preambles: dict[str, str]

    def run(self, form: str, *arguments: object, cwd: Path, path: tuple[Path, ...] = (), **environment: str) -> str:
        """Run Python where a form belongs, and return what it prints."""
        given = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, [*path, *self.paths[form]])),
            "NAS_CACHE": str(self.out / "empty cache"),
            "NAS_MODULES": str(self.out),
            "YOLO_OFFLINE": "true",
            "YOLO_AUTOINSTALL": "false",
        }
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True, text=True, cwd=cwd, env=given | environment, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Emitted:
    entries = registry.entries()
    root = tmp_path_factory.mktemp("forms")
    out = root / "out"
    own.load_modules(HERE.parent / "own" / "my_block.py")
    variant = parse_swaps("yolov8", "n", SWAPS)
    files = files_of_variant(variant)
    write_files(texts_of(variant, files, ["yaml", "snippet", "plugin", "bundle"]), out)
    for form in ("patch", "snippet"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(ultralytics.__file__).parent, root / form / "ultralytics", ignore=ignored)
    apply_patch(variant, files, root / "patch")
    _paste(files.snippet, root / "snippet" / "ultralytics" / "nn" / "tasks.py")
    away = root / "away"
    away.mkdir()
    (away / "nas.py").write_text("raise ImportError('this package is not there')")
    paths = {
        "plugin": (),
        "bundle": (away, out / files.name),
        "patch": (away, root / "patch"),
        "snippet": (root / "snippet",),
    }
    preambles = {"plugin": "import nas", "bundle": "", "patch": "", "snippet": ""}
    for name in set(registry.entries()) - set(entries):
        registry.drop(name)
    return Emitted(variant, files, out, paths, preambles)


def _paste(snippet: str, tasks: Path) -> None:
    """Do by hand what a snippet says."""
    imports = re.findall(r"^(from .+ import .+)$", snippet, re.M)
    branch = snippet[snippet.index("        # >>>") : snippet.index("3. Train")].rstrip() + "\n"
    text = tasks.read_text(encoding="utf-8")
    assert text.count("        elif m is Concat:\n") == 1
    text = text.replace("        elif m is Concat:\n", f"{branch}        elif m is Concat:\n")
    place = text.index("\n\n\nclass ")
    tasks.write_text(text[:place] + "\n" + "\n".join(imports) + text[place:], encoding="utf-8")


def _training(emitted: Emitted, form: str, runs: Path, data: Path) -> tuple[list[object], Path]:
    """Return the command line that trains a form for an epoch as its user would, and where that is run."""
    settings = {**SMALL, "project": str(runs), "name": form}
    if form == "bundle":
        script, folder = "train.py", emitted.out / emitted.files.name
    elif form == "plugin":
        script, folder = emitted.out / f"{emitted.files.name}.train.py", runs
    else:
        call = f"YOLO({str(emitted.out / emitted.files.name)!r} + '.yaml').train(data={str(data)!r}, **{settings!r})"
        return ["-c", f"from ultralytics import YOLO; {call}"], runs
    named = {key: settings.pop(key) for key in ("epochs", "imgsz", "batch", "device")}
    options = [text for key, value in named.items() for text in (f"--{key}", value)]
    return [script, "--data", data, *options, *(f"{k}={v}" for k, v in settings.items())], folder


@pytest.fixture(scope="module")
def trained(emitted: Emitted, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return what trains a form once and gives the checkpoint."""
    runs = tmp_path_factory.mktemp("runs")
    absolute = runs / "data.yaml"
    absolute.write_text(f"path: {tiny_data.parent}\n{tiny_data.read_text()}")

    def train(form: str) -> Path:
        checkpoint = runs / form / "weights" / "last.pt"
        if not checkpoint.exists():
            arguments, folder = _training(emitted, form, runs, absolute)
            emitted.run(form, *arguments, cwd=folder)
        return checkpoint

    return train


@pytest.mark.parametrize("form", FORMS)
def test_trains_reloads_and_exports(form, emitted, trained, tmp_path):
    checkpoint = shutil.copy(trained(form), tmp_path)
    code = CHECK.replace("PREAMBLE", emitted.preambles[form])
    said = emitted.run(form, "-c", code, checkpoint, *KINDS, cwd=tmp_path)
    assert said.strip().endswith("['nas']" if form in ("plugin", "snippet") else "[]")


@pytest.mark.parametrize("safe", [False, True])
def test_a_plugin_checkpoint_is_where_a_new_training_starts(safe, emitted, trained, tiny_data, tmp_path):
    """In a process that has imported `nas` and asks it for nothing; safe loading needs the own file first."""
    first = "import nas; nas.load_modules(sys.argv[3])" if safe else "import nas"
    code = f"""
import sys
{first}
from ultralytics import YOLO
model = YOLO(sys.argv[1])
model.train(data=sys.argv[2], **{ {**SMALL, "project": str(tmp_path), "name": "again"}!r})
assert "MyBlock" in {{type(m).__name__ for m in model.model.modules()}}
"""
    environment = {"ULTRALYTICS_SAFE_LOAD": "1"} if safe else {}
    arguments = (trained("plugin"), tiny_data, emitted.out / "my_block.py")
    emitted.run("plugin", "-c", code, *arguments, cwd=tmp_path, **environment)
    assert (tmp_path / "again" / "weights" / "last.pt").exists()


DISTRIBUTED = """
import os, sys
import cpu_ddp
import torch
from ultralytics import YOLO

def keep(trainer):
    sampler = trainer.train_loader.sampler
    seen = {"world": torch.distributed.get_world_size(), "images": list(sampler), "trainer": type(trainer).__module__}
    seen["weights"] = {k: v.detach() for k, v in trainer.model.module.named_parameters()}
    torch.save(seen, f"rank{os.environ['RANK']}.pt")

if __name__ == "__main__":
    IMPORTS
    model = YOLO(sys.argv[1])
    model.add_callback("teardown", keep)
    start = {k: v.detach().clone() for k, v in model.model.named_parameters()}
    torch.save(start, "start.pt")
    fixed = dict(optimizer="SGD", warmup_epochs=0, project=os.getcwd(), name="run")
    model.train(data=sys.argv[2], trainer=TRAINER, **fixed, **SMALL)
"""


@pytest.mark.parametrize("form", ["plugin", "bundle", "of the host"])
def test_two_processes_train_one_model(form, emitted, tiny_data, tmp_path):
    """Over gloo. Ultralytics starts them with the trainer's class, arguments and callbacks, and no model."""
    import torch

    module = module_name(emitted.files)
    imports, trainer = {
        "plugin": ("import nas; nas.load_modules(sys.argv[3])", "nas.Trainer"),
        "bundle": (f"import {module}", f"{module}.Trainer"),
        "of the host": ("import nas; nas.load_modules(sys.argv[3])", "None"),
    }[form]
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tiny_data.parent}\n{tiny_data.read_text()}")
    code = DISTRIBUTED.replace("IMPORTS", imports).replace("TRAINER", trainer).replace("SMALL", repr(SMALL))
    (tmp_path / "script.py").write_text(code)
    model = emitted.out / f"{emitted.files.name}.yaml"
    arguments = ("script.py", model, data, emitted.out / "my_block.py")
    # Own modules travel with the training: neither their file nor a copy can be found here.
    installed = form.replace("of the host", "plugin")
    lost = {"NAS_MODULES": "", "NAS_CACHE": str(tmp_path / "c")}
    emitted.run(installed, *arguments, cwd=tmp_path, path=(HERE / "cpu_ddp",), **lost)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [r["world"] for r in ranks] == [2, 2]
    trainers = {"plugin": "nas.model.trainer", "bundle": module, "of the host": "ultralytics.models.yolo.detect.train"}
    assert {r["trainer"] for r in ranks} == {trainers[form]}
    assert not set(ranks[0]["images"]) & set(ranks[1]["images"])
    assert len(ranks[0]["images"]) + len(ranks[1]["images"]) == 16
    moved = torch.load(tmp_path / "start.pt", weights_only=True)
    for name, weight in ranks[0]["weights"].items():
        assert torch.equal(weight, ranks[1]["weights"][name]), f"{name}: gradients were not shared"
    shared = [n for n, w in ranks[0]["weights"].items() if moved[n].shape == w.shape]
    assert any(not torch.equal(ranks[0]["weights"][n], moved[n]) for n in shared)
    code = f"""
import sys
{emitted.preambles[installed]}
from ultralytics import YOLO
model = YOLO(sys.argv[1])
assert set(sys.argv[2:]) <= {{type(m).__name__ for m in model.model.modules()}}
"""
    emitted.run(installed, "-c", code, tmp_path / "run" / "weights" / "last.pt", *KINDS, cwd=tmp_path)
