"""What people bring: YAMLs without a scale letter, in other encodings, with mistakes; forks with own modules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ultralytics
from click.testing import CliRunner, Result
from PIL import Image

from nas.cli import cli

PACKAGE = Path(ultralytics.__file__).parent
STOCK = (PACKAGE / "cfg/models/v8/yolov8.yaml").read_text()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_a_yaml_without_a_letter_costs_its_first_scale():
    Path("mymodel.yaml").write_text(STOCK)
    found, small = run("cost", "mymodel.yaml"), run("cost", "mymodel.yaml", "--scale", "s")
    assert found.exit_code == small.exit_code == 0
    assert "parameters      3,157,200" in found.stdout
    assert "no scale letter in the file's name: its first, n, as Ultralytics does" in found.stderr
    assert "parameters      11,166,560" in small.stdout
    assert small.stderr == ""
    assert "its scales: n, s, m, l, x" in run("cost", "mymodel.yaml", "--scale", "q").stderr


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        (
            "SPPF, [1024, 5]",
            "GhostConvv, [1024, 5]",
            ["22: row 9: GhostConvv is not registered (did you mean GhostConv"],
        ),
        ("  - [-1, 1, SPPF", "\t- [-1, 1, SPPF", ["line 22", "spaces, not tabs"]),
        ("nc: 80", "# none", ["1: no nc, the number of classes", "add `nc: 80`"]),
        ("Detect, [nc]", "Depth, [256]", ["Depth is Ultralytics' head for depth estimation; nas searches models of"]),
        ("Detect, [nc]", "SemanticSegment, [nc]", ["SemanticSegment is Ultralytics' head for semantic segmentation"]),
    ],
)
def test_cost_says_what_is_wrong_and_where(old, new, messages):
    assert old in STOCK
    lines = STOCK.replace(old, new, 1).splitlines()
    row = next((i for i, line in enumerate(lines, 1) if new.strip("\t -[") in line), 1)
    Path("yolov8n-mine.yaml").write_text("\n".join(lines))
    found = run("cost", "yolov8n-mine.yaml")
    assert found.exit_code == 1
    for message in messages:
        assert message.replace("22", str(row)) in found.stderr
    assert "KeyError" not in found.stderr


def test_text_that_the_host_evaluates_is_read_as_it_does():
    Path("yolov8n-mine.yaml").write_text(STOCK.replace("C2f, [128, True]", 'C2f, [128, "True"]'))
    found = run("import", "yolov8n-mine.yaml")
    assert (found.exit_code, "the stock model" in found.stdout) == (0, True)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("# 注意力\n".encode("gbk") + STOCK.encode(), "not UTF-8, read as GBK"),
        (STOCK.encode("utf-16"), "read as UTF-16"),
    ],
)
def test_other_encodings_are_read_with_a_word(content, word):
    Path("yolov8n-mine.yaml").write_bytes(content)
    for command in ("import", "cost"):
        found = run(command, "yolov8n-mine.yaml")
        assert found.exit_code == 0
        assert word in found.stderr
        assert "UTF-8" in found.stderr


def attended(row: str) -> str:
    """Return YOLOv8's YAML with a row after SPPF, and the numbers behind it moved."""
    lines = [line.replace("[-1, 9]", "[-1, 10]").replace("[-1, 12]", "[-1, 13]") for line in STOCK.splitlines()]
    text = "\n".join(lines).replace("[15, 18, 21]", "[16, 19, 22]")
    return text.replace("SPPF, [1024, 5]]", f"SPPF, [1024, 5]]\n  - [-1, 1, {row}]")


def test_a_number_that_is_text_to_yaml_is_a_number():
    Path("yolov8n-mine.yaml").write_text(attended("SimAM, [1e-4]"))
    found = run("import", "yolov8n-mine.yaml")
    assert found.exit_code == 0, found.stderr
    assert "after backbone.sppf=SimAM" in found.stdout
    assert run("cost", "yolov8n-mine.yaml").exit_code == 0


def test_an_argument_with_another_meaning_is_not_taken():
    for row in ("CBAM, [7]", "ECA, [3]"):
        Path("yolov8n-mine.yaml").write_text(attended(row))
        found = run("import", "yolov8n-mine.yaml")
        assert found.exit_code == 1
        assert re.search(r"yolov8n-mine.yaml:\d+: row 10: \w+ with \[\d\]: by position", found.stderr)
        assert "this is the cost of the registered one" in run("cost", "yolov8n-mine.yaml").stderr


def test_classes_of_the_host_are_listed():
    found = run("ops", "--host")
    assert found.exit_code == 0
    assert re.search(r"host:HGBlock\s+\(c1, cm, c2, k, n.*ultralytics/nn/modules/block.py:\d+", found.stdout)
    assert not re.search(r"host:(Segment|Detect|DetectionModel|v8DetectionLoss|nn)\s", found.stdout)
    assert '"name": "AIFI"' in run("ops", "--host", "AIFI", "--json").stdout
    assert "has no class 'AIF'; did you mean AIFI" in run("ops", "--host", "AIF").stderr


def test_a_class_of_the_host_is_proved_emitted_and_costed():
    Path("mine.yaml").write_text(
        "base: yolov8\nslots:\n  neck.c2f_*: [keep, {host:C3: [channels, false]}]\n"
        "  after backbone.sppf: [none, host:nn.Dropout(0.1)]\n"
    )
    assert "5 choices build, run at two sizes and keep their layer's shape" in run("space", "check", "mine.yaml").stdout
    made = run("emit-yaml", "--swap", "neck.c2f_p4=host:C3(channels,false)", "--form", "yaml,snippet")
    assert made.exit_code == 0, made.output
    (file,) = Path("out").glob("*.yaml")
    assert "[-1, 3, C3, [512, False]] # 12 neck.c2f_p4 (swapped: host:C3(channels,false))" in file.read_text()
    assert "is made of Ultralytics' own modules" in next(iter(Path("out").glob("*.txt"))).read_text()
    back = run("import", str(file))
    assert (back.exit_code, "neck.c2f_p4=host:C3(channels,false)" in back.stdout) == (0, True)


def test_what_does_not_fit_its_slot_fails_the_check():
    Path("mine.yaml").write_text("base: yolov8\nslots:\n  neck.c2f_p4: [keep, host:Conv(64)]\n")
    found = run("space", "check", "mine.yaml")
    assert found.exit_code == 1
    assert "neck.c2f_p4=host:Conv(64)" in found.stderr
    Path("mine.yaml").write_text("base: yolov8\nslots:\n  neck.c2f_p4: [keep, host:C2ff]\n")
    assert (
        "has no class 'C2ff' that a model YAML can name; did you mean C2f" in run("space", "check", "mine.yaml").stderr
    )


def test_a_yaml_of_the_users_own_is_a_base():
    Path("theirs.yaml").write_text(STOCK.replace("SPPF, [1024, 5]", "SPPF, [1024, 7]").replace("n: [0.33", "n: [0.67"))
    Path("mine.yaml").write_text("base: theirs.yaml\nscale: s\nslots:\n  neck.up_p4: [keep, CARAFE]\n")
    assert run("space", "check", "mine.yaml").exit_code == 0
    made = run("emit-yaml", "--base", "theirs.yaml", "--scale", "s", "--swap", "neck.up_p4=CARAFE", "--form", "yaml")
    assert made.exit_code == 0, made.output
    (file,) = Path("out").glob("theirs-*.yaml")
    text = file.read_text()
    assert "[-1, 1, SPPF, [1024, 7]]" in text
    assert text.index("\n  s: [") < text.index("\n  n: [0.67")  # its name says no letter: the host takes the first
    back = run("import", str(file), "--base", "theirs.yaml")
    assert (back.exit_code, "neck.up_p4=CARAFE" in back.stdout) == (0, True)
    Path("theirs.yaml").write_text("backbone: []\n")
    assert "base: theirs.yaml:1: no model YAML" in run("space", "show", "mine.yaml").stderr


def test_the_hint_under_a_ranking_names_a_spaces_file():
    from nas.report.ranking_notes import _space_argument

    named = [SimpleNamespace(space=SimpleNamespace(name=name)) for name in ("seeds", "mine")]
    assert [_space_argument(settings) for settings in named] == ["seeds", "mine.yaml"]
    Path("mine.yaml").write_text("base: yolov8\n")
    assert "no space named 'mine'; did you mean mine.yaml?" in run("space", "show", "mine").stderr


def test_brackets_in_a_path_are_shown():
    from nas.report.console import make_console, make_table

    table = make_table("study", "data")
    table.add_row("a [b]", "data [v1]/data.yaml")
    console = make_console()
    with console.capture() as captured:
        console.print(table)
    assert "a [b]" in captured.get()
    assert "data [v1]/data.yaml" in captured.get()


def test_images_that_only_pillow_reads_are_found(tmp_path):
    from nas.data.label_rows import RowRule
    from nas.data.validate import inspect

    good, bad = tmp_path / "good.png", tmp_path / "bad.tif"
    Image.fromarray(np.zeros((32, 32, 3), "uint8")).save(good)
    Image.fromarray(np.zeros((32, 32), "int32"), "I").save(bad)
    found = {s: inspect([(s.name, str(s))], RowRule(1, "data.yaml"))[0].problems for s in (good, bad)}
    assert found[good] == []
    assert "OpenCV, by which Ultralytics trains, does not" in found[bad][0][1]


FORK = """

class CARAFE(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.mine = torch.nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return torch.nn.functional.interpolate(self.mine(x), scale_factor=2)
"""


@pytest.fixture(scope="module")
def fork(tmp_path_factory) -> Path:
    """A checkout with a CARAFE of its own, which its parse_model knows."""
    root = tmp_path_factory.mktemp("fork")
    shutil.copytree(PACKAGE, root / "ultralytics", ignore=shutil.ignore_patterns("__pycache__", "assets"))
    block, tasks = root / "ultralytics/nn/modules/block.py", root / "ultralytics/nn/tasks.py"
    block.write_text(block.read_text() + FORK)
    text = tasks.read_text().replace(
        "def parse_model(d,", "from ultralytics.nn.modules.block import CARAFE\n\n\ndef parse_model(d,"
    )
    anchor = "        elif m is AIFI:"
    assert text.count(anchor) == 1
    tasks.write_text(
        text.replace(anchor, f"        elif m is CARAFE:\n            c2 = ch[f]\n            args = [c2]\n{anchor}")
    )
    return root


def beside(fork: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command where the checkout is the installed Ultralytics."""
    environment = os.environ | {"PYTHONPATH": str(fork)}
    return subprocess.run(
        [sys.executable, "-m", "nas", *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_a_patch_does_not_replace_the_authors_class(fork):
    before = (fork / "ultralytics/nn/tasks.py").read_bytes()
    done = run("emit-yaml", "--swap", "neck.up_p4=CARAFE", "--form", "patch", "--apply", str(fork))
    assert done.exit_code == 1
    assert "has a CARAFE of its own" in done.stderr
    assert "NasCARAFE" in done.stderr
    assert (fork / "ultralytics/nn/tasks.py").read_bytes() == before


def test_beside_a_fork_each_class_keeps_its_name(fork):
    """One process: theirs by `host:`, ours with a prefix, in a YAML that the fork builds and that reads back."""
    swaps = ["--swap", "neck.up_p4=CARAFE", "--swap", "neck.up_p3=host:CARAFE"]
    done = beside(fork, "emit-yaml", *swaps, "--form", "yaml,snippet")
    assert done.returncode == 0, done.stderr
    assert "has classes of its own under these names; written: CARAFE as NasCARAFE" in done.stderr
    (file,) = Path("out").glob("*.yaml")
    text = file.read_text()
    assert "NasCARAFE, [3, 5, 64, 2]" in text
    assert ", 1, CARAFE, []]" in text
    assert "parameters, " in text
    assert "import CARAFE as NasCARAFE" in next(iter(Path("out").glob("*.txt"))).read_text()
    back = beside(fork, "import", str(file))
    assert back.returncode == 0, back.stderr
    assert "neck.up_p3=host:CARAFE" in back.stdout
    assert "neck.up_p4=CARAFE" in back.stdout


def test_a_fork_that_needs_more_says_what(fork, tmp_path):
    shutil.copytree(fork, tmp_path / "needy")
    extra = tmp_path / "needy/ultralytics/nn/modules/block.py"
    extra.write_text(
        "from nowhere_to_be_found import DropPath\n" + extra.read_text().replace("from __future__", "#", 1)
    )
    swap = ["emit-yaml", "--swap", "neck.up_p4=DySample", "--form", "yaml"]
    done = beside(tmp_path / "needy", *swap)
    assert done.returncode == 1
    assert "imports nowhere_to_be_found, which is not installed: pip install nowhere_to_be_found" in done.stderr
    assert "Traceback" not in done.stderr
    done = beside(tmp_path / "needy", *swap, "--without-proof")
    assert done.returncode == 0, done.stderr
    assert "not proved: nothing is built" in done.stderr
    assert len(list(Path("out").glob("*.yaml"))) == 1
