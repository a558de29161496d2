"""Files of the tool: the folder of its cache, and atomic writing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nas import files
from nas.errors import ArtifactError
from nas.files import read_json, replacing, write_all, write_atomic, write_json


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("NAS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(files.sys, "platform", "linux")
    assert files.cache_dir() == tmp_path / ".cache" / "swapnas"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_dir() == tmp_path / "xdg" / "swapnas"
    monkeypatch.setattr(files.sys, "platform", "darwin")
    assert files.cache_dir() == tmp_path / "Library" / "Caches" / "swapnas"
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "own"))
    assert files.cache_dir() == tmp_path / "own"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_written_and_replaced_in_a_folder_that_is_made(tmp_path):
    file = tmp_path / "deep" / "er" / "x.txt"
    write_atomic(file, "é\r\n\n")
    write_atomic(tmp_path / "b", b"\0\r\n")
    assert contents(tmp_path) == {"deep/er/x.txt": "é\r\n\n".encode(), "b": b"\0\r\n"}
    write_atomic(file, "new")
    assert file.read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_permissions_are_those_of_any_new_file_or_of_the_old_one(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomic(tmp_path / "new", "")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "plain").chmod(0o755)
    write_atomic(tmp_path / "plain", "script")
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o755


@pytest.mark.parametrize("where", ["", "scratch"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_old_content_and_no_litter(tmp_path, where, error):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "x").write_text("old")
    seen = []

    def fail() -> None:
        with replacing(tmp_path / "x", tmp_path / where if where else None) as temporary:
            temporary.write_text("ne")
            seen.append(temporary)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [temporary.parent for temporary in seen] == [tmp_path / where]
    assert contents(tmp_path) == {"x": b"old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch, step):
    (tmp_path / "x").write_text("old")

    def fail(*_args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(*((files.os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_atomic(tmp_path / "x", "new")
    with pytest.raises(ArtifactError, match=r"cannot write .*x: .*Input/output error"):
        write_json(tmp_path / "x", {})
    assert contents(tmp_path) == {"x": b"old"}


def test_the_content_is_on_the_disk_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    steps = []
    synced, moved = os.fsync, Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda *args: (steps.append("fsync"), synced(*args)))
    monkeypatch.setattr(Path, "replace", lambda *args: (steps.append("replace"), moved(*args)))
    write_atomic(tmp_path / "x", "new")
    assert steps == ["fsync", "replace"]


def test_two_processes_that_write_one_file_leave_one_whole_content(tmp_path):
    """A reader finds one of the two contents at any time."""
    file = tmp_path / "x"
    write_atomic(file, "a" * 200_000)
    code = (
        "import sys\nfrom pathlib import Path\nfrom nas.files import write_atomic\n"
        "for _ in range(200):\n    write_atomic(Path(sys.argv[1]), sys.argv[2] * 200_000)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(file), letter]) for letter in "ab"]
    whole, seen = {"a" * 200_000, "b" * 200_000}, set()
    while any(writer.poll() is None for writer in writers):
        seen.add(file.read_text())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= whole
    assert file.read_text() in whole
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_two_writers_in_one_process_do_not_share_the_temporary_name(tmp_path):
    file = tmp_path / "x"
    with replacing(file) as first, replacing(file) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert file.read_text() == "first"  # the outer one ends last
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_several_files_are_written_removed_and_replaced_in_order(tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "gone").write_text("gone")
    write_all({tmp_path / "new" / "a": b"a", tmp_path / "old": b"b", tmp_path / "gone": None})
    assert contents(tmp_path) == {"new/a": b"a", "old": b"b"}


@pytest.mark.parametrize("way", ["write", "replace", "unlink"])
def test_several_files_are_written_all_or_none(tmp_path, monkeypatch, way):
    """An error at the last one, or Ctrl-C: all are as they were."""
    old, last = tmp_path / "old", tmp_path / "last"
    old.write_text("old")
    last.write_text("last")
    plain = {"write": Path.write_bytes, "replace": Path.replace, "unlink": Path.unlink}[way]

    def fail(path, *args, **options):
        name = args[0].name if way == "replace" else path.name
        if name == "last" or (way == "write" and name.startswith(".last.")):
            raise KeyboardInterrupt
        return plain(path, *args, **options)

    monkeypatch.setattr(Path, "write_bytes" if way == "write" else way, fail)
    with pytest.raises(KeyboardInterrupt):
        write_all({tmp_path / "new": b"new", old: b"changed", last: None if way == "unlink" else b"changed"})
    monkeypatch.undo()
    assert contents(tmp_path) == {"old": b"old", "last": b"last"}


def test_json_that_cannot_be_read_is_a_clear_error(tmp_path):
    file = tmp_path / "x.json"
    with pytest.raises(ArtifactError, match=r"cannot read .*x\.json: .*No such file.*; delete it, and it will be made"):
        read_json(file, dict)
    write_json(file, {"a": [1, None]})
    assert read_json(file, dict) == {"a": [1, None]}
    with pytest.raises(ArtifactError, match="it is not in the format of this version; delete it"):
        read_json(file, lambda body: body["b"])
    file.write_text("{")
    with pytest.raises(ArtifactError, match="cannot read"):
        read_json(file, dict)
