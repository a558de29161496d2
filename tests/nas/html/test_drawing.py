"""What the page draws by itself: lines and bands of the forest plot, cells of the heat map, facts."""

from __future__ import annotations

import hashlib
import importlib.util
import lzma
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_reports import MACHINE
from PIL import Image

from nas.cli import cli
from nas.html.page import study_page
from nas.html.scale import Scale
from nas.html.section import Section
from nas.html.sections.forest import background
from nas.html.sections.heat_map import _cell
from nas.html.sections.made import made
from nas.ranking.effects import Effect

ROOT = Path(__file__).parents[3]
STUDY = ROOT / "studies" / "results" / "demo" / "quick.db.xz"


def effect(value: float) -> Effect:
    return Effect("swap", "a=B", 3, value, (value - 0.001, value + 0.001), 0.0, (0.0, 0.0), 1.0, "cannot tell")


@pytest.mark.parametrize(
    ("value", "top", "text"),
    [
        (0.0179, 0.02, "+.018"),
        (-0.0004, 0.02, "0"),
        (-0.0004, 0.0005, "-.0004"),
        (0.00002, 0.0005, "0"),
        (0.25, 0.25, "+.250"),
    ],
)
def test_a_cell_has_the_digits_that_the_strongest_effect_needs(value, top, text):
    cell = _cell(effect(value), True, False, top)
    assert cell["text"] == text
    assert cell["share"] == round(100 * abs(value) / top)


def test_the_background_of_a_line_is_of_solid_layers():
    """A gradient to transparent is printed in black; places are shares of what the layer leaves free."""
    found = background(Scale(-0.02, 0.02), 0.006)
    layers = dict(re.findall(r"linear-gradient\(var\((--\w+)\) 0 0\) ([^,]*)", found))
    assert layers["--ink"] == "50%/1.5px 100% no-repeat"
    assert layers["--band"] == "50%/30% 100% no-repeat"
    assert "transparent" not in found
    assert "--band" not in background(Scale(-0.02, 0.02), 0.0)
    aside = background(Scale(-0.01, 0.03), 0.01)  # from 0 to 20 of 40, of which half is left
    assert "linear-gradient(var(--band) 0 0) 0%/50% 100% no-repeat" in aside
    assert background(Scale(-0.001, 0.001), 1.0).endswith("(var(--band) 0 0) 0%/100% 100% no-repeat")


def test_commands_in_sentences_are_set_as_code(whole):
    note = "see `nas train` <b>`</b>"
    whole.problems.append(note)
    page = study_page(whole, [Section("a", "A", [note], notes=[note])])
    assert page.count("see <code>nas train</code> &lt;b&gt;`&lt;/b&gt;") == 3


def test_the_machine_of_the_trials_is_named(whole):
    assert dict(made(whole).values["facts"])["Machine"] == MACHINE


@pytest.mark.parametrize("name", ["report.png", "report-dark.png", "demo-forest.png", "demo-bank.png", "dashboard.png"])
def test_the_pictures_are_of_the_committed_study(name):
    """Draw them again: `python benchmarks/report_pictures.py`."""
    with Image.open(ROOT / "docs" / "images" / name) as picture:
        assert picture.text["study"] == hashlib.sha256(STUDY.read_bytes()).hexdigest()
        assert min(picture.size) > 300


def test_the_committed_study_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "quick.db").write_bytes(lzma.decompress(STUDY.read_bytes()))
    done = CliRunner().invoke(cli, ["report", "quick"])
    assert (done.exit_code, done.stderr) == (0, "")
    page = Path("quick-report.html").read_text(encoding="utf-8")
    sections = re.findall(r'<section id="([\w-]+)"', page)
    assert sections == ["forest", "front", "heat-map", "curves", "bank", "seeds", "table", "made"]
    assert "2 worse, 1 cannot tell" in page


def test_the_picture_of_flops_is_what_is_counted():
    """Draw it again: `python benchmarks/flops_picture.py`."""
    spec = importlib.util.spec_from_file_location("flops_picture", ROOT / "benchmarks" / "flops_picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.draw() == module.PICTURE.read_text(encoding="utf-8")
    drawn = {name: (counted, seen) for name, counted, seen in module.costs()}
    assert drawn["neck.down_*=DynamicConv"][0] > 0 > drawn["neck.down_*=DynamicConv"][1]
