"""What the installed Ultralytics has, and how registered modules are called beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import ultralytics.nn.tasks as tasks
from torch import nn

from nas.fork import installed, missing, names
from nas.fork.signature import ambiguous
from nas.fork.source import Package
from nas.ops import registry


@pytest.fixture
def fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with modules of its own, in place of the installed one."""
    folder = tmp_path / "ultralytics"
    (folder / "nn/modules").mkdir(parents=True)
    (folder / "__init__.py").write_text('__version__ = "8.2.50"\n', encoding="utf-8")
    (folder / "nn/tasks.py").write_text(
        "import nowhere_to_be_found.layers\nfrom torch import nn\nfrom .modules.block import CARAFE, ECA, Detect\n",
        encoding="utf-8",
    )
    (folder / "nn/modules/block.py").write_text(
        "from torch import nn\n"
        "class CARAFE(nn.Module):\n    def __init__(self, c, up=2): ...\n"
        "class ECA(nn.Module):\n    def __init__(self, c, k_size=3): ...\n"
        "class Detect(nn.Module): ...\n",
        encoding="utf-8",
    )
    package = Package(folder)
    monkeypatch.setattr(installed, "package", lambda: package)
    return tmp_path


def test_a_name_that_the_host_has_is_the_hosts(fork):
    assert names.yaml_name("CARAFE") == "NasCARAFE"
    assert names.yaml_name("DySample") == "DySample"
    assert [names.registered_name(n) for n in ("CARAFE", "NasCARAFE", "DySample", "NasDySample")] == [
        "",
        "CARAFE",
        "DySample",
        "",
    ]
    assert names.host_has("CARAFE")
    assert not names.host_has("DySample")


def test_the_hosts_classes_are_listed_with_their_constructors(fork):
    assert list(names.host_names()) == ["CARAFE", "Detect", "ECA"]
    assert names.parameters("CARAFE") == ("c", "up")


def test_a_class_put_into_a_running_host_counts(monkeypatch):
    monkeypatch.setattr(tasks, "PutThere", type("PutThere", (nn.Identity,), {}), raising=False)
    assert names.host_has("PutThere")
    assert not names.host_has("NotThere")


def test_our_own_classes_in_the_host_are_not_the_hosts():
    from nas.model.host import register

    register()
    assert tasks.CARAFE is registry.get("CARAFE").cls
    assert names.yaml_name("CARAFE") == "CARAFE"


def test_what_is_no_layer_is_not_the_hosts():
    assert [n for n in ("Path", "LOGGER", "YAML", "torch", "parse_model", "make_divisible") if names.host_has(n)] == []
    assert all(map(names.host_has, ("C2f", "nn.Upsample", "HGStem", "AIFI")))


@pytest.mark.parametrize(
    ("module", "given", "channels", "message"),
    [
        ("CBAM", [7], None, "kernel_size to the CBAM of Ultralytics"),
        ("ECA", [3], None, "k_size to the ECA of most forks and gamma, b to the registered ECA"),
        ("AKConv", [3, 2], None, "num_param, stride, bias to the AKConv of most forks"),
        ("SE", [1024], 1024, "1024 is also the number of channels of the layer before"),
        ("CoordAtt", [256], None, ""),
        ("CBAM", [16, 7], None, ""),
        ("SE", [16], 1024, ""),
        ("EMA", [8], 256, ""),
        ("DynamicConv", [3, 2, 4, "sigmoid"], None, ""),
        ("DCNv3", [3, 1, 1, 1], None, "group_width"),
        ("DCNv3", [3, 1, 16, 1.0], None, ""),
        ("CARAFE", [3, 5], None, ""),
    ],
)
def test_arguments_by_position_need_one_meaning(module, given, channels, message):
    found = ambiguous(registry.get(module), given, channels)
    assert message in found
    assert bool(found) == bool(message)


def test_the_forks_own_signature_counts(fork):
    assert "up to the CARAFE of Ultralytics 8.2.50" in ambiguous(registry.get("CARAFE"), [2])


def test_what_a_fork_needs_is_named(fork):
    assert list(missing.missing_packages()) == ["nowhere_to_be_found"]
    error = ModuleNotFoundError("No module named 'nowhere_to_be_found'", name="nowhere_to_be_found")
    text = missing.explained(error)
    assert "imports nowhere_to_be_found, which is not installed: pip install nowhere_to_be_found" in text
    assert "--without-proof" in text
    assert missing.explained(ModuleNotFoundError("No module named 'x'", name="x")) == ""


def test_under_stand_ins_a_fork_can_be_imported(monkeypatch):
    import importlib
    import sys

    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    missing.stand_in(["nowhere_to_be_found"])
    for name in ("nowhere_to_be_found", "nowhere_to_be_found.layers"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
        importlib.import_module(name)
    layers = sys.modules["nowhere_to_be_found.layers"]

    @layers.MODELS.register_module()
    class Block(layers.Base, nn.Module):
        pass

    assert issubclass(Block, nn.Module)
    assert layers.to_2tuple(3) is not None
    for name in ("nowhere_to_be_found", "nowhere_to_be_found.layers"):
        del sys.modules[name]
