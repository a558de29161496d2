"""The commands as a user types them: output, exit codes, bad input, and a search that is killed."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from nas.cli import cli
from nas.errors import BuildError

NAS = [sys.executable, "-m", "nas"]
QUICK = ["--epochs", "1", "--imgsz", "32", "--batch", "8", "--init", "scratch", "--device", "cpu", "--confirm", "0"]


def invoke(*args: str):
    return CliRunner().invoke(cli, list(args))


def command(*args: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NAS, *args], cwd=cwd, capture_output=True, text=True, timeout=timeout)


def test_help_is_quick_and_complete():
    code = """
import sys
sys.argv = ["nas", "--help"]
try:
    import nas.cli
    nas.cli.main()
except SystemExit:
    heavy = {"torch", "ultralytics", "optuna", "numpy", "jinja2", "rich", "yaml"} & set(sys.modules)
    sys.exit(len(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, "a heavy module is imported for --help"
    for name in cli.commands:
        assert f"  {name} " in done.stdout
    for name, sub in cli.commands.items():
        assert invoke(name, "--help").exit_code == 0
        assert sub.help


def test_where_boxes_fall(tiny_data):
    result = invoke("data", str(tiny_data))
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"{tiny_data}: 16 training and 8 validation images, {boxes_of(tiny_data)} boxes",
        "target, 640 px: P3 0%, P4 0%, P5 100%",
        "proxy, windows of 256 px at 640 px: P3 0%, P4 0%, P5 100%",
        "windows of 256 px at 640 px would do: --window 256",
    ]
    result = invoke("data", str(tiny_data), "--imgsz", "64")
    assert "P5 (100% of the boxes) will idle in this proxy" in result.output
    body = json.loads(invoke("data", str(tiny_data), "--target-imgsz", "320", "--imgsz", "64", "--json").stdout)
    assert (body["target"]["imgsz"], body["proxy"]["imgsz"], body["proxy"]["windows_at"]) == (320, 64, 0)
    assert body["proxy"]["shares"] == {"P3": 1.0, "P4": 0.0, "P5": 0.0}
    result = invoke("data", str(tiny_data), "--window", "640")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--window 640 is not smaller than the target's images of 640 px" in result.stderr
    assert invoke("data", "nowhere.yaml").exit_code == 1


def boxes_of(data: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in data.parent.rglob("labels/*/*.txt"))


BLOCKED = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "ultralytics", "optuna", "sqlalchemy", "cv2", "matplotlib"}:
            raise AssertionError(f"imports {name}")
sys.meta_path.insert(0, Blocker())
from click.testing import CliRunner
from nas.cli import cli
for command in COMMANDS:
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    print(command, done.exit_code, len(done.output))
assert "plotly" not in sys.modules  # its script is read, not its Python
"""


def test_commands_that_read_import_neither_torch_nor_the_host(ranked_study, tmp_path):
    """Nor Optuna, whose tables they read; all of them, as tables and as JSON."""
    swap = {"neck.up_*": "CARAFE"}
    ranked_study([({}, "done", 0.4, 8.0), (swap, "done", 0.41, 8.1), ({"neck.c2f_*": "C2f_SPConv"}, "failed", 0, 8.0)])
    place = ["--storage", f"sqlite:///{tmp_path / 's.db'}"]
    commands = [["rank", "s", *place], ["rank", "s", "--csv", *place], ["effects", "s", *place], ["studies", *place]]
    commands += [["report", "s", "-o", "s.html", *place]]
    commands += [["ops"], ["space", "show", "seeds"], ["space", "list"]]
    commands += [[*c, "--json"] for c in commands if c[-1] != "list" and not {"--csv", "report"} & {*c}]
    code = BLOCKED.replace("COMMANDS", repr(commands))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(commands)
    assert all(f"{c} 0 " in line and not line.endswith(" 0") for c, line in zip(commands, lines, strict=True))


def test_space_commands(tmp_path):
    result = invoke("space", "show", "seeds")
    assert result.exit_code == 0
    assert "backbone.down_p2" in result.output
    assert "(off)" in result.output
    assert json.loads(invoke("space", "show", "seeds", "--json").stdout)["base"] == "yolov8"
    assert "seeds" in invoke("space", "list").output
    result = invoke("space", "show", "sedes")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no space named 'sedes'; did you mean seeds?")
    (tmp_path / "mine.yaml").write_text("slots: {neck.up_p4: [CARAFE]}")
    result = invoke("space", "check", str(tmp_path / "mine.yaml"), "--scale", "n", "--scale", "s")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("mine: 2 choices build")


def test_ops():
    result = invoke("ops")
    assert result.exit_code == 0
    for name in ("CARAFE", "DySample", "SPConv", "DynamicConv", "DCNv4", "C2f_DCNv4", "C2f_SPConv", "C2f_DynamicConv"):
        assert name in result.output
    assert "k_up" in invoke("ops", "CARAFE").output
    assert json.loads(invoke("ops", "CARAFE", "--json").stdout)[0]["arguments"]["k_up"]["default"] == 5
    kinds = ["up", "down, conv", "block", "pool", "attention", "head"]
    assert [line for line in result.output.splitlines() if line in kinds] == kinds
    assert "nas emit-yaml --swap 'after backbone.sppf=EMA' -o out/" in invoke("ops", "EMA").output
    assert "Ultralytics itself: needs no registration" in invoke("ops", "SPP").output
    assert "a guide of its output's size" in invoke("ops", "FADE").output
    lines = result.output.splitlines()
    footnotes = ["parameters and MACs", "of heads", "time", "fuse()", "export"]
    assert [line.split(":")[0] for line in lines[-5:]] == footnotes
    said = invoke("ops", "RepVGG").output
    assert re.search(r"^time +[0-9.]+ x Conv 3x3: a training step on a CPU", said, re.MULTILINE)
    assert re.search(r"^fuse\(\) +all of its batch norms folded", said, re.MULTILINE)
    assert re.search(r"^exports +ONNX", said, re.MULTILINE)
    body = json.loads(invoke("ops", "--json").stdout)
    assert all(m["time"] > 0 and m["time_beside"] and "onnx" in m["exports"] for m in body)
    result = invoke("ops", "CARAFFE")
    assert result.exit_code == 1
    assert "did you mean CARAFE" in result.stderr


def test_emit_and_cost(tmp_path):
    result = invoke(
        "emit-yaml",
        "--swap",
        "neck.up_p4=CARAFE",
        "--swap",
        "neck.c2f_*=C2f_DCNv4",
        "--scale",
        "s",
        "-o",
        str(tmp_path),
    )
    assert result.exit_code == 0, result.output
    (model,) = tmp_path.glob("yolov8s-*.yaml")
    assert f"wrote {model}" in result.output
    result = invoke("cost", str(model), "--json")
    body = json.loads(result.stdout)
    assert body["gflops"] > body["stock_gflops"] > 20
    assert "not counted" in invoke("cost", str(model)).output
    (tmp_path / "yolov8n-x.yaml").write_text("a: 1")
    assert invoke("cost", str(tmp_path / "yolov8n-x.yaml")).exit_code == 1
    assert invoke("cost", str(tmp_path / "none.yaml")).exit_code == 2


@pytest.mark.parametrize(
    "args",
    [
        ["emit-yaml"],
        ["emit-yaml", "--study", "a", "--swap", "neck.up_p4=CARAFE"],
        ["emit-yaml", "--swap", "neck.up_p4=CARAFE", "--best"],
        ["search", "--trials", "0"],
        ["search", "--epochs", "x"],
        ["search", "--bank-epochs", "0"],
        ["calibrate"],
        ["nonsense"],
        ["rank"],
        ["rank", "a", "--aa", "5"],
        ["effects"],
        ["search", "--seeds", "0"],
        *(["search", "--confirm", text] for text in ("3", "3:1", "0:3", "three:3", "3:3:3", "-1:3", "")),
    ],
)
def test_wrong_usage_exits_with_2(args):
    assert invoke(*args).exit_code == 2


def test_known_failures_exit_with_1(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for args, words in (
        (["rank", "blood"], "no study 'blood'"),
        (["rank", "blood", "--aa", "12"], "no study 'blood'"),
        (["effects", "blood"], "no study 'blood'"),
        (["search", "--study", "blood", "--confirm", "3:3"], "no study 'blood' in"),
        (["emit-yaml", "--study", "blood"], "no study 'blood'"),
        (["search", "--study", "blood"], "no study 'blood' in"),
        (["search", "seeds", "--data", "nowhere.yaml"], "nowhere.yaml"),
        (["search", "seeds", "--init", "nothing.pt"], "cannot inherit from 'nothing.pt'"),
        (["search", "seeds", "--weights", "nothing.pt"], "cannot inherit from 'nothing.pt'"),
        (["search", "seeds", "--proxy", "blood"], "no calibration 'blood'"),
        (["search", "seeds", "--epochs", "0", "--init", "scratch"], "with --init scratch there are none"),
        (
            ["search", "seeds", "--data", str(tiny_data), "--base-epochs", "0"],
            "give a trained one by --weights FILE.pt",
        ),
        (["bank", "blood"], "no study 'blood'"),
        (["search", "nothing.yaml"], "cannot read the space file nothing.yaml"),
        (["search", "seeds", "--storage", "mysql://x/y"], "cannot use the storage"),
        (["emit-yaml", "--swap", "neck.up_p4=CARAFFE"], "did you mean CARAFE"),
    ):
        result = invoke(*args)
        assert result.exit_code == 1, (args, result.output)
        assert result.stderr.startswith("error: "), result.output
        assert words in result.stderr
        assert "Traceback" not in result.output
    assert not list(tmp_path.rglob("*.db"))


def test_studies_and_doctor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no studies here" in invoke("studies").output
    facts = json.loads(invoke("doctor", "--json").stdout)
    assert facts["host anchor"].startswith("found in Ultralytics")
    assert facts["torch"]
    assert "CARAFE" in facts["modules"]


def test_search_rank_resume_emit(tiny_data, tmp_path, monkeypatch):
    """The road of a user with data of their own, end to end; the first command as a process, with all its imports."""
    done = command(
        "search", "quick", "--data", str(tiny_data), "--trials", "2", "--study", "mine", *QUICK, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Compared 2 variants of yolov8n." in done.stdout
    assert "nas emit-yaml --study mine --best" in done.stdout
    assert "trial 1: " in done.stderr
    assert (tmp_path / "studies" / "mine.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["studies"]  # the host has ways to litter

    monkeypatch.chdir(tmp_path)
    more = invoke("search", "--study", "mine", "--trials", "1")
    assert more.exit_code == 0, more.stderr
    rows = list(csv.DictReader(io.StringIO(invoke("rank", "mine", "--csv").stdout)))
    assert len(rows) == 3
    assert len({r["id"] for r in rows}) == 3
    body = json.loads(invoke("rank", "mine", "--json").stdout)
    assert [r["id"] for r in body["rows"]] == [r["id"] for r in rows]
    assert body["settings"]["recipe"]["epochs"] == 1

    again = invoke("search", "--study", "mine")
    assert again.exit_code == 0
    assert "has all 3 requested trials" in again.stderr
    assert "--confirm 3:3 confirms the first 3" in again.stderr

    emitted = invoke("emit-yaml", "--study", "mine", "--best", "-o", "out")
    assert emitted.exit_code == 0, emitted.stderr
    assert (tmp_path / "out" / f"yolov8n-{rows[0]['id']}.yaml").exists()
    priced = json.loads(invoke("cost", f"out/yolov8n-{rows[0]['id']}.yaml", "--json").stdout)
    assert priced["gflops"] == pytest.approx(float(rows[0]["gflops"]), abs=1e-3)

    confirmed = invoke("search", "--study", "mine", "--confirm", "1:2")
    assert confirmed.exit_code == 0, confirmed.stderr
    assert "confirming: the first 1 of the ranking and the baseline get further seeds, 2 in all" in confirmed.stderr
    body = json.loads(invoke("rank", "mine", "--json", "--aa", "6").stdout)
    assert sorted(r["seed_list"] for r in body["rows"]) == ["0", "0 1", "0 1 2 3 4 5"]
    assert (body["aa"]["pool"], body["confirm"]) == (6, "1:2")

    other = invoke("search", "--study", "mine", "--epochs", "2", "--trials", "1")
    assert other.exit_code == 1
    assert "recipe: epochs: 1, not 2" in other.stderr
    listed = command("studies", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "mine" in listed.stdout


def test_a_first_attempt_that_cannot_work_does_not_block_its_name(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["search", "quick", "--data", str(tiny_data), "--trials", "1", "--study", "g", *QUICK]

    def broken(_variant):
        raise BuildError("no memory for it")

    with monkeypatch.context() as now:
        now.setattr("nas.search.runner.costed", broken)
        wrong = invoke(*args)
    assert wrong.exit_code == 1
    assert "the baseline itself failed" in wrong.stderr
    right = invoke(*args)
    assert right.exit_code == 0, right.stderr
    assert "Only the baseline has finished yet." in right.stdout


def test_killed_search_ends_with_the_trials_asked_for(tiny_data, tmp_path, monkeypatch):
    args = ["search", "quick", "--data", str(tiny_data), "--trials", "3", "--study", "k", *QUICK, "--epochs", "3"]
    args += ["--init", "baseline", "--base-epochs", "1"]
    victim = subprocess.Popen([*NAS, *args], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        _wait_for_epoch(tmp_path / "studies" / "k.db", victim, trial=1, epoch=0)
        victim.send_signal(signal.SIGKILL)
    finally:
        victim.kill()
        victim.wait()
    monkeypatch.chdir(tmp_path)
    done = invoke(*args)
    assert done.exit_code == 0, done.stderr
    assert "1 of 3 trials are done; finishing the request" in done.stderr
    assert "training the baseline" not in done.stderr
    body = json.loads(invoke("rank", "k", "--json").stdout)
    assert len(body["rows"]) == 3
    from nas.study.location import locate
    from nas.study.study import Study

    states = [t.status for t in Study.load(locate("k", f"sqlite:///{tmp_path / 'studies' / 'k.db'}")).trials()]
    assert sorted(states) == ["done", "done", "done", "interrupted"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_loses_nothing_that_was_finished(tiny_data, tmp_path, number):
    args = ["search", "quick", "--data", str(tiny_data), "--trials", "3", "--study", "c", *QUICK, "--epochs", "30"]
    # What is started in the background may have been told to ignore Ctrl-C, and hands that on.
    listening = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731
    victim = subprocess.Popen([*NAS, *args], cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=listening)
    _wait_for_epoch(tmp_path / "studies" / "c.db", victim, trial=0, epoch=1)
    victim.send_signal(number)
    rest = victim.stderr.read()
    assert victim.wait(30) == 130, rest
    assert "stopped; finished work is stored" in rest
    assert "Traceback" not in rest
    from nas.study.location import locate
    from nas.study.study import Study

    study = Study.load(locate("c", f"sqlite:///{tmp_path / 'studies' / 'c.db'}"))
    assert [t.status for t in study.trials()] == ["interrupted"]
    deadline = time.monotonic() + 20
    while _trainings(victim.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _trainings(victim.pid)


def _wait_for_epoch(database: Path, search: subprocess.Popen, *, trial: int, epoch: int) -> None:
    """Wait until a search has stored an epoch of a trial; 0 is the trial itself."""
    sql = (
        "SELECT max(coalesce(a.value_json, 0)) FROM trials t LEFT JOIN trial_user_attributes a "
        "ON a.trial_id = t.trial_id AND a.key = 'epoch' WHERE t.number = ?"
    )
    deadline, url = time.monotonic() + 240, f"{database.as_uri()}?mode=ro"
    while time.monotonic() < deadline and search.poll() is None:
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(url, uri=True)) as file:
            found = file.execute(sql, (trial,)).fetchone()[0]
            if found is not None and int(found) >= epoch:
                return
        time.sleep(0.1)
    pytest.fail(f"no epoch {epoch} of trial {trial}: {search.stderr.read() if search.poll() is not None else ''}")


def _trainings(parent: int) -> list[str]:
    """Return processes whose parent is or was the given one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(parent):
            found.append(stat.parent.name)
    return found


def test_same_seed_same_study(tiny_data, tmp_path, monkeypatch):
    """Bit for bit, also between a fresh training process and one that has trained before."""
    monkeypatch.chdir(tmp_path)
    tables = []
    for name in ("a", "b"):
        args = ["search", "quick", "--data", str(tiny_data), "--study", name, *QUICK, "--epochs", "2", "--seed", "5"]
        args += ["--workers", "1"]
        trials = [["--trials", "3"]] if name == "a" else [["--trials", "1"], ["--trials", "2"]]
        for part in trials:
            done = invoke(*args, *part)
            assert done.exit_code == 0, done.stderr
        from nas.study.location import locate
        from nas.study.study import Study

        study = Study.load(locate(name, f"sqlite:///{tmp_path / 'studies' / f'{name}.db'}"))
        tables.append([(t.variant, [(s.train_loss, s.validation) for s in t.curve]) for t in study.trials()])
    assert tables[0] == tables[1]
    assert tables[0][0][1] != tables[0][1][1]
