"""The wheel holds what is tracked, under one name, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = {"nas": "nas", "ops": "nas/ops", "templates": "nas/templates", "studies": "nas/studies"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for line in tracked.stdout.splitlines():  # built elsewhere: what an earlier build left here must not get in
        (tree / line).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / line, tree / line)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(out), str(tree)]
    subprocess.run(command, check=True, timeout=300)
    (file,) = out.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return file.name, set(archive.namelist())


def test_contents_are_the_tracked_files(wheel):
    listed = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = set()
    for line in listed.stdout.splitlines():
        top, _, rest = line.partition("/")
        if not rest.startswith("results/"):
            expected.add(f"{FOLDERS[top]}/{rest}")
    packed = {name for name in wheel[1] if ".dist-info/" not in name}
    assert packed == expected


def test_one_pure_wheel_with_its_licence(wheel):
    name, files = wheel
    assert name.startswith("swapnas-")
    assert name.endswith("-py3-none-any.whl")
    assert {n.split("/")[0] for n in files if ".dist-info" not in n} == {"nas"}
    assert any(n.endswith("licenses/LICENSE") for n in files)
    assert "nas/py.typed" in files


def test_version_is_the_packages():
    import nas

    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {nas.__version__}" in changelog
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (nas.__version__, "AGPL-3.0-or-later")


def test_importing_the_package_is_cheap():
    code = "import sys, nas; sys.exit(bool({'torch', 'ultralytics', 'optuna', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
