"""Writing into someone else's folder."""

import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from nas.emit import forms as emit
from nas.errors import OutputError, StudyError
from nas.model.render import render
from nas.space.variant import Variant, parse_swaps
from nas.study.objective import Goal

VARIANT = parse_swaps("yolov8", "n", ["neck.up_p4=CARAFE"])


@pytest.fixture
def files():
    return render(VARIANT)


@pytest.fixture
def texts(files):
    return emit.texts_of(VARIANT, files, emit.DEFAULT_FORMS)


def test_write_and_write_again(files, texts, tmp_path):
    paths = emit.write(texts, tmp_path / "new" / "out")
    assert [p.name for p in paths] == [f"{files.name}{s}" for s in (".yaml", ".snippet.txt", ".train.py")]
    assert paths[0].read_bytes() == files.yaml.encode()
    assert emit.write(texts, tmp_path / "new" / "out") == paths
    assert len(list((tmp_path / "new" / "out").iterdir())) == 3


def test_nothing_is_replaced_unless_forced(files, texts, tmp_path):
    mine = tmp_path / f"{files.name}.yaml"
    mine.write_text("mine")
    with pytest.raises(OutputError, match=r"exists and differs; --force replaces it"):
        emit.write(texts, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [mine.name]
    assert mine.read_text() == "mine"
    emit.write(texts, tmp_path, force=True)
    assert mine.read_text() == files.yaml


def test_dry_run_writes_nothing(files, texts, tmp_path):
    paths = emit.write(texts, tmp_path / "out", dry_run=True)
    assert len(paths) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(files, texts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        emit.write(texts, tmp_path / "file" / "out")


def test_forms_are_written_as_asked(files, tmp_path):
    texts = emit.texts_of(VARIANT, files, ["yaml"])
    assert [p.name for p in emit.write(texts, tmp_path)] == [f"{files.name}.yaml"]


def test_rendering_is_pure():
    variant = parse_swaps("yolov8", "n", ["neck.c2f_*=C2f_DCNv4"])
    assert render(variant) == render(Variant("yolov8", "n", variant.swaps))


def test_baseline_needs_no_registration():
    assert "needs no registration" in render(Variant("yolov8", "n")).snippet


def test_the_training_script_trains(texts, tiny_data, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(tiny_data.parent, own)
    (own / "data.yaml").write_text("path: .\n" + tiny_data.read_text())
    script = emit.write(texts, tmp_path)[2]
    known = ["--data", str(own / "data.yaml"), "--epochs", "1", "--imgsz", "64", "--batch", "8", "--device", "cpu"]
    further = ["plots=False", "workers=0", f"project={tmp_path}", "name=run"]
    command = [sys.executable, str(script), *known, *further]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "weights" / "last.pt").exists()


def test_choosing_from_a_study(tmp_path):
    class Empty:
        location = type("P", (), {"name": "empty"})
        settings = type("S", (), {"floor": 0.02, "goal": Goal(), "prior": None, "at": lambda self, fidelity: self})()

        def trials(self, fidelity=""):
            return []

        runs = trials

    with pytest.raises(StudyError, match="has no finished trial yet"):
        emit.chosen_trials(Empty())
    with pytest.raises(StudyError, match="has no trial 3 that was built; its trials: none"):
        emit.chosen_trials(Empty(), number=3)


def test_json_of_the_command(tmp_path):
    from nas.cli import cli

    result = CliRunner().invoke(cli, ["emit-yaml", "--swap", "neck.up_p4=CARAFE", "-o", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["files"][0].endswith(".yaml")


def test_which_of_a_ranking(ranked_study):
    study = ranked_study(
        [
            ({}, "done", 0.40, 8.0),
            ({"neck.up_*": "CARAFE"}, "done", 0.42, 8.2),
            ({"neck.up_*": "DySample"}, "done", 0.41, 8.1),
            ({"neck.down_*": "SPConv"}, "done", 0.39, 8.3),  # behind all others
            ({"neck.c2f_*": "C2f_SPConv"}, "failed", 0, 8.0),
        ]
    )

    def labels(**options):
        return [t.variant.describe() for t in emit.chosen_trials(study, **options)]

    assert len(labels()) == 1
    up = ["neck.{up_p3,up_p4}=CARAFE", "neck.{up_p3,up_p4}=DySample"]
    assert sorted(labels(which="front")) == up
    assert sorted(labels(which="all")) == ["neck.{down_n4,down_n5}=SPConv", *up]


def test_nothing_but_the_baseline(ranked_study):
    study = ranked_study([({}, "done", 0.40, 8.0)])
    assert emit.chosen_trials(study)[0].variant.is_baseline
    with pytest.raises(StudyError, match="has nothing but its baseline there"):
        emit.chosen_trials(study, which="front")


def test_several_scales_are_a_variant_each(tmp_path):
    from nas.cli import cli

    swap = ["emit-yaml", "--swap", "neck.up_p4=CARAFE", "--form", "yaml", "-o", str(tmp_path)]
    result = CliRunner().invoke(cli, [*swap, "--scale", "n,s"])
    assert result.exit_code == 0, result.output
    names = sorted(p.name.split("-")[0] for p in tmp_path.iterdir())
    assert names == ["yolov8n", "yolov8s"]
    for path in tmp_path.iterdir():
        letter = path.name[6]
        (own,) = [line for line in path.read_text().splitlines() if line.startswith(f"  {letter}: [")]
        assert "GFLOPs" in own
    for wrong in (["--scale", "n,q"], ["--front"], ["--all"]):
        assert CliRunner().invoke(cli, [*swap, *wrong]).exit_code in (1, 2)
    assert CliRunner().invoke(cli, ["emit-yaml", "--study", "a", "--front", "--all"]).exit_code == 2


@pytest.mark.parametrize(
    "name", ["../out.yaml", "/tmp/out.yaml", "a/../../out.yaml", "a\\..\\out.yaml", "C:out.yaml", ""]
)
def test_nothing_is_written_outside_of_the_folder(name, tmp_path):
    with pytest.raises(OutputError, match=r"would lie outside of .*nothing is written"):
        emit.write({emit.Path("fine.yaml"): "fine", emit.Path(name): "x"}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_a_files_place(files, texts, tmp_path):
    (tmp_path / f"{files.name}.yaml").mkdir()
    for force in (False, True):
        with pytest.raises(OutputError, match=r"\.yaml is a folder: move it away"):
            emit.write(texts, tmp_path, force=force)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_half_way_is_taken_back(files, texts, tmp_path, monkeypatch):
    """The second file cannot be put in its place: the first is as it was, and nothing lies beside."""
    first, second, _ = (tmp_path / path for path in texts)
    first.write_text("mine")
    plain = emit.Path.replace

    def refuse(path, target):
        if target == second:
            raise PermissionError("read-only")
        return plain(path, target)

    monkeypatch.setattr(emit.Path, "replace", refuse)
    with pytest.raises(OutputError, match=r"cannot write to .*read-only"):
        emit.write(texts, tmp_path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == [first.name]
    assert first.read_text() == "mine"


def test_a_trials_own_bytes_and_the_costs_of_all_scales(ranked_study):
    study = ranked_study([({"neck.up_*": "CARAFE"}, "done", 0.42, 8.2)])
    from dataclasses import replace

    trial = replace(study.trials()[0], yaml="what was trained\n")
    (own,) = emit.files_at_scales(trial)
    assert own[1].yaml == trial.yaml
    (n, s) = emit.files_at_scales(trial, ["n", "s", "n"])
    assert n[1].yaml == trial.yaml
    stated = [line[2] for line in s[1].yaml.splitlines() if line.startswith("  ") and "GFLOPs" in line]
    assert stated == ["n", "s"]
    assert s[0].swaps == trial.variant.swaps
    assert [v.scale for v, _ in emit.files_at_scales(trial.variant, ["s"])] == ["s"]


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
    from nas.cli import cli

    command = ["emit-yaml", "--swap", "neck.up_p4=CARAFE", "-o", str(tmp_path / "out"), *more]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 1
    assert words in result.output
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_or_cannot_be_written(tmp_path, monkeypatch):
    from nas.cli import cli

    (tmp_path / "out").write_text("mine")
    swap = ["emit-yaml", "--swap", "neck.up_p4=CARAFE", "--form", "yaml", "-o"]
    assert CliRunner().invoke(cli, [*swap, str(tmp_path / "out")]).exit_code == 2
    result = CliRunner().invoke(cli, [*swap, str(tmp_path / "out" / "below")])
    assert result.exit_code == 1
    assert "cannot write to" in result.output
    monkeypatch.setattr(
        emit.Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system"))
    )
    result = CliRunner().invoke(cli, [*swap, str(tmp_path / "other")])
    assert result.exit_code == 1
    assert "Read-only file system" in result.output
    assert "Traceback" not in result.output
