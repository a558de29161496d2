"""Where a study is, and what of its URL may be shown."""

from __future__ import annotations

import pytest

from nas.errors import StorageError, StudyError
from nas.study.location import locate
from nas.study.storage import _explanation

SECRET = "hunter2/é@x"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:{}@db.lab/studies",
        "postgresql://me:{}@db.lab/",
        "postgresql://db.lab/studies?user=me&password={}",
        "postgresql://db.lab?password={}",
        "postgres://me:{}@db.lab",
        "postgresql+psycopg2://me:{}@db.lab/",
        "postgresq://me:{}@db.lab/studies",
        "postgresql:/me:{}@db.lab/studies",
        "postgresql:me:{}@db.lab/studies",
        "Postgresql://me:{}@db.lab/studies",
        " postgresql://me:{}@db.lab/studies",
        "postgresql://me:{}@db.lab:port/studies",
        "mysql://me:{}@db.lab/studies",
        "sqlite://me:{}@db.lab/studies",
        "sqlite:me:{}@db.lab/studies",
        "me:{}@db.lab/studies",
        "//me:{}@db.lab/studies",
        "host=db.lab password={}",
        "password:{}",
        "sqlite:/?password={}",
    ],
)
@pytest.mark.parametrize("secret", ["hunter2", "hunter2%2F%C3%A9%40x"])
def test_no_message_shows_a_password(url, secret):
    try:
        said = locate("blood", url.format(secret)).shown
    except StorageError as error:
        said = str(error)
        assert "expected sqlite:///PATH or postgresql://USER@HOST:PORT/DATABASE" in said
    assert "hunter2" not in said


def test_what_a_server_says_is_shown_without_the_password():
    where = locate("blood", "postgresql://me:hunter2%2F%C3%A9%40x@db.lab/studies?sslpassword=other")
    for text in (f"connection failed: {SECRET}", "bad dsn hunter2%2F%C3%A9%40x", "option other is wrong"):
        said = _explanation(where, RuntimeError(text), text)
        assert "hunter2" not in said
        assert "other is" not in said
        assert "***" in said


def test_a_path_that_is_no_url_is_shown():
    with pytest.raises(StorageError, match=r"cannot use the storage 'studies/blood\.db'"):
        locate("blood", "studies/blood.db")
    with pytest.raises(StorageError, match=r"cannot use the storage 'sqlite:blood\.db'"):
        locate("blood", "sqlite:blood.db")


def test_a_name_is_no_path_and_no_escape():
    for name in ("../x", "a/b", "\x1b[31m", ""):
        with pytest.raises(StudyError) as error:
            locate(name)
        assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("database or disk is full", "the disk is full"),
        ("[Errno 122] Disk quota exceeded", "quota"),
        ("disk I/O error", "the disk cannot be written; is it full, or a quota or limit of the size of a file reached"),
    ],
)
def test_a_storage_without_room_says_so(tmp_path, text, words):
    where = locate("blood", f"sqlite:///{tmp_path / 'a.db'}")
    assert words in _explanation(where, RuntimeError(text), text.replace("Disk", "disk"))
