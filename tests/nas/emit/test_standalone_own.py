"""Own modules in the one file that needs nothing of this package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas import own
from nas.emit.standalone import standalone_source
from nas.errors import ModuleFileError
from nas.ops import registry
from nas.own.files import ModuleFile

pytestmark = pytest.mark.usefixtures("registry_as_before")
HERE = Path(__file__).parents[1] / "own"
START = """
import nas
from torch import nn
{more}

@nas.module(rule="block", kinds={{"block"}}, paper="-", summary="-")
class Plain(nn.Conv2d):
    def __init__(self, c1, c2, n=1):
        super().__init__(c1, {c2}, 1)
"""


def with_plain(more, c2="c2"):
    own.use([ModuleFile("plain.py", START.format(more=more, c2=c2))])


def imported(path, *names):
    path.write_text(f'"""Generated."""\n\nfrom __future__ import annotations\n\n{standalone_source(names)}')
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_computes_and_costs_the_same(tmp_path):
    """Beside a built-in module, with a helper, a constant, an inner class and its cost rule."""
    own.load_modules(HERE / "my_block.py")
    path = tmp_path / "both.py"
    both = imported(path, "MyBlock", "CARAFE")
    cls = registry.get("MyBlock").cls
    module, other = cls(16, 24, 2, True, 7).eval(), both.MyBlock(16, 24, 2, True, 7).eval()
    other.load_state_dict(module.state_dict())
    x = torch.rand(1, 16, 6, 9)
    with torch.no_grad():
        assert torch.equal(other(x), module(x))
    assert both.macs_rules()[both.ChannelScale](other, (x,), x) == x.numel()
    text = path.read_text()
    assert "nas." not in text.replace("nas::", "").replace("swapnas", "")
    assert "import nas" not in text
    assert "# ---- my_block.py (" in text
    assert "cheap large kernels" in text
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9", path], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("more", "c2"),
    [
        ("WIDTH = 3\nWIDTH += 1", "WIDTH"),
        ("try:\n    import not_there as extra\nexcept ImportError:\n    extra = None", "4 if extra is None else 0"),
        ("A, B = 4, 5", "A"),
        ("TABLE = {}\nTABLE['four'] = 4", "TABLE['four']"),
        ("TABLE = []\nTABLE.append(4)", "TABLE[0]"),
        ("def helper():\n    return _inner()\n\ndef _inner():\n    return 4", "helper()"),
        ("for WIDTH in range(5):\n    pass", "WIDTH"),
        ("from math import pi as width", "int(width + 1)"),
        ("import os.path\nimport os", "len(os.path.join('a', 'b')) + 1"),
    ],
    ids=["augmented", "optional import", "tuple", "item", "method", "helpers", "loop", "alias", "dotted"],
)
def test_what_a_class_needs_comes_with_it(more, c2, tmp_path):
    with_plain(more, c2)
    module = imported(tmp_path / "one.py", "Plain")
    assert module.Plain(2, 9).out_channels == 4


def test_what_nobody_needs_stays(tmp_path):
    own.use(
        [ModuleFile("plain.py", START.format(more="UNUSED = 1\nif __name__ == '__main__':\n    print()", c2="c2") + """
nas.module(rule="block", kinds={"block"}, paper="-", summary="-")(type("Other", (Plain,), {}))
Other = nas.ops.registry.get("Other").cls
""")]
    )  # fmt: skip
    text = standalone_source(["Plain"])
    for gone in ("UNUSED", "__main__", "nas.module", "kinds"):
        assert gone not in text


@pytest.mark.parametrize(
    ("more", "c2", "words"),
    [
        ("from torch.nn import *", "c2", r"plain.py \(\w+\):4: .*it imports from its own folder, or \*"),
        ("import nas.ops.carafe", "c2", r"it imports nas.ops.carafe; `import nas` has what own modules may use"),
        ("", "nas.Trainer.c", r"it uses nas.Trainer; what own modules may use of nas is nas.Arg"),
        ("", "len(str(nas))", r"it uses nas itself"),
        ("", "len(__file__)", r"it uses __file__ itself"),
        ("a = 1; b = 2", "a", r"two statements are on one line"),
        ("class CARAFE:\n    width = 3", "CARAFE.width", r"plain.py .*: CARAFE means something else in carafe"),
        ("class Trainer:\n    width = 3", "Trainer.width", r"Trainer means something else in the file of a bundle"),
        ("def torch():\n    return 3", "torch()", r"torch means something else in "),
    ],
)
def test_what_cannot_be_collected_is_named(more, c2, words):
    with_plain(more, c2)
    with pytest.raises(ModuleFileError, match=words):
        standalone_source(["Plain", "CARAFE"])
