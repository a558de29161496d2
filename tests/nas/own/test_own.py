"""Own modules: files that a space names, imported by their content."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas import own
from nas.emit.forms import texts_of
from nas.emit.standalone import standalone_source
from nas.errors import ModuleFileError, SpaceError
from nas.model.host import build
from nas.model.render import render
from nas.ops import registry
from nas.own import files as module_files
from nas.own.files import ModuleFile
from nas.space.search_space import SearchSpace
from nas.space.space_file import load_space
from nas.space.variant import parse_swaps

pytestmark = pytest.mark.usefixtures("registry_as_before")
HERE = Path(__file__).parent
PLAIN = """
import nas
from torch import nn

@nas.module(rule="block", kinds={"block"}, paper="-", summary="-")
class Plain(nn.Conv2d):
    def __init__(self, c1, c2, n=1):
        super().__init__(c1, c2, 1)
"""


@pytest.fixture
def folder(tmp_path):
    """Return a copy of the folder with the space and its module."""
    return Path(shutil.copytree(HERE, tmp_path / "user"))


def loaded(text, name="plain.py"):
    file = ModuleFile(name, text)
    own.use([file])
    return sys.modules[file.import_name]


def test_a_space_brings_its_modules(folder):
    space = load_space(str(folder / "my_space.yaml"))
    assert space.slots[1].choices == ("keep", "MyBlock", "MyBlock(kernel=7)")
    assert [file.name for file in space.modules] == ["my_block.py"]
    variant = space.variant({"neck.c2f_p4": "MyBlock(kernel=7)"})
    model = build(render(variant).yaml, "n")
    (block,) = (m for m in model.modules() if type(m).__name__ == "MyBlock")
    assert block.mixers[0].filter.conv.kernel_size == (7, 7)
    assert type(block).__module__ == space.modules[0].import_name


def test_what_was_searched_is_what_is_emitted(folder):
    """The study's text counts, though the file has changed and then gone."""
    stored = load_space(str(folder / "my_space.yaml")).to_json()
    original = (folder / "my_block.py").read_text()
    (folder / "my_block.py").write_text(original.replace("HIDDEN = 0.5", "HIDDEN = 0.25"))
    edited = load_space(str(folder / "my_space.yaml"))
    wide = parse_swaps("yolov8", "n", ["neck.c2f_p4=MyBlock"])
    assert "HIDDEN = 0.25" in standalone_source(["MyBlock"])
    narrow_params = sum(p.numel() for p in build(render(wide).yaml, "n").parameters())
    (folder / "my_block.py").unlink()
    space = SearchSpace.from_json(stored)
    own.use(space.modules)
    assert "HIDDEN = 0.5" in standalone_source(["MyBlock"])
    files = render(wide)
    assert sum(p.numel() for p in build(files.yaml, "n").parameters()) > narrow_params
    texts = texts_of(wide, files, ["yaml", "plugin"])
    assert texts[Path("my_block.py")] == original
    name = space.modules[0].import_name
    assert name in files.yaml
    assert f"import {name}  #" in files.train
    assert edited.fingerprint != space.fingerprint
    assert module_files.file_differences(space.modules, edited.modules) == [
        f"modules: my_block.py was {space.modules[0].digest}, is {edited.modules[0].digest} now"
    ]


def test_a_space_without_own_modules_keeps_its_fingerprint():
    space = load_space("quick")
    assert "modules" not in space.to_json()
    assert SearchSpace.from_json(space.to_json()) == space


def test_files_of_one_name_do_not_mix(tmp_path):
    """Two spaces, two contents: each object stays what it was, and the registry has the last one."""
    first = loaded(PLAIN)
    second = loaded(PLAIN.replace("c2, 1)", "c2, 3, padding=1)"))
    assert first.Plain is not second.Plain
    assert registry.get("Plain").cls is second.Plain
    conv = first.Plain(4, 4)
    assert type(pickle.loads(pickle.dumps(conv))) is first.Plain
    assert module_files.files_of(["Plain"])[0].text != PLAIN
    own.use([ModuleFile("plain.py", PLAIN)])
    assert registry.get("Plain").cls is first.Plain
    yaml = render(parse_swaps("yolov8", "n", ["neck.c2f_p4=Plain"])).yaml
    assert any(type(m) is first.Plain for m in build(yaml, "n").modules())


def test_line_ends_and_marks_do_not_make_another_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "plain.py").write_bytes(PLAIN.encode())
    (tmp_path / "a" / "plain.py").write_bytes(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode())
    assert module_files.read_file(tmp_path / "plain.py") == module_files.read_file(tmp_path / "a" / "plain.py")


@pytest.mark.parametrize("place", ["cache", "NAS_MODULES", "path"])
def test_a_checkpoint_finds_the_file(place, tmp_path, monkeypatch):
    """By name and content; other content under that name is passed over."""
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    text = f"# {place}\n{PLAIN}"
    pickled = pickle.dumps(loaded(text).Plain(2, 2))
    file = ModuleFile("plain.py", text)
    del sys.modules[file.import_name]
    monkeypatch.delitem(module_files.AT_HAND, file.import_name)
    if place != "cache":
        shutil.rmtree(tmp_path / "cache")
        for folder, content in (("other", PLAIN), ("right", text)):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "plain.py").write_text(content)
            if place == "path":
                monkeypatch.syspath_prepend(tmp_path / folder)
        folders = [str(tmp_path / "other"), str(tmp_path / "right")]
        monkeypatch.setenv("NAS_MODULES", os.pathsep.join(folders) if place != "path" else "")
    assert type(pickle.loads(pickled)).__module__ == file.import_name


def test_a_file_that_is_nowhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lost.py").write_text(PLAIN)
    digest = module_files.read_file(tmp_path / "lost.py").digest
    with pytest.raises(ModuleFileError) as error:
        pickle.loads(b"cnas.own.lost_0123abcd\nPlain\n.")
    assert not isinstance(error.value, ModuleNotFoundError), "Ultralytics would ask a package index for it"
    assert "the file lost.py whose SHA-256 starts with 0123abcd, and it is not here" in str(error.value)
    assert f"lost.py has other content ({digest})" in str(error.value)
    assert "NAS_MODULES" in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def x(:\n", r"plain.py:1: invalid syntax"),
        ("x = 1\nimport not_there_at_all\n", r"plain.py:2: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("x = 1\n", r"plain.py registers no module: decorate its class with @nas.module"),
        (PLAIN.replace("Plain", "CARAFE"), r"plain.py:\d+: ValueError: a module named 'CARAFE' is registered already"),
        (PLAIN + "\n1 / 0\n", r"plain.py:\d+: ZeroDivisionError"),
        (PLAIN + "\nPlain = None\n", r"plain.py: Plain is not at the top level of the file under its own name"),
        ("\0", r"plain.py: .*null"),
        (PLAIN.replace("rule=", "role="), r"plain.py:5: TypeError: .*role"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text, words):
    before = registry.entries()
    with pytest.raises(ModuleFileError, match=words):
        loaded(text)
    assert registry.entries() == before


def test_all_problems_of_a_space_have_their_line(folder):
    (folder / "bad.py").write_text("x = 1\n")
    (folder / "a-b.py").write_text(PLAIN)
    (folder / "s.yaml").write_text("modules:\n- bad.py\n- a-b.py\n- none.py\nslots: {neck.c2f_p4: [keep, MyBlock]}\n")
    with pytest.raises(SpaceError) as error:
        load_space(str(folder / "s.yaml"))
    lines = [line.partition("s.yaml:")[2] for line in str(error.value).splitlines()]
    assert lines[0].startswith("2: modules: bad.py registers no module")
    assert lines[1].startswith("3: modules: ")
    assert "a-b.py: expected a Python file whose name can be imported" in lines[1]
    assert lines[2].startswith("4: modules: cannot read ")
    assert len(lines) == 3
    (folder / "s.yaml").write_text("modules: my_block.py\nslots: {neck.c2f_p4: [keep, MyBlock]}\n")
    with pytest.raises(SpaceError, match="modules: expected a list of Python files"):
        load_space(str(folder / "s.yaml"))


def test_two_files_cannot_have_one_module():
    files = [ModuleFile(f"{name}.py", f"# {name}\n{PLAIN}") for name in ("one", "two")]
    with pytest.raises(ModuleFileError, match=r"one.py and two.py both register Plain: rename one of them"):
        own.use(files)


def test_a_class_of_the_running_script_is_refused():
    cls = type("Block", (torch.nn.Module,), {"__module__": "__main__"})
    with pytest.raises(ValueError, match="Block is defined in the script that runs"):
        registry.register(rule="same", kinds={"up"}, paper="-", summary="-")(cls)


def test_a_bank_is_of_one_content(folder, calibrator, fake_worker):
    """What was distilled from another text is not taken; the training process gets the text."""
    maker = calibrator()
    recipe = dict(maker.calibration.proxies)["bank-0"]
    banks = []
    for more in ("", "# edited\n"):
        with (folder / "my_block.py").open("a") as file:
            file.write(more)
        space = load_space(str(folder / "my_space.yaml"))
        banks.append(replace(maker.weights, space=space).bank(recipe, 0).folder)
        assert fake_worker.distilled[-1].proxy.modules == space.modules
    assert banks[0] != banks[1]
    assert len(fake_worker.distilled) == 2
