"""Every command of the documents runs, as it is written, where its trainings take no time (`instant_trainings`).

Spaces, rankings, solver, reports, emitted files and prunings are real; the training processes and the host's own
trainings are stand-ins, and numbers of trials are reduced. `.ci/first-run` trains with the commands of the README.
The Chinese pages have the same commands (`tests/test_site.py`), and modules.md those that `usage` writes for each
module (`tests/ops`).
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import ultralytics
from click.testing import CliRunner
from instant_trainings import be_instant, stock_checkpoint
from PIL import Image

import nas.model.cost
import nas.search.runner
from nas.cli import cli
from nas.html.chromium import find_chromium

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = ("commands.md", "modules.md")
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted(DOCS.glob("*.md")) if page.name not in GENERATED and not page.name.endswith(".zh.md")),
]
SERVER = ("postgresql://", "postgresql:///", "$STORAGE")
"""In commands that need a PostgreSQL server: `tests/nas/study` runs such studies on one."""
ENGINES = ("latency",)
"""In commands that need an inference engine, which tests do without: `tests/nas/engines`."""
PLACEHOLDERS = {
    "STUDY": "blood", "NAME": "blood", "OTHER": "tpe", "K": "1", "N": "3", "MODEL.yaml": "out/yolov8n-1bb49240.yaml",
}  # fmt: skip
FEWER = {"--trials": "3", "--sample": "3", "--budget": "8", "--aa": "6", "--seeds": "2"}
"""Options whose numbers are reduced, at most to these."""
WHOLE = ("nas studies", "nas doctor", "nas ops", "nas ops --host", "nas space list")
"""Commands without arguments that do something."""
GROUPED = ("check", "list", "show", "init", "export", "copy")
OWN = """
    def __init__(self, c1, c2, n=1, shortcut=False, kernel=5):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, kernel, padding=kernel // 2)

    def forward(self, x):
        return self.conv(x)
"""


def commands_in(page: Path) -> list[str]:
    """Return the commands of a page: those in blocks, and those in the text that have arguments."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *(?:exec )?(nas [a-z-]+.*)$", text, re.MULTILINE)
    inline = re.findall(r"`(nas [a-z-]+[^`\n]*)`", text)
    return list(dict.fromkeys([*blocks, *(line for line in inline if not is_a_name(line))]))


def is_a_name(line: str) -> bool:
    """Return whether a text names a command, or an option of one, rather than being one that can be run."""
    words = line.split()[1:]
    return line not in WHOLE and not any(word != words[0] and word[0] != "-" and word not in GROUPED for word in words)


def reduced(line: str, ids: dict[str, str]) -> tuple[list[str], str]:
    """Return the arguments of a command at reduced cost, and the file that its output goes to; empty for none."""
    words = shlex.split(line, comments=True)[1:]
    target = words.pop() if len(words) > 1 and words[-2] == ">" else ""
    words = [word for word in words if word != ">"]
    names = PLACEHOLDERS | ids | ({"STUDY": "rungs"} if "--rung" in words else {})
    words = [names.get(word, word) for word in words]
    for shown, made in ids.items():  # in a file's name too
        words = [word.replace(f"-{shown}", f"-{made}") for word in words]
    if "--full-from" in words:  # which makes another calibration than that of the README
        words[words.index("--name") + 1] = "blood-full"
    for k, word in enumerate(words[:-1]):
        if word in FEWER:
            words[k + 1] = str(min(float(words[k + 1]), float(FEWER[word]))).removesuffix(".0")
    if words[0] == "search" and "--trials" not in words and "--budget" not in words and "--replay" not in words:
        words += ["--trials", FEWER["--trials"]]
    return words, target


def run(words: list[str]):
    return CliRunner().invoke(cli, words)


def copy_of(name: str, other: str) -> list[str]:
    return ["studies", "copy", name, "--as", other, "--to", f"sqlite:///studies/{other}.db"]


def write_files(folder: Path, data: Path) -> None:
    """Write the files that the documents name: data, weights, a space, a module, a YAML of a post, a source tree."""
    text = data.read_text().replace("train: ", f"path: {data.parent}\ntrain: ")
    for file in (folder / "data.yaml", folder / "path" / "to" / "data.yaml"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    stock_checkpoint(folder / "yolov8n.pt", 80)
    stock_checkpoint(folder / "runs" / "detect" / "train" / "weights" / "best.pt", 2)
    page = (DOCS / "own-modules.md").read_text(encoding="utf-8")
    module = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    (folder / "my_block.py").write_text(re.sub(r"\n    def __init__\(.*\n", OWN, module))
    (folder / "my_space.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    page = (DOCS / "tasks.md").read_text(encoding="utf-8")
    for task in ("seg", "cls"):
        space = re.search(rf"```yaml\n(base: yolov8-{task}.*?)```", page, re.DOTALL)[1]
        (folder / f"{task}.yaml").write_text(space)
    write_classes(folder / "path" / "to" / "folder")
    tree = folder / "path" / "to" / "ultralytics" / "ultralytics"
    shutil.copytree(Path(ultralytics.__file__).parent, tree, ignore=shutil.ignore_patterns("__pycache__"))


def write_classes(folder: Path) -> None:
    """Write a dataset for classification: two classes, three training images and one to validate on of each."""
    for number, name in enumerate(("cat", "dog")):
        for k, split in enumerate(("train", "train", "train", "val")):
            file = folder / split / name / f"{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (90 + 60 * number, 40 * k, 90)).save(file)


@pytest.fixture(scope="module")
def been() -> set[tuple[str, ...]]:
    """Return the commands that have been run: pages repeat them."""
    return set()


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as made:
        yield made


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_data, patch) -> tuple[Path, dict[str, str]]:
    """Return a folder with everything that the documents count on, and the IDs that they name as here."""
    folder = tmp_path_factory.mktemp("documents")
    write_files(folder, tiny_data)
    patch.chdir(folder)
    be_instant(patch)
    counted = cache(nas.model.cost.gflops_and_params)  # pages search the same spaces
    for module in (nas.model.cost, nas.search.runner):
        patch.setattr(module, "gflops_and_params", counted)
    post = ["--swap", "neck.up_p4=CARAFE", "--swap", "backbone.down_p5=SPConv"]
    made = ["--swap", "neck.down_n4=SPConv", "--swap", "neck.down_n5=SPConv"]
    searched = ["--data", "data.yaml", "--device", "cpu", "--workers", "1", "--trials", "6"]
    for words in (
        ["emit-yaml", *made, "--form", "yaml", "-o", "out"],
        ["emit-yaml", *post, "--form", "yaml", "-o", "post"],
        ["search", "seeds", "--study", "blood", "--confirm", "2:2", *searched],
        ["search", "light", "--study", "light", "--budget-gflops", "-10%", *searched],
        ["search", "quick", "--study", "first", *searched],
        ["search", "quick", "--study", "rungs", "--rungs", "1", "--epochs", "2", *searched],
        ["search", "my_space.yaml", *searched],
        *(copy_of("first", name) for name in ("quick", "real")),
        copy_of("blood", "blood-2"),
        ["calibrate", "seeds", "--name", "blood", "--data", "data.yaml", "--device", "cpu", "--workers", "1"],
        ["studies", "export", "blood", "-o", "blood.json"],
        ["train", "blood", "--with", "baseline", "--epochs", "2", "--device", "cpu"],
    ):
        done = run(words)
        assert done.exit_code == 0, (words, done.output)
    for file in (folder / "post").glob("*.yaml"):
        file.rename(folder / "yolov8n-from-a-post.yaml")
    shutil.copyfile(folder / "out" / "yolov8n-1bb49240.yaml", folder / "my_model.yaml")
    from nas import load_study

    variant = next(row.id for row in load_study("blood").ranking() if row.verdict != "baseline")
    trial = str(max(t.number for t in load_study("blood").study.runs() if t.yaml))
    return folder, {"1a2b3c4d": variant, "45821ec8": variant, "41": trial}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_each_command_runs(place, been, page, tmp_path, monkeypatch):
    folder, ids = place
    wrong = []
    for number, line in enumerate(commands_in(page)):
        if any(word in line for word in (*SERVER, *ENGINES)) or ("--format png" in line and find_chromium() is None):
            continue
        words, target = reduced(line, ids)
        if tuple(words) in been and not target and "-o" not in words:
            continue
        been.add(tuple(words))
        if "-o" in words and words[0] in ("emit-yaml", "report", "train"):
            words.append("--force")  # another page has the same command
        elif "-o" in words:
            (folder / words[words.index("-o") + 1]).unlink(missing_ok=True)
        creates = words[0] == "search" and not words[1].startswith("-")
        monkeypatch.chdir(without_studies(folder, tmp_path / str(number)) if creates else folder)
        done = run(words)
        if target:
            Path(target).write_text(done.stdout)
        if done.exit_code:
            said = done.output.strip()[-600:]
            wrong.append(f"{line}\n    as: nas {shlex.join(words)}\n    {said} {done.exception!r}")
    assert not wrong, "\n".join(wrong)


def without_studies(folder: Path, other: Path) -> Path:
    """Return another folder with the same files, but without studies: pages create some of the same name."""
    (other / "studies").mkdir(parents=True)
    for entry in folder.iterdir():
        if entry.name != "studies":
            (other / entry.name).symlink_to(entry)
    for entry in (folder / "studies").glob("*calibration*"):
        shutil.copytree(entry, other / "studies" / entry.name)
    return other


def test_what_is_run():
    """A page whose commands are not found would pass."""
    found = {page.name: commands_in(page) for page in PAGES}
    assert sum(map(len, found.values())) > 120
    assert "nas emit-yaml --revert path/to/ultralytics" in found["emit.md"]
    assert "nas calibrate seeds --full-from blood --data path/to/data.yaml --name blood" in found["train.md"]
    assert is_a_name("nas emit-yaml --weights")
    assert not is_a_name("nas rank STUDY")
    words, target = reduced("nas rank STUDY --csv > ranking.csv", {})
    assert (words, target) == (["rank", "blood", "--csv"], "ranking.csv")
    assert reduced("nas search seeds --trials 40  # many", {})[0] == ["search", "seeds", "--trials", "3"]
