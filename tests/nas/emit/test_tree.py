"""Ultralytics trees are found where a user points at, and their releases are compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import ultralytics
from releases import fetched

from nas.emit.tree import NEWEST, TASKS, nearest_release, read_tree, version_text


@pytest.mark.parametrize("given", ["", "ultralytics"])
def test_a_checkout_or_the_package_folder(given, tmp_path):
    for path in (Path("ultralytics/__init__.py"), TASKS):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(ultralytics.__file__).parents[1] / path, tmp_path / path)
    assert read_tree(tmp_path / given).root == tmp_path


def test_the_installed_one_unless_another_is_named():
    tree = read_tree(None)
    assert tree.version == ultralytics.__version__
    assert tree.root == Path(ultralytics.__file__).parents[1]


def test_releases_are_compared_by_number():
    assert nearest_release((7, 0, 0)) == "8.0.100"
    assert nearest_release((8, 3, 7)) == "8.3.7"
    assert nearest_release((99, 0, 0)) == version_text(NEWEST)


@pytest.mark.slow
def test_what_pip_installs_into_a_folder_is_a_tree(shared_cache):
    """As the message on `--ultralytics 8.3.0` says."""
    assert read_tree(fetched("8.3.0", shared_cache)).version == "8.3.0"
