"""Names in source files, resolved without importing them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.fork.source import Package

FILES = {
    "__init__.py": '__version__ = "8.3.0"\n',
    "nn/__init__.py": "",
    "nn/tasks.py": """
import timm.models
from torch import nn
from ultralytics.nn.modules import Conv, Fancy as Plain
from .extra import *
from pathlib import Path
try:
    import mmcv
except ImportError:
    mmcv = None
if True:
    from .late import Late
Other = Conv
number = 3
class Here(nn.Module):
    def __init__(self, c1, c2=None, *rest): ...
def parse_model(d, ch): ...
""",
    "nn/modules/__init__.py": "from .conv import Conv, Fancy\n",
    "nn/modules/conv.py": """
import torch.nn as nn
class Conv(nn.Module):
    def __init__(self, c1, c2, k=1): ...
class Fancy(Conv):
    pass
class Data: ...
""",
    "nn/extra/__init__.py": 'from .one import *\n__all__ = ["One", "factory"]\n',
    "nn/extra/one.py": """
from einops import rearrange
import torch
class One(torch.nn.Module):
    def __init__(self, dim): ...
class Two(torch.nn.Module): ...
def factory(weights=''): ...
""",
    "nn/late.py": "from torch import nn\nclass Late(nn.Module): ...\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Package:
    for name, text in FILES.items():
        path = tmp_path / "ultralytics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Package(tmp_path / "ultralytics")


TASKS = "ultralytics.nn.tasks"


@pytest.mark.parametrize(
    ("name", "module", "parameters"),
    [
        ("Conv", "ultralytics.nn.modules.conv", ("c1", "c2", "k")),
        ("Plain", "ultralytics.nn.modules.conv", ("c1", "c2", "k")),  # inherited
        ("Other", "ultralytics.nn.modules.conv", ("c1", "c2", "k")),
        ("One", "ultralytics.nn.extra.one", ("dim",)),
        ("factory", "ultralytics.nn.extra.one", ("weights",)),
        ("Late", "ultralytics.nn.late", None),
        ("Here", TASKS, ("c1", "c2", "*")),
    ],
)
def test_a_name_is_followed_to_its_definition(package, name, module, parameters):
    found = package.resolve(name, TASKS)
    assert found is not None
    assert (found.module, package.parameters(found)) == (module, parameters)


def test_what_all_leaves_out_is_not_imported(package):
    assert package.resolve("Two", TASKS) is None
    assert package.resolve("Nothing", TASKS) is None


@pytest.mark.parametrize(
    ("name", "expected"), [("Conv", True), ("Plain", True), ("One", True), ("Path", False), ("parse_model", False)]
)
def test_layers_derive_from_module(package, name, expected):
    found = package.resolve(name, TASKS)
    assert found is not None
    assert package.is_module_class(found) == expected


def test_other_packages_are_those_that_an_import_needs(package):
    """Not mmcv, whose absence the file deals with itself."""
    assert set(package.outside(TASKS)) == {"timm", "torch", "pathlib", "einops"}


def test_a_file_that_cannot_be_read_binds_nothing(package):
    (package.folder / "nn/tasks.py").write_text("class :", encoding="utf-8")
    assert package.resolve("Conv", TASKS) is None
