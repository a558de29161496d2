"""Problems of a YAML file are collected with their lines."""

from __future__ import annotations

import pytest

from nas.errors import SpaceError
from nas.space.yaml_reader import YamlReader


class Reader(YamlReader):
    error = SpaceError
    most_problems = 3


def test_problems_are_reported_once_by_line():
    reader = Reader("a.yaml")
    root = reader.compose("x: 1\ny: 2\nz: 3\n")
    nodes = [value for _, value in root.value]
    for node in (nodes[2], nodes[1], nodes[1], nodes[2]):
        reader.problem(node, f"{node.value} is wrong")
    reader.problem(None, "two\nlines")
    with pytest.raises(SpaceError) as error:
        reader.raise_problems()
    assert str(error.value).splitlines() == ["a.yaml:1: lines", "a.yaml:1: two", "a.yaml:2: 2 is wrong"]


def test_a_file_without_problems():
    reader = Reader("a.yaml")
    assert reader.compose("") is None
    assert reader.value(reader.compose("[1, {a: x}]")) == [1, {"a": "x"}]
    reader.raise_problems()


def test_what_is_not_yaml():
    with pytest.raises(SpaceError, match=r"a\.yaml: not YAML: while parsing a flow sequence"):
        Reader("a.yaml").compose("[1")


@pytest.mark.parametrize("text", ["!mine 1", "!!int x", "2024-13-01", "&a [*a, !mine 1]"])
def test_a_value_that_cannot_be_read(text):
    reader = Reader("a.yaml")
    assert reader.value(reader.compose(f"\n{text}")) is None
    assert reader.problems[0][0] == 2
    assert reader.problems[0][1].startswith("cannot read this value: ")
