"""Reading model YAMLs: what they say, and every way in which they can be wrong."""

from __future__ import annotations

import pytest

from nas.errors import ModelError
from nas.space.model_yaml import IMAGE_ROW, parse_model_yaml, read_model_yaml

GOOD = """
nc: 3
scales: {n: [0.33, 0.25, 1024]}
activation: torch.nn.ReLU()
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 3, C2f, [128, True]]
head:
  - [-2, 1, nn.Upsample, [None, 2, "nearest"]]
  - [[-1, 1], 1, Concat, [1]]
  - [3, 1, CBLinear, [[64, 128]]]
  - [[3], 1, Detect, [nc]]
"""


def rows(*lines: str) -> str:
    return "backbone:\n" + "".join(f"  - {line}\n" for line in lines) + "head: []\n"


def test_rows_count_from_the_first():
    model = parse_model_yaml(GOOD, "good.yaml")
    assert [row.sources for row in model.rows] == [(IMAGE_ROW,), (0,), (0,), (2, 1), (3,), (3,)]
    assert [row.line for row in model.rows] == [6, 7, 9, 10, 11, 12]
    assert model.backbone == 2
    assert model.nc == 3
    assert model.scales == {"n": (0.33, 0.25, 1024)}
    assert model.constants == (("activation", "torch.nn.ReLU()"),)
    assert model.rows[2].args == (None, 2, "nearest")
    assert model.rows[4].args == ((64, 128),)


def test_aliases_are_what_they_stand_for():
    text = "backbone:\n  - [-1, 1, Conv, &args [64, 3, 2]]\n  - [-1, 1, Conv, *args]\nhead: []\n"
    first, second = parse_model_yaml(text, "a.yaml").rows
    assert first.args == second.args == (64, 3, 2)


def test_windows_line_ends_and_byte_order_marks(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert read_model_yaml(path).rows == parse_model_yaml(GOOD, "good.yaml").rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m.yaml:1: no model YAML: expected nc, scales, backbone and head"),
        ("- 1\n", "m.yaml:1: no model YAML"),
        ("backbone: []\n", "no list of rows under head"),
        ("backbone: 3\nhead: []\n", "no list of rows under backbone"),
        ("backbone: []\nhead: []\n", "no rows under backbone and head"),
        ("backbone:\n\t- [-1, 1, Conv, [64]]\nhead: []\n", "YAML indents with spaces, not tabs"),
        ("backbone: [\n", "m.yaml: not YAML"),
        ("x: &x [*x]\nbackbone: *x\nhead: []\n", "row 0: expected"),
        (rows("[-1, 1, Conv, &a [*a]]"), "cannot read this value"),
        ("nc: 0\n" + rows("[-1, 1, Conv, [64]]"), "m.yaml:1: nc: 0; expected a whole number of classes"),
        ("scales: [n]\n" + rows("[-1, 1, Conv, [64]]"), "scales: expected {letter: [depth, width, max_channels]}"),
        (rows("[-1, 1, Conv]"), "m.yaml:2: row 0: expected [from, repeats, module, [args]]"),
        (rows("[0, 1, Conv, [64]]"), "row 0: takes itself"),
        (rows("[-2, 1, Conv, [64]]"), "row 0: takes -2, which is before the first row"),
        (rows("[-1, 1, Conv, [64]]", "[2, 1, Conv, [64]]"), "m.yaml:3: row 1: takes row 2, which comes later"),
        (rows("[-1, 1, Conv, [64]]", "[[-1, -3], 1, Concat, [1]]"), "row 1: takes -3, which is before the first row"),
        (rows("[x, 1, Conv, [64]]"), "row 0: takes 'x'; expected a row's number"),
        (rows("[[], 1, Conv, [64]]"), "row 0: takes nothing"),
        (rows("[-1, 0, Conv, [64]]"), "row 0: repeats 0"),
        (rows("[-1, true, Conv, [64]]"), "row 0: repeats True"),
        (rows("[-1, 1, 3, [64]]"), "row 0: module 3"),
        (rows("[-1, 1, Conv, 64]"), "row 0: args 64; expected a list"),
        (rows("[-1, 1, Conv, [{a: 1}]]"), "cannot use a dict here"),
        (rows("[-1, 1, Conv, [[[[[1]]]]]]"), "cannot use a list here"),
        (rows(*["[-1, 1, Conv, [64]]"] * 501), "501 rows; at most 500 are read"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text, message):
    with pytest.raises(ModelError) as error:
        parse_model_yaml(text, "m.yaml")
    assert message in str(error.value)


def test_all_problems_are_reported_at_once():
    with pytest.raises(ModelError) as error:
        parse_model_yaml(rows("[7, 1, Conv, [64]]", "[-1, x, Conv, [64]]", "7"), "m.yaml")
    assert [line.split(" ", 1)[0] for line in str(error.value).splitlines()] == ["m.yaml:2:", "m.yaml:3:", "m.yaml:4:"]


def test_aliases_that_multiply_do_not_fill_the_memory():
    lists = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lists += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(ModelError, match="line 5: more than 50,000 values with aliases expanded"):
        parse_model_yaml("\n".join(lists) + "\n" + rows("[-1, 1, Conv, *a11]"), "m.yaml")


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(ModelError, match="cannot read"):
        read_model_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="cannot read"):
        read_model_yaml(tmp_path / "binary.yaml")
