"""Problems of a YAML file are collected with their lines."""

from __future__ import annotations

import pytest
import yaml

from nas.errors import SpaceError
from nas.space.yaml_reader import YamlReader, load_yaml


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


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "line [15]: more than 50,000 values with aliases expanded"),
        ("[" * 2000, "nested too deeply; at most 40 levels"),
        ("[" * 50 + "]" * 50, "nested too deeply; at most 40 levels"),
        ("{a: " * 3000, "nested too deeply"),
        ("x: " + "9" * 400, "line 1: a number of 400 digits"),
        ("x: 1" + ":59" * 9000, "a number of 27001 digits"),
        ("# " + "x" * 300_000, "300,002 characters; at most 262,144 are read"),
        ('"\\U0011FFFF"', "chr"),
        ("!!timestamp 2026-13", "a value cannot be read"),
        ("2026-13-45", "a value cannot be read: month must be in 1..12"),
        ("!!int ''", "a value cannot be read"),
        ("&a [*a]", "recursive"),
        ("&a {*a : 1}", "recursive|unhashable"),
    ],
)
def test_what_would_take_time_or_memory_is_refused(text, words):
    with pytest.raises(yaml.YAMLError, match=words):
        load_yaml(text)


def test_aliases_and_lines_of_a_usual_size_are_read():
    assert load_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {x: 3}}\n") == {"a": [1, 2], "b": [1, 2], "c": {"x": 3}}
    assert load_yaml("") is None


def test_control_characters_are_read_as_escapes():
    assert load_yaml('"\\e[31mred\\u202E"') == "\\x1b[31mred\\u202e"
    assert load_yaml("|\n  a\n  b\n") == "a\nb\n"


def test_a_long_problem_and_a_long_list_are_cut():
    reader = YamlReader("a.yaml")
    reader.error = SpaceError
    for line in range(200):
        reader.problem(None, f"{line} {'x' * 5000}")
    with pytest.raises(SpaceError) as error:
        reader.raise_problems()
    lines = str(error.value).splitlines()
    assert len(lines) == 50
    assert max(map(len, lines)) < 450
