"""``import nas`` is enough, whichever of the two packages comes first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nas.model.render import render
from nas.space.variant import parse_swaps

LATER = "from ultralytics.nn import tasks"


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "imports",
    [
        f"import nas; {LATER}",
        f"{LATER}; import nas",
        f"import nas.space.graph; {LATER}",
        f"import nas.ops.c2f; {LATER}",
    ],
)
def test_models_build_after_an_import(imports, tmp_path):
    files = render(parse_swaps("yolov8", "n", ["neck.up_p4=CARAFE"]))
    path = tmp_path / f"{files.name}.yaml"
    path.write_text(files.yaml)
    code = f"{imports}; tasks.DetectionModel({str(path)!r}, verbose=False); print(tasks.CARAFE.__module__)"
    assert python(code)[:2] == (0, "nas.ops.carafe\n")


def test_importing_is_cheap():
    code = "import nas, sys; print({'torch', 'ultralytics', 'numpy'} & set(sys.modules))"
    assert python(code)[1] == "set()\n"


def test_a_host_without_the_place_stays_usable_and_is_told(tmp_path):
    """The import warns, stock models build; asked for, registration raises."""
    (tmp_path / "stock.py").write_text("def parse_model(d, ch, verbose=True):\n    return None\n")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
{LATER}
import stock
tasks.parse_model = stock.parse_model
import nas
print(tasks.parse_model is stock.parse_model)
nas.register()
"""
    status, out, said = python(code)
    assert status == 1
    assert out == "True\n"
    assert "RuntimeWarning: the modules of nas are not registered" in said
    assert "HostError" in said
    assert "occurs 0 times in parse_model" in said


def test_public_names_are_all_there():
    code = "import nas; print([n for n in nas.__all__ if getattr(nas, n) is None]); nas.nothing"
    status, out, said = python(code)
    assert (status, out) == (1, "[]\n")
    assert "module 'nas' has no attribute 'nothing'" in said
