"""Damaged and hostile files of every kind: reading one succeeds or ends in a `NasError`, in bounded time.

NAS_FUZZ=10000 pytest tests/nas/test_fuzz.py     10,000 of each kind, by hand
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from typing import Any

import yaml
from ultralytics.nn import tasks

from nas.calibration.assessment import assess
from nas.calibration.report import write_report
from nas.calibration.result import load_result
from nas.data.dataset import load
from nas.engines import Conditions
from nas.engines.folder import model_subject
from nas.engines.remote import read_results
from nas.engines.table import latency_lines
from nas.errors import NasError, printable
from nas.model.host_input import read_config
from nas.model.render import render
from nas.ranking.rank import ranking_of
from nas.search.table import Replay, export_table, read_table
from nas.space.import_yaml import variant_of_yaml
from nas.space.model_yaml import parse_model_yaml
from nas.space.space_file import read_space
from nas.space.variant import parse_swaps
from nas.study.catalog import list_studies, outline_of
from nas.study.study import Study

COUNT = int(os.environ.get("NAS_FUZZ", "0"))
SEED = 19
LONGEST_MESSAGE = 30_000

TOKENS = [
    "[", "]", "{", "}", ":", "-", ",", "'", '"', "\n", "\t", "  ", "#", "&a ", "*a",
    "!!python/object/apply:os.system [x]",
    "!!int x", "|", ">", "%", "@", "`", "null", "~", "true", "NaN", "Infinity", "-1", "0", "1e999", "-0", "9" * 30,
    "9" * 400, "0x1F", "1:2:3", "2026-13-45", "\\u0000", "\x1b[31m", "\\x1b]0;t\\x07", "\u202e", "é", "[[[[[[",
    "{" * 60, "__import__('os').system('x')", "../../x", "nn.SiLU()", "None", "<<: *a", "? ", "---\n", "...\n", "\x00",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 10**30, 10**400, 0.5, float("nan"), float("inf"), "", "x", "\x1b[31m", "../x", "a" * 5000,
    [], {},
    [[]], [1, [2, [3]]], {"a": {"b": 1}}, [None] * 50, "n\"), __import__('os').system('x'), (\"",
]  # fmt: skip


def damaged_text(text: str, rng: random.Random) -> str:
    """Return a text with one to four edits: cut, repeated, swapped or replaced pieces, and tokens that parsers know."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        near = min(len(text), at + rng.randint(1, 12))
        kind = rng.randrange(7)
        if kind == 0:
            text = text[:at] + text[near:]
        elif kind == 1:
            text = text[:at] + rng.choice(TOKENS) + text[at:]
        elif kind == 2:
            text = text[:at] + rng.choice(TOKENS) + text[near:]
        elif kind == 3:
            text = text[:at] + text[at:near] * rng.randint(2, 6) + text[near:]
        elif kind == 4:
            text = text[:at] + chr(rng.randrange(1, 0x250)) + text[near:]
        elif kind == 5 and rng.random() < 0.3:
            text = text[:at]
        else:
            lines = text.split("\n")
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            text = "\n".join(lines)
        text = text or " "
    return text


def damaged_value(value: Any, rng: random.Random) -> Any:
    """Return plain values with one of them, at any depth, removed, added, renamed or replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        kind = rng.randrange(8)
        if kind == 0:
            del changed[key]
        elif kind == 1:
            changed[f"{key}x"] = changed.pop(key)
        else:
            changed[key] = damaged_value(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.85:
        i, kind = rng.randrange(len(value)), rng.randrange(8)
        items = list(value)
        if kind == 0:
            del items[i]
        elif kind == 1:
            items.append(rng.choice(VALUES))
        else:
            items[i] = damaged_value(items[i], rng)
        return items
    if isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.7:  # JSON within JSON
        try:
            return json.dumps(damaged_value(json.loads(value), rng))
        except ValueError:
            pass
    return rng.choice(VALUES)


def damaged_json(text: str, rng: random.Random) -> str:
    """Return JSON with damage to its text or to its values."""
    return damaged_text(text, rng) if rng.random() < 0.4 else json.dumps(damaged_value(json.loads(text), rng))


def survive(read: Callable[[], object], what: str, given: str) -> bool:
    """Return whether reading succeeds; fail if it raises anything but a `NasError` with a message that can be shown."""
    try:
        read()
    except NasError as error:
        said = printable(str(error))
        assert said.strip(), f"{what}: no message\n{given}"
        assert len(said) <= LONGEST_MESSAGE, f"{what}: {len(said)} characters\n{given}"
        return False
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}\n{given[:4000]!r}") from error
    return True


def each(what: str, usual: int, make: Callable[[random.Random], str], read: Callable[[str], object]) -> None:
    """Read many damaged texts of one kind; some of them have to be refused."""
    count = COUNT or usual
    good = 0
    for number in range(count):
        given = make(random.Random(f"{SEED} {what} {number}"))
        good += survive(lambda given=given: read(given), f"{what} {number}", given)
    assert good < count


def test_model_yamls():
    text = render(parse_swaps("yolov8", "n", ["neck.up_p4=CARAFE", "neck.c2f_*=C2f_DCNv4"])).yaml
    text = "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))

    def read(given: str) -> None:
        try:
            variant_of_yaml(parse_model_yaml(given, "yolov8n-x.yaml"), None, "yolov8")
        finally:
            read_config(given, tasks)

    each("model YAML", 60, lambda rng: damaged_text(text, rng), read)


def test_space_files():
    text = yaml.safe_dump(
        {
            "base": "yolov8",
            "scale": "n",
            "slots": {
                "neck.up_*": ["keep", "CARAFE", {"DySample": {"style": ["lp", "pl"], "groups": [2, 4]}}],
                "neck.c2f_*": {"choices": ["keep", "C2f_SPConv"], "tie": True},
                "after neck.c2f_p3": ["EMA", "none"],
            },
            "forbid": [{"neck.up_p4": "CARAFE", "neck.up_p3": "keep"}],
            "constraints": {"max_gflops": 10, "max_params": 4e6, "min_map": 0.3},
        }
    )
    each("space", 150, lambda rng: damaged_text(text, rng), lambda given: read_space(given, "a.yaml", "a"))


def test_tables(ranked_study, tmp_path):
    rows = [
        ({}, "done", 0.4, 8.0),
        ({"neck.up_*": "CARAFE"}, "done", 0.41, 8.1),
        ({"neck.up_*": "keep"}, "failed", 0, 8),
    ]
    text = export_table(ranked_study(rows)).to_json()
    file = tmp_path / "t.json"

    def read(given: str) -> None:
        file.write_bytes(given.encode("utf-8", "surrogatepass"))
        table = read_table(file)
        replay = Replay(table, 0)
        for assignment in replay.assignments:
            replay.cost(assignment)

    each("table", 200, lambda rng: damaged_json(text, rng), read)


def test_calibrations(calibrator, tmp_path):
    made = calibrator(proxies=("scratch-2",), variants=3, seeds=2, full_seeds=1)
    made.run()
    write_report(assess(made), made.folder)
    text, file = (made.folder / "calibration.json").read_text(), tmp_path / "c.json"

    def read(given: str) -> None:
        file.write_bytes(given.encode("utf-8", "surrogatepass"))
        load_result(file).to_json()

    each("calibration", 200, lambda rng: damaged_json(text, rng), read)


def test_data_yamls(boxes_data, tmp_path):
    text = "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: {0: square, 1: disc}\n"
    for split in ("images", "labels"):
        for part in ("train", "val"):
            (tmp_path / split / part).mkdir(parents=True)
            for file in sorted((boxes_data.parent / split / part).iterdir())[:2]:
                shutil.copy(file, tmp_path / split / part)

    def read(given: str) -> None:
        (tmp_path / "data.yaml").write_bytes(given.encode("utf-8", "surrogatepass"))
        load(tmp_path / "data.yaml")

    each("data.yaml", 60, lambda rng: damaged_text(text, rng), read)


def test_latencies_of_another_machine(tmp_path):
    conditions = Conditions(imgsz=64)
    subjects = [model_subject(name, render(parse_swaps("yolov8", "n", [])).yaml, name, conditions) for name in "ns"]
    times = {"ms": 3.5, "spread_ms": 0.1, "runs": 9, "ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}
    models = [
        {"name": s.name, "digest": s.digest, "failure": "", "boxes": 0.0, "scores": 0.0, **times} for s in subjects
    ]
    models[1] |= {"failure": "NCNN has no layer F.fold", "ms": None}
    body = {
        "format": 1, "imgsz": 64, "batch": 1, "engine": "ncnn", "version": "1.0", "machine": "Cortex-A76",
        "system": "Linux aarch64", "precision": "fp32", "threads": 1, "clock": "time", "models": models,
    }  # fmt: skip
    text, file = json.dumps(body), tmp_path / "latencies.json"

    def read(given: str) -> None:
        file.write_bytes(given.encode("utf-8", "surrogatepass"))
        found = read_results(file, subjects)
        latency_lines({found.engine: found.models}, {found.engine: found.on}, found.conditions)

    read(text)
    each("latencies", 200, lambda rng: damaged_json(text, rng), read)


COLUMNS = [
    ("trial_user_attributes", "value_json"), ("study_user_attributes", "value_json"), ("studies", "study_name"),
    ("study_directions", "direction"), ("trials", "state"), ("trials", "datetime_start"), ("trial_values", "value"),
    ("trial_params", "param_value"), ("trial_params", "distribution_json"), ("trial_params", "param_name"),
    ("version_info", "schema_version"),
]  # fmt: skip


def test_study_databases(ranked_study, tmp_path, monkeypatch):
    study = ranked_study([({}, "done", 0.4, 8.0), ({"neck.up_*": "CARAFE"}, "done", 0.41, 8.1)])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    file = tmp_path / "studies" / "s.db"
    with sqlite3.connect(study.location.file) as source, sqlite3.connect(file) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
    copy.close()
    whole = file.read_bytes()

    def make(rng: random.Random) -> str:
        for path in tmp_path.glob("studies/s.db*"):
            path.unlink()
        if rng.random() < 0.3:
            content = bytearray(whole)
            for _ in range(rng.randint(1, 30)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            file.write_bytes(content[: rng.randrange(len(content))] if rng.random() < 0.3 else content)
            return "bytes"
        file.write_bytes(whole)
        table, column = rng.choice(COLUMNS[:2] if rng.random() < 0.7 else COLUMNS)
        with sqlite3.connect(file) as db:
            rows = db.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
            if not rows:
                return "nothing"
            row, value = rng.choice(rows)
            new = damaged_json(value, rng) if column.endswith("json") and isinstance(value, str) else rng.choice(VALUES)
            new = (
                new
                if isinstance(new, str | int | float | None) and new != 10**30 and new != 10**400
                else json.dumps(str(new))
            )
            new = new.encode("utf-8", "replace").decode() if isinstance(new, str) else new
            try:
                db.execute(f"UPDATE {table} SET {column}=? WHERE rowid=?", (new, row))
            except sqlite3.IntegrityError:
                return "refused"
        db.close()
        return f"{table}.{column} of {row}: {new!r}"

    def read(_given: str) -> None:
        found, problems = list_studies()
        assert found or problems
        where = study.location.__class__("s", file)
        opened = Study.load(where)
        outline_of(opened)
        ranking_of(opened)
        for facts in (opened.target, opened.seeds, opened.confirm, opened.bank, opened.excluded_seeds, opened.options):
            str(facts)

    each("study", 60, make, read)
