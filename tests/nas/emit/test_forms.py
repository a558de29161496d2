"""The table of forms, a contract that every form in it keeps, and what the default ones do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nas.cli import cli
from nas.cli.emit import emit_yaml
from nas.emit.forms import DEFAULT, FORMS, texts_of
from nas.emit.output import write_files
from nas.emit.selection import files_of_variant
from nas.errors import OutputError
from nas.model.render import render
from nas.space.variant import Variant, parse_swaps

SWAP = "neck.up_p4=CARAFE"
VARIANT = parse_swaps("yolov8", "n", [SWAP])


def emit(*arguments: object):
    return CliRunner().invoke(cli, ["emit-yaml", "--swap", SWAP, *map(str, arguments)])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- contract: every registered form --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rendered():
    return files_of_variant(VARIANT)


@pytest.fixture(scope="module", params=FORMS)
def form(request, rendered):
    """Return a form's name and its files."""
    return request.param, texts_of(VARIANT, rendered, [request.param])


@pytest.fixture(scope="module")
def in_another_process(tmp_path_factory):
    """Return the files of all forms, of a process whose sets have another order."""
    out = tmp_path_factory.mktemp("forms") / "out"
    subprocess.run(
        [sys.executable, "-m", "nas", "emit-yaml", "--swap", SWAP, "--form", ",".join(FORMS), "-o", str(out)],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": "1"},
        timeout=300,
    )
    return contents(out)


def test_a_form_is_described(form):
    name, texts = form
    assert texts
    assert FORMS[name].name == name
    option = next(p for p in emit_yaml.params if p.name == "forms")
    assert isinstance(option, click.Option)
    assert f"{name} ({FORMS[name].help})" in str(option.help)
    assert (name in str(option.default).split(",")) == FORMS[name].default


def test_a_form_writes_only_below_the_output_folder_and_over_nothing(form, tmp_path):
    texts = form[1]
    out = tmp_path / "out"
    assert write_files(texts, out, dry_run=True) == [out / path for path in texts]
    assert list(tmp_path.iterdir()) == []
    assert write_files(texts, out) == [out / path for path in texts]
    assert contents(tmp_path).keys() == {Path("out") / path for path in texts}
    for path in texts:
        (out / path).write_text("mine")
        with pytest.raises(OutputError, match="exists and differs; --force replaces it"):
            write_files(texts, out)
        assert (out / path).read_text() == "mine"
        write_files(texts, out, force=True)


def test_a_form_is_the_same_in_every_process(form, in_another_process):
    for path, text in form[1].items():
        assert in_another_process[path] == (text.encode() if isinstance(text, str) else text)


def test_a_form_names_its_variant_and_no_folder_of_this_machine(form, rendered):
    """Files of several variants go to one folder, and files go to other machines."""
    for path, text in form[1].items():
        assert path.parts[0].startswith(rendered.name)
        text = text if isinstance(text, str) else text.decode(errors="replace")
        assert "\r" not in text
        for folder in (Path.cwd(), Path.home(), Path(sys.prefix)):
            assert str(folder) == "/" or f"{folder}{os.sep}" not in text


def test_a_form_of_the_stock_model_is_written_or_refused_with_a_reason(form):
    stock = Variant("yolov8", "n")
    said = ""
    try:
        texts = texts_of(stock, render(stock), [form[0]])
    except OutputError as error:
        texts, said = {}, str(error)
    assert texts or "is the stock model" in said


def test_nothing_else_is_written_by_any_form(in_another_process, rendered):
    expected = set().union(*(texts_of(VARIANT, rendered, [name]) for name in DEFAULT))
    assert expected < in_another_process.keys()
    assert all(path.parts[0].startswith(rendered.name) for path in in_another_process)


# ---- the command ----------------------------------------------------------------------------------------------------


def test_forms_are_written_as_requested(rendered, tmp_path):
    done = emit("--form", "yaml", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    assert [p.name for p in tmp_path.iterdir()] == [f"{rendered.name}.yaml"]
    done = emit("--json", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    ends = [path.partition(rendered.name)[2] for path in json.loads(done.stdout)["files"]]
    assert ends == [".yaml", ".snippet.txt", ".train.py"]


@pytest.mark.parametrize("forms", ["", ",", "yaml,diff", "Yaml"])
def test_an_unknown_form_lists_all(forms, tmp_path):
    done = emit("--form", forms, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert f"expected some of {', '.join(FORMS)}" in " ".join(done.output.split())
    assert list(tmp_path.iterdir()) == []


def test_rendering_is_pure():
    variant = parse_swaps("yolov8", "n", ["neck.c2f_*=C2f_DCNv4"])
    assert render(variant) == render(Variant("yolov8", "n", variant.swaps))


def test_baseline_needs_no_registration():
    assert "needs no registration" in render(Variant("yolov8", "n")).snippet


def test_the_training_script_trains(rendered, tiny_data, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(tiny_data.parent, own)
    (own / "data.yaml").write_text("path: .\n" + tiny_data.read_text())
    script = write_files(texts_of(VARIANT, rendered, DEFAULT), tmp_path)[2]
    known = ["--data", str(own / "data.yaml"), "--epochs", "1", "--imgsz", "64", "--batch", "8", "--device", "cpu"]
    further = ["plots=False", "workers=0", f"project={tmp_path}", "name=run"]
    command = [sys.executable, str(script), *known, *further]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "weights" / "last.pt").exists()


def test_several_scales_are_a_variant_each(tmp_path):
    swap = ["--form", "yaml", "-o", tmp_path]
    result = emit(*swap, "--scale", "n,s")
    assert result.exit_code == 0, result.output
    names = sorted(p.name.split("-")[0] for p in tmp_path.iterdir())
    assert names == ["yolov8n", "yolov8s"]
    for path in tmp_path.iterdir():
        letter = path.name[6]
        (own,) = [line for line in path.read_text().splitlines() if line.startswith(f"  {letter}: [")]
        assert "GFLOPs" in own
    for wrong in (["--scale", "n,q"], ["--front"], ["--all"]):
        assert emit(*swap, *wrong).exit_code in (1, 2)
    assert CliRunner().invoke(cli, ["emit-yaml", "--study", "a", "--front", "--all"]).exit_code == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--scale", "q"], "yolov8 has no scale 'q'; its scales: n, s, m, l, x"),
        (["--scale", "n,q"], "yolov8 has no scale 'q'"),
        (["--base", "yolov9"], "unknown base 'yolov9'"),
        (["--base", "../yolov8"], "unknown base '../yolov8'"),
        (["--swap", "neck.up_p9=CARAFE"], "yolov8 has no layer 'neck.up_p9'"),
        (["--swap", "neck.up_p4=SPConv"], "SPConv fits slots of kind"),
    ],
)
def test_what_does_not_fit_the_base(more, words, tmp_path):
    result = emit("-o", tmp_path / "out", *more)
    assert result.exit_code == 1
    assert words in result.output
    assert not (tmp_path / "out").exists()
