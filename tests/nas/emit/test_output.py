"""Files are written all or none, below the output folder, and over nothing."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from nas.emit.output import write_files
from nas.errors import OutputError

TEXTS = {Path("a.yaml"): "a: ä\n", Path("b.txt"): "b\n", Path("sub/c.pt"): b"\x00c\r\n"}


def test_write_and_write_again(tmp_path):
    out = tmp_path / "new" / "out"
    paths = write_files(TEXTS, out)
    assert paths == [out / path for path in TEXTS]
    assert [p.read_bytes() for p in paths] == ["a: ä\n".encode(), b"b\n", b"\x00c\r\n"]
    assert write_files(TEXTS, out) == paths
    assert sorted(p for p in out.rglob("*") if p.is_file()) == paths


def test_nothing_is_replaced_unless_forced(tmp_path):
    mine = tmp_path / "b.txt"
    mine.write_text("mine")
    with pytest.raises(OutputError, match=r"b\.txt exists and differs; --force replaces it"):
        write_files(TEXTS, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [mine.name]
    assert mine.read_text() == "mine"
    write_files(TEXTS, tmp_path, force=True)
    assert mine.read_text() == "b\n"


def test_dry_run_writes_nothing(tmp_path):
    paths = write_files(TEXTS, tmp_path / "out", dry_run=True)
    assert len(paths) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        write_files(TEXTS, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    "name", ["../out.yaml", "/tmp/out.yaml", "a/../../out.yaml", "a\\..\\out.yaml", "C:out.yaml", ""]
)
def test_nothing_is_written_outside_of_the_folder(name, tmp_path):
    with pytest.raises(OutputError, match=r"would lie outside of .*nothing is written"):
        write_files({Path("fine.yaml"): "fine", Path(name): "x"}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_a_files_place(tmp_path):
    (tmp_path / "a.yaml").mkdir()
    for force in (False, True):
        with pytest.raises(OutputError, match=r"\.yaml is a folder: move it away"):
            write_files(TEXTS, tmp_path, force=force)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_half_way_is_rolled_back(tmp_path, monkeypatch):
    """The second file cannot be put in its place: the first is as it was, and no scratch file is left."""
    first, second, _ = (tmp_path / path for path in TEXTS)
    first.write_text("mine")
    plain = Path.replace

    def refuse(path, target):
        if target == second:
            raise PermissionError("read-only")
        return plain(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match=r"cannot write to .*read-only"):
        write_files(TEXTS, tmp_path, force=True)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [first]
    assert first.read_text() == "mine"


def test_an_output_that_is_a_file_or_cannot_be_written(tmp_path, monkeypatch):
    from nas.cli import cli

    (tmp_path / "out").write_text("mine")
    swap = ["emit-yaml", "--swap", "neck.up_p4=CARAFE", "--form", "yaml", "-o"]
    assert CliRunner().invoke(cli, [*swap, str(tmp_path / "out")]).exit_code == 2
    result = CliRunner().invoke(cli, [*swap, str(tmp_path / "out" / "below")])
    assert result.exit_code == 1
    assert "cannot write to" in result.output
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    result = CliRunner().invoke(cli, [*swap, str(tmp_path / "other")])
    assert result.exit_code == 1
    assert "Read-only file system" in result.output
    assert "Traceback" not in result.output
