"""Labels of choices, read and written."""

import pytest

from nas.errors import SpaceError
from nas.space.choice import parse_choice


def test_labels_drop_defaults_and_sort_arguments():
    assert parse_choice("CARAFE(k_up=7, c_mid=32)").label == "CARAFE(c_mid=32,k_up=7)"
    assert parse_choice("CARAFE( k_up=5 )").label == "CARAFE"
    assert parse_choice("DySample(dyscope=true,style=pl)").label == "DySample(dyscope=true,style=pl)"
    assert parse_choice(parse_choice("SPConv(ratio=0.25)").label).label == "SPConv(ratio=0.25)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CARAFFE", "unknown module 'CARAFFE'; did you mean CARAFE"),
        ("CARAFE(k_upp=5)", "CARAFE has no argument 'k_upp'; did you mean k_up"),
        ("CARAFE(k_up=4)", "k_up=4: expected an odd whole number"),
        ("CARAFE(k_up=x)", "k_up='x': expected an odd whole number"),
        ("DySample(style=pq)", "style='pq': expected one of lp, pl"),
        ("CARAFE(k_up)", "cannot read 'k_up'"),
        ("CARAFE(", "cannot read the choice"),
        ("", "cannot read the choice"),
    ],
)
def test_bad_choices(text, message):
    with pytest.raises(SpaceError, match=message.replace("(", r"\(")):
        parse_choice(text)
