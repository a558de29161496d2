"""Commands on files of strangers: no code of theirs runs, none asks the network, and a message says what is wrong."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nas.cli import cli
from nas.model.render import render
from nas.own.files import ModuleFile
from nas.space.variant import Variant

YAML = render(Variant("yolov8", "n")).yaml
RUNS = "__import__('os').system('touch RAN') or __import__('torch').nn.SiLU()"
SPACE = "base: yolov8\nscale: n\nslots:\n  neck.up_*: [keep, CARAFE]\nconstraints: {max_gflops: %s}\n"
LAUGHS = "[&a0 [x,x,x,x,x,x,x,x,x,x]" + "".join(f", &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)) + "]"


def nas(*arguments: str):
    return CliRunner().invoke(cli, arguments)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def refused(done, *words: str) -> None:
    """Check for exit code 1 and a short message."""
    assert done.exit_code == 1, (done.output, done.exception)
    assert done.stderr.startswith("error: ")
    assert len(done.stderr) < 1500
    for word in words:
        assert word in done.stderr


def test_nas_cost_evaluates_no_activation(here):
    (here / "yolov8n-eval.yaml").write_text(YAML.replace("nc: 80", f"nc: 80\nactivation: {RUNS}"))
    refused(nas("cost", "yolov8n-eval.yaml"), "activation", "nn.SiLU()")
    refused(nas("import", "yolov8n-eval.yaml"), "yolov8n-eval.yaml:", "activation")
    assert not (here / "RAN").exists()


def test_nas_cost_imports_no_file_that_a_comment_names(here, registry_as_before):
    code = 'open("RAN", "a").write("x")\nimport nas\nfrom torch import nn\n\n\n'
    code += '@nas.module(rule="block", kinds={"block"}, paper="-", summary="e")\nclass Ev(nn.Conv2d):\n'
    code += "    def __init__(self, a, b, n=1):\n        super().__init__(a, b, 1)\n"
    (here / "helper.py").write_text(code)
    name = ModuleFile("helper.py", code).import_name
    (here / "yolov8n-post.yaml").write_text(f"# see {name}\n{YAML}")
    assert nas("cost", "yolov8n-post.yaml").exit_code == 0
    (here / "yolov8n-own.yaml").write_text(f"# see {name}\n{YAML.replace('C2f, [128, True]', 'Ev, [128]')}")
    refused(nas("cost", "yolov8n-own.yaml"), "--modules helper.py")
    assert not (here / "RAN").exists()
    done = nas("cost", "yolov8n-own.yaml", "--modules", "helper.py")
    assert done.exit_code == 0, done.output
    assert (here / "RAN").exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (LAUGHS, "more than 50,000 values with aliases expanded"),
        ("2026-13-45", "month must be in 1..12"),
        ("[" * 300 + "]" * 300, "nested too deeply"),
        ("1" + "0" * 400, "a number of 401 digits"),
        (".inf", "expected a number above 0"),
    ],
)
def test_spaces_that_would_take_time_or_memory(here, value, words):
    (here / "s.yaml").write_text(SPACE % value)
    refused(nas("space", "show", "s.yaml"), "s.yaml", words)


def test_a_bomb_under_nc(here):
    (here / "yolov8n-bomb.yaml").write_text(YAML.replace("nc: 80", f"nc: {LAUGHS}"))
    for command in ("import", "cost"):
        refused(nas(command, "yolov8n-bomb.yaml"), "aliases expanded")


def test_many_unknown_modules(here):
    rows = "".join(f"  - [-1, 1, MyBlockNumber{i}, [64]]\n" for i in range(490))
    (here / "yolov8n-many.yaml").write_text(f"nc: 80\nbackbone:\n{rows}head:\n  - [[1], 1, Detect, [nc]]\n")
    refused(nas("import", "yolov8n-many.yaml", "--base", "yolov8"), "yolov8n-many.yaml")


def test_a_table_whose_rows_are_lists(here):
    space = {"base": "yolov8", "scale": "n", "slots": [], "forbid": [], "limits": {}, "name": "x"}
    (here / "t.json").write_text(json.dumps({"schema": 1, "space": space, "rows": [[1]], "about": {}}))
    refused(nas("search", "--replay", "t.json"), "cannot use the table t.json")
    (here / "t.json").write_text("[" * 100_000)
    refused(nas("search", "--replay", "t.json"), "nested too deeply")


def test_terminal_escapes_are_shown_as_text(here):
    (here / "s.yaml").write_text(SPACE % '"\\e]0;title\\a\\e[31mred"')
    done = nas("space", "show", "s.yaml")
    assert done.exit_code == 1
    assert "\x1b" not in done.output
    assert "x1b[31mred" in done.stderr


# ---- studies --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(ranked_study, here):
    """Return what puts a study 'ok' with changes into studies/ok.db, beside a healthy one."""
    study = ranked_study([({}, "done", 0.4, 8.0), ({"neck.up_*": "CARAFE"}, "done", 0.41, 8.1)])

    def make(change) -> None:
        (here / "studies").mkdir()
        for name in ("ok", "healthy"):
            with sqlite3.connect(study.location.file) as source, sqlite3.connect(here / "studies" / f"{name}.db") as to:
                source.backup(to)
                to.execute("update studies set study_name=?", (name,))
                for row, text in to.execute(
                    "select rowid, value_json from trial_user_attributes where key='record'"
                ).fetchall():
                    body = json.loads(text) | {"yaml": YAML}
                    to.execute("update trial_user_attributes set value_json=? where rowid=?", (json.dumps(body), row))
                if name == "ok":
                    change(to)

    return make


def of_settings(change):
    def run(db):
        (text,) = db.execute("select value_json from study_user_attributes where key='nas_settings'").fetchone()
        body = json.loads(json.loads(text))
        change(body)
        new = json.dumps(json.dumps(body))
        db.execute("update study_user_attributes set value_json=? where key='nas_settings'", (new,))

    return run


def of_records(change):
    def run(db):
        for row, text in db.execute(
            "select rowid, value_json from trial_user_attributes where key='record'"
        ).fetchall():
            body = json.loads(text)
            change(body)
            db.execute("update trial_user_attributes set value_json=? where rowid=?", (json.dumps(body), row))

    return run


def runs(sql: str):
    return lambda db: db.execute(sql)


INJECTED = 'n"), __import__("os").system("touch RAN"), ("'
DAMAGE = {
    "no versions": of_settings(lambda body: body.pop("versions")),
    "unknown field": of_settings(lambda body: body.update(fincerprint=body.pop("fingerprint"))),
    "wrong type": of_settings(lambda body: body.update(classes=3)),
    "injected scale of the space": of_settings(
        lambda body: body.update(space=json.dumps(json.loads(body["space"]) | {"scale": INJECTED}))
    ),
    "cut record": runs("update trial_user_attributes set value_json=substr(value_json,1,100) where key='record'"),
    "unknown direction": runs("update study_directions set direction='MAXIMISE'"),
    "confirm of four": runs("update study_user_attributes set value_json='[1,2,3,4]' where key='nas_confirm'"),
    "injected scale": of_records(lambda body: body["variant"].update(scale=INJECTED)),
    "curve of texts": of_records(lambda body: body["curve"][0].update(train_loss="x")),
    "gflops are a list": of_records(lambda body: body.update(gflops=[1])),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_one_damaged_study_does_not_take_the_list_down(kind, stored, here):
    stored(DAMAGE[kind])
    listed = nas("studies", "--json")
    assert listed.exit_code == 0, (listed.output, listed.exception)
    assert "healthy" in [row["study"] for row in json.loads(listed.stdout)]
    if kind != "confirm of four":  # which these do not read
        refused(nas("rank", "ok"), "ok")
        refused(nas("emit-yaml", "--study", "ok", "--trial", "1", "--form", "yaml", "-o", "out"))
    assert not (here / "RAN").exists()
    assert not list(here.glob("out/*"))


def test_a_yaml_in_a_study_is_checked_before_it_is_written(stored, here):
    stored(of_records(lambda body: body.update(yaml=body["yaml"].replace("nc: 80", f"nc: 80\nactivation: {RUNS}"))))
    refused(nas("emit-yaml", "--study", "ok", "--trial", "1", "--form", "yaml", "-o", "out"), "activation")
    assert not list(here.glob("out/*"))


@pytest.mark.parametrize("name", ["\x1b]0;title\x07\x1b[31mred", "../../x", "a/b"])
def test_names_of_studies_are_no_terminal_escapes_or_paths(name, stored, here):
    stored(lambda db: db.execute("update studies set study_name=?", (name,)))
    done = nas("studies")
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert "healthy" in done.stdout
    assert "a study cannot be called" in done.stderr


def test_own_modules_of_a_study_want_trust_once(stored, here, registry_as_before):
    code = 'open("RAN", "a").write("x")\n' + (Path(__file__).parents[1] / "own" / "my_block.py").read_text()

    def add(body):
        body["space"] = json.dumps(json.loads(body["space"]) | {"modules": [["my_block.py", code]]})

    stored(of_settings(add))
    emit = ("emit-yaml", "--study", "ok", "--trial", "1", "--form", "yaml", "-o", "out", "--force")
    assert nas("rank", "ok").exit_code == 0  # reading runs nothing
    refused(nas(*emit), "the study 'ok'", "my_block.py", "--trust")
    assert not (here / "RAN").exists()
    for again in ((*emit, "--trust"), emit):
        done = nas(*again)
        assert done.exit_code == 0, done.output
        assert (here / "RAN").exists()


# ---- no network, no room --------------------------------------------------------------------------------------------

ASKED: list[str] | None = None
"""What has asked the network; None where nobody looks."""


def _note(event, args) -> None:
    if ASKED is not None and event in (
        "socket.getaddrinfo",
        "socket.connect",
        "socket.gethostbyname",
        "urllib.Request",
    ):
        ASKED.append(f"{event} {args}")
        raise OSError("no network here")


def test_no_command_asks_the_network(here, stored, monkeypatch):
    stored(lambda _: None)
    first = "[-1, 1, Conv, [64, 3, 2]]"
    net = YAML.replace(first, "[-1, 1, TorchVision, [64, resnet18, DEFAULT, True, 6, False]]", 1)
    (here / "yolov8n-net.yaml").write_text(net)
    (here / "yolov8n.yaml").write_text(YAML)
    sys.addaudithook(_note)
    monkeypatch.setattr(sys.modules[__name__], "ASKED", [])
    for line in (
        "cost yolov8n-net.yaml",
        "cost yolov8n.yaml",
        "import yolov8n.yaml",
        "space list",
        "space show quick",
        "space init -o my.yaml",
        "ops CARAFE",
        "doctor",
        "studies",
        "rank healthy",
        "effects healthy",
        "studies export healthy",
        "search --replay healthy.json --trials 1",
        "emit-yaml --study healthy --trial 1 --form yaml,plugin,bundle,snippet -o out",
    ):
        done = nas(*line.split())
        assert done.exit_code == 0, (line, done.output, done.exception)
        assert not ASKED, line


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_an_output_that_is_full_says_so(here):
    with open("/dev/full", "w") as full:
        run = [sys.executable, "-m", "nas", "space", "list"]
        done = subprocess.run(run, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: cannot write the output: the disk is full"
