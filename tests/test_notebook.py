"""The example notebook runs from the first cell to the last, in a kernel in which trainings take no time."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "search.ipynb"
INSTANT = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests" / "kit")!r})
import pytest
from instant_trainings import be_instant
be_instant(pytest.MonkeyPatch())
"""
"""What is run before its first cell."""


def read():
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    return found


def shown_by(cell) -> str:
    """Return what a cell has printed and returned, as text."""
    return "".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = read()
    notebook.cells.insert(0, nbformat.v4.new_code_cell(INSTANT))
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    shown = {cell.id: shown_by(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert "Compared 8 variants of yolov8n." in shown["search"]
    lines = shown["ranking"].splitlines()
    assert "baseline" in shown["ranking"]
    assert sum(line[:1].isdigit() for line in lines) % 8 == 0  # pandas wraps wide tables
    assert "C2f_SPConv" in shown["effects"]
    assert "report.html" in shown["report"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>notebook</h1>" in page
    assert '<section id="forest">' in page
    assert (tmp_path / "studies" / "notebook.db").exists()
    assert "=" in shown["load"] or "baseline" in shown["load"]


def test_it_is_committed_without_outputs():
    code = [cell for cell in read().cells if cell.cell_type == "code"]
    assert len(code) > 4
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_it_shows_the_python_interface():
    code = "\n".join(cell.source for cell in read().cells if cell.cell_type == "code")
    for name in ("nas.search(", "nas.load_study(", ".ranking()", ".best()", ".effects()", ".report("):
        assert name in code
