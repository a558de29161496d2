"""The registry: names, arguments, and what it says about mistakes."""

import math

import pytest
import torch
from torch import nn

from nas.ops import registry
from nas.ops.registry import Arg, FromSlot, counts_macs, did_you_mean, entries, get, macs_rules, register


@pytest.fixture
def scratch(monkeypatch):
    """Let a test register modules that are gone after it."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(registry, "_MACS", dict(registry._MACS))


def test_the_seed_ops_are_registered():
    seeds = {"CARAFE", "DySample", "DynamicConv", "SPConv", "DCNv4", "C2f_DCNv4", "C2f_SPConv", "C2f_DynamicConv"}
    assert seeds <= set(entries())


def test_every_entry_says_what_it_is():
    for name, entry in entries().items():
        assert entry.name == name == entry.cls.__name__
        assert entry.kinds
        assert entry.paper
        assert entry.summary
        assert all(arg.help for arg in entry.args.values())


def test_a_taken_name_is_refused(scratch):
    with pytest.raises(ValueError, match=r"'CARAFE' is registered already"):
        register(rule="same", kinds={"up"}, paper="-", summary="-")(type("CARAFE", (nn.Module,), {}))
    again = register(rule="same", kinds={"up"}, paper="-", summary="-")
    cls = type("New", (nn.Module,), {})
    assert again(cls) is again(cls), "the same class may be registered again, as on reload"
    assert get("New").cls is cls


def test_an_unknown_name_lists_close_matches():
    with pytest.raises(ValueError, match=r"unknown module 'Caraffe'; did you mean CARAFE"):
        get("Caraffe")
    with pytest.raises(ValueError, match=r"did you mean .*C2f_DCNv4"):
        get("c2f_dcnv3")
    with pytest.raises(ValueError, match=r"known: .*AKConv"):
        get("zzzzzzzz")


def test_did_you_mean():
    assert did_you_mean("x", {}) == "; there is none"
    assert did_you_mean("up_p5", {"up_p4": 1, "cat": 2}) == "; did you mean up_p4?"
    many = {f"name{i:02d}": i for i in range(20)}
    assert did_you_mean("zzz", many).endswith("name11, …")


def test_copies_are_handed_out():
    entries().clear()
    macs_rules().clear()
    assert entries()
    assert macs_rules()


def test_subclasses_may_have_their_own_costs(scratch):
    @counts_macs(lambda module, inputs, output: 7)
    class Counted(nn.Module):
        pass

    assert macs_rules()[Counted](Counted(), (), torch.zeros(1)) == 7


INT = Arg("n", 4, "-", low=1, high=16)
ODD = Arg("k", 3, "-", low=1, high=9, odd=True)
FLOAT = Arg("r", 0.5, "-", low=0.1, high=0.9)
OPEN = Arg("o", 1.0, "-")
LOW = Arg("l", 1, "-", low=1)
BOOL = Arg("b", False, "-")
TEXT = Arg("t", "lp", "-", options=("lp", "pl"))
SIZES = Arg("s", 7, "-", options=(7, 11))


@pytest.mark.parametrize(
    ("arg", "value", "expected"),
    [
        (INT, 1, 1),
        (INT, 16, 16),
        (INT, 8.0, 8),
        (ODD, 5, 5),
        (FLOAT, 0.9, 0.9),
        (OPEN, -3, -3.0),
        (LOW, 10**6, 10**6),
        (BOOL, True, True),
        (TEXT, "pl", "pl"),
        (SIZES, 11.0, 11),
    ],
)
def test_good_values(arg, value, expected):
    checked = arg.check(value)
    assert checked == expected
    assert type(checked) is type(expected)


@pytest.mark.parametrize(
    ("arg", "value"),
    [
        (INT, 0),
        (INT, 17),
        (INT, 2.5),
        (INT, "4"),
        (INT, True),
        (INT, None),
        (INT, [4]),
        (INT, math.nan),
        (INT, math.inf),
        (ODD, 4),
        (ODD, 11),
        (FLOAT, 1),
        (FLOAT, 0.05),
        (FLOAT, "0.5"),
        (FLOAT, False),
        (OPEN, math.nan),
        (OPEN, -math.inf),
        (LOW, 0),
        (BOOL, 1),
        (BOOL, "true"),
        (SIZES, 9),
        (SIZES, "7"),
        (SIZES, True),
        (SIZES, [7]),
        (TEXT, "xx"),
        (TEXT, 1),
        (TEXT, None),
    ],
)
def test_bad_values_are_refused_with_what_would_do(arg, value):
    with pytest.raises(ValueError, match=arg.name + "=") as caught:
        arg.check(value)
    assert arg.accepts in str(caught.value)
    assert repr(value) in str(caught.value)


def test_accepts_in_words():
    assert INT.accepts == "a whole number from 1 to 16"
    assert ODD.accepts == "an odd whole number from 1 to 9"
    assert FLOAT.accepts == "a number from 0.1 to 0.9"
    assert OPEN.accepts == "a number"
    assert LOW.accepts == "a whole number, at least 1"
    assert BOOL.accepts == "true or false"
    assert TEXT.accepts == "one of lp, pl"
    assert SIZES.accepts == "one of 7, 11"


def test_entry_arguments():
    entry = get("CARAFE")
    assert entry.check_args({"k_up": 7, "c_mid": 64}) == {"k_up": 7}, "defaults are left out"
    assert entry.row_args({"scale": 2}, {"k_up": 7}) == [3, 7, 64, 2]
    row = get("DCNv2").row_args
    assert row({"kernel": 3, "stride": 2}, {}) == [3, 2], "optional ones at the end are left out at their defaults"
    assert row({"kernel": 3, "stride": 2}, {"dilation": 2}) == [3, 2, 2]
    assert row({"kernel": 3, "stride": 2}, {"groups": 4}) == [3, 2, 1, 4]
    with pytest.raises(ValueError, match=r"CARAFE has no argument 'kup'; did you mean k_up\?"):
        entry.check_args({"kup": 7})
    with pytest.raises(ValueError, match=r"k_up=4: expected an odd whole number"):
        entry.check_args({"k_up": 4})
    assert list(get("DynamicConv").check_args({"num_experts": 2, "gate": "softmax"})) == ["gate", "num_experts"]


def test_no_option_is_a_name_that_the_host_would_replace():
    """Ultralytics resolves a string argument against parse_model's local names first."""
    from ultralytics.nn.tasks import parse_model

    names = set(parse_model.__code__.co_varnames)
    for entry in entries().values():
        for arg in entry.args.values():
            assert not names & set(arg.options), f"{entry.name}.{arg.name}"
            assert arg.options or not isinstance(arg.default, str)


def test_from_slot_names_a_parameter():
    assert {p.key for e in entries().values() for p in e.params if isinstance(p, FromSlot)} <= {
        "scale",
        "kernel",
        "stride",
        "shortcut",
    }
