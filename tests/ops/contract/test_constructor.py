"""What every registered module promises of its constructor. A new module is tested by being registered."""

from __future__ import annotations

import contextlib
import inspect

import pytest
import torch
from contract_cases import ARGUMENTS, NC, Case, each, every_case, every_entry, run, slots_of

WIDTHS = (16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 288, 320, 384, 512, 576, 640)
"""Channels that the layers of YOLOv8's five scales have."""


@every_entry
def test_arguments_are_where_the_constructor_expects_them(entry):
    names = list(inspect.signature(entry.cls).parameters)
    expected = [*ARGUMENTS[entry.rule], *(p.name for p in entry.params)]
    assert names[: len(expected)] == expected


@every_entry
def test_defaults_are_the_constructors(entry):
    parameters = inspect.signature(entry.cls).parameters
    for arg in entry.args.values():
        if entry.native and parameters[arg.name].default is inspect.Parameter.empty:
            continue  # a row of a model YAML always gives it
        assert parameters[arg.name].default == arg.default
        assert type(parameters[arg.name].default) is type(arg.default)
        assert arg.check(arg.default) == arg.default


@every_entry
def test_numbers_have_bounds(entry):
    for arg in entry.args.values():
        if isinstance(arg.default, int | float) and not isinstance(arg.default, bool) and not arg.options:
            assert arg.low is not None, arg.name
            assert arg.high is not None, arg.name


@every_entry
def test_bounds_of_every_argument_build(entry):
    """Each bound alone, with the other arguments at their defaults."""
    for arg in entry.args.values():
        for bound in (arg.low, arg.high):
            if bound is None or isinstance(arg.default, bool):
                continue
            case = Case(entry, slots_of(entry)[0], {arg.name: arg.check(bound)})
            with contextlib.suppress(ValueError):  # a bound may ask for more than these channels offer
                assert run(case.build().eval(), case.inputs(1, 4, 5)).shape == case.shape(1, 4, 5)


@every_case
def test_builds_at_every_width_or_says_what_it_needs(case):
    for width in WIDTHS:
        for other in (width, 2 * width):
            channels = {"c": width, "c1": width, "c2": other, "n": 1, "c_guide": other, "nc": NC}
            channels["ch"] = (width, other, other)
            said = ""
            with torch.device("meta"):
                try:
                    case.build(*(channels[name] for name in ARGUMENTS[case.entry.rule]))
                except ValueError as error:
                    said = str(error)
            assert not said or said.startswith(f"{case.entry.name}: "), said
            assert not said or case.entry.requires, "what it needs of its place is not said"


@every_case
def test_no_attribute_that_the_host_overwrites(case):
    for module in case.build().modules():
        taken = {"i", "f", "type", "np"} & {*vars(module), *module._modules, *module._parameters, *module._buffers}
        own = {name for name in taken if not callable(getattr(torch.nn.Module, name, None))}
        assert not own, f"Ultralytics writes to {own} of a layer"


@every_case
def test_no_device_of_its_own(case):
    """All that it makes lies where its parameters and its input lie."""
    with torch.device("meta"):
        module = case.build().eval()
    assert {t.device.type for t in (*module.parameters(), *module.buffers())} <= {"meta"}
    y = run(module, each(case.inputs(), lambda t: t.to("meta")))
    assert y.device.type == "meta"
    assert tuple(y.shape) == case.shape(2, 6, 9)


@every_case
def test_nothing_is_printed_and_no_network_is_asked(case, capsys, monkeypatch):
    def refuse(*_):
        pytest.fail("a module asked for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    case.build()(case.inputs())
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
