"""Reports of studies that are damaged, old, or whose own modules are gone, by the command."""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from instant_trainings import be_instant, stock_checkpoint

from nas.cli import cli
from nas.files import cache_dir
from nas.ops import registry

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "stored-by-169e7c9.tar.xz"
BLOCK = """
import nas
from torch import nn


@nas.module(rule="block", kinds={"block"}, paper="-", summary="a convolution")
class GoneBlock(nn.Module):
    def __init__(self, c1, c2, n=1):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, 1)

    def forward(self, x):
        return self.conv(x)
"""


def report(*words: str):
    return CliRunner().invoke(cli, ["report", *words])


def place(study) -> list[str]:
    return [study.location.name, "--storage", study.location.url]


def test_a_study_of_an_older_version(tmp_path, monkeypatch):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    done = report("old", "-o", "r.html")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    page = Path("r.html").read_text(encoding="utf-8")
    assert '<section id="forest">' in page  # all of its scores are equal
    assert '<section id="made">' in page


@pytest.mark.parametrize("damage", ["settings", "trial", "file"])
def test_a_damaged_study_is_refused_in_a_line(full_study, tmp_path, damage):
    file = full_study.location.file
    if damage == "file":
        with sqlite3.connect(file) as db:  # what is in the journal, too
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file.write_bytes(file.read_bytes()[:5000])
    else:
        table, keys = ("study", "nas_settings%") if damage == "settings" else ("trial", "%")
        with sqlite3.connect(file) as db:
            changed = db.execute(f"UPDATE {table}_user_attributes SET value_json = '[1]' WHERE key LIKE ?", (keys,))
            assert changed.rowcount
    done = report(*place(full_study), "-o", str(tmp_path / "r.html"))
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r.html").exists()


@pytest.fixture
def with_own_module(tmp_path, tiny_data, monkeypatch, registry_as_before):
    """Return what a search over an own module has stored, after the file, the consent and the registration are gone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone.py").write_text(BLOCK)
    (tmp_path / "space.yaml").write_text("modules: [gone.py]\nslots:\n  neck.c2f_n5: [keep, GoneBlock]\n")
    stock_checkpoint(tmp_path / "yolov8n.pt", 80)
    with monkeypatch.context() as patch:
        be_instant(patch)
        words = ["--data", str(tiny_data), "--trials", "2", "--confirm", "0", "--device", "cpu", "--workers", "1"]
        done = CliRunner().invoke(cli, ["search", "space.yaml", "--study", "mine", *words])
        assert done.exit_code == 0, done.output
    (tmp_path / "gone.py").unlink()
    for folder in ("trusted", "modules"):
        shutil.rmtree(cache_dir() / folder, ignore_errors=True)
    registry.drop("GoneBlock")


def test_own_modules_that_are_gone(with_own_module):
    done = report("mine", "-o", "r.html")
    assert done.exit_code == 0, done.output
    problems = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert [line.split(": ")[1] for line in problems] == ["detections", "effects"]
    assert "brings Python code of own modules" in problems[0]
    assert "--trust" in problems[0]
    assert "unknown module 'GoneBlock'" in problems[1]
    assert "GoneBlock" not in registry.entries()  # nothing of it has run
    page = Path("r.html").read_text(encoding="utf-8")
    assert "neck.c2f_n5=<b>GoneBlock</b>" in page
    assert '<section id="forest">' in page
