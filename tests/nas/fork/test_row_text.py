"""``host:NAME`` with the arguments of a row, as text."""

from __future__ import annotations

import pytest

from nas.fork.row_text import HostRow, evaluated, make_host_row, parse_host_row

LABELS = {
    "host:CBAM": HostRow("CBAM"),
    "host:CBAM()": HostRow("CBAM", ()),
    "host:nn.Dropout(0.5)": HostRow("nn.Dropout", (0.5,)),
    "host:X(channels,7,[20,20],chunk,true,None)": HostRow("X", ("channels", 7, (20, 20), "chunk", True, None)),
    "host:X(two words,-1,nn.ReLU)": HostRow("X", ("two words", -1, "nn.ReLU")),
    "host:X(channels,repeats=6)": HostRow("X", ("channels",), 6),
    "host:X(1.0e-05,[[1],[2]])": HostRow("X", (1e-05, ((1,), (2,)))),
}


@pytest.mark.parametrize(("label", "row"), LABELS.items())
def test_a_label_reads_back(label, row):
    assert row.label == label
    assert parse_host_row(label) == row


def test_what_a_person_writes_gets_one_form():
    assert parse_host_row(" host: X( channels , 7, True, 1e-4, 'a' )").label == "host:X(channels,7,true,0.0001,a)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("host:", "expected host:NAME or host:NAME"),
        ("host:X(1", "expected host:NAME or host:NAME"),
        ("host:X([1)", "expected them as in a model YAML"),
        ("host:X(&a [*a])", "have no place in them"),
        ("host:X({a: 1})", "cannot stand in a row"),
        ("host:X(.inf)", "cannot stand in a row"),
        ("host:X('true')", "expected plain words"),
        ("host:X('a, b')", "expected plain words"),
        ("host:X('')", "expected plain words"),
        ("host:X(repeats=0)", "expected at least 1"),
        ("host:X(" + "1," * 600 + ")", "cannot read the choice"),
    ],
)
def test_what_is_no_label_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_host_row(text)


def test_arguments_by_name_are_refused():
    with pytest.raises(ValueError, match=r"host:X: expected a list of arguments as in a model YAML"):
        make_host_row("X", {"k": 3})


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("True", True), ("None", None), ("nearest", "nearest"), ("nc", "nc"), ("(1, 2)", [1, 2]), (3, 3)],
)
def test_text_is_read_as_parse_model_does(text, value):
    assert evaluated(text) == value
