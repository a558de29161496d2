"""Texts of others in messages: cut, and without control characters."""

from __future__ import annotations

import errno

import pytest

from nas.errors import escaped, failure_text, full_disk, printable, shown


@pytest.mark.parametrize(
    "value",
    ["a" * 10_000, 10**5000, 10**300, [[[[[1]]]]], {i: i for i in range(999)}, list(range(10**5)), "\x1b[31m\n"],
    ids=["text", "digits", "number", "deep", "dict", "list", "control"],
)
def test_a_value_is_shown_in_one_short_line(value):
    text = shown(value)
    assert len(text) < 200
    assert text.isprintable()


def test_short_values_are_shown_as_they_are():
    assert [shown(v) for v in ("a", 1, 2.5, None, True, [1, "x"])] == ["'a'", "1", "2.5", "None", "True", "[1, 'x']"]


def test_control_characters_become_escapes():
    assert printable("\x1b]0;t\x07 \u202e\r\x9b1m") == "\\x1b]0;t\\x07 \\u202e\\r\\x9b1m"
    assert printable("a\tb\nc é ü 中") == escaped("a\tb\nc é ü 中") == "a\tb\nc é ü 中"
    assert escaped("\ud800") == "\\ud800"


def test_a_long_text_is_cut():
    lines = printable("\n".join(["x" * 5000] * 500)).split("\n")
    assert len(lines) == 201
    assert max(map(len, lines)) == 1001
    assert lines[-1] == "… and 300 more lines"


def test_what_keeps_a_file_from_growing():
    assert full_disk(OSError(errno.ENOSPC, "x")) == "the disk is full"
    assert full_disk(OSError(errno.EFBIG, "x")) == "the limit of the size of a file is reached"
    assert full_disk(OSError(errno.ENOENT, "x")) == ""
    assert full_disk(ValueError("x")) == ""
    assert failure_text(OSError(errno.ENOSPC, "x")).startswith("the disk is full: OSError")
    torch_says = RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0: file write failed")
    assert failure_text(torch_says).startswith("the disk cannot be written; is it full?")
