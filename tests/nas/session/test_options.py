"""The options of a command arrive in one object: typed, stored where they belong to a study, refused where idle."""

from __future__ import annotations

from dataclasses import fields

import pytest

from nas.cli import cli
from nas.session.options import CalibrationOptions, SearchOptions
from nas.study.budget import Confirm


@pytest.mark.parametrize(("command", "options"), [("search", SearchOptions), ("calibrate", CalibrationOptions)])
def test_every_option_of_the_command_is_a_field(command, options):
    names = {p.name for p in cli.commands[command].params if getattr(p, "expose_value", True)} - {"as_json"}
    assert names <= {f.name for f in fields(options)}
    assert {f.name for f in fields(options)} - names <= (set() if command == "search" else LIMITS)


LIMITS = {"max_gflops", "max_params", "max_latency", "min_map"}
"""Options of a space that a calibration has no use for."""


@pytest.mark.parametrize(("command", "options"), [("search", SearchOptions), ("calibrate", CalibrationOptions)])
def test_defaults_are_the_command_s(command, options):
    arguments = ["seeds"] if command == "calibrate" else []
    context = cli.commands[command].make_context(command, [*arguments])
    given = {name: value for name, value in context.params.items() if name != "as_json"}
    assert options(**given) == (options(space="seeds") if arguments else options())


def test_only_what_is_given_is_given():
    assert SearchOptions().given() == {}
    given = {"epochs": 0, "seed": 0, "amp": False, "baseline_per_seed": False, "enable": ("a",), "latency": True}
    assert SearchOptions(**given).given() == given


def test_the_recipe_s_options_are_those_that_a_recipe_has():
    options = SearchOptions(epochs=3, imgsz=64, device="cpu", amp="bf16", trials=9, space="seeds", floor=0.1)
    assert options.of_recipe() == {"epochs": 3, "imgsz": 64, "device": "cpu", "amp": "bf16"}


def test_a_study_stores_what_makes_it_and_not_what_can_be_requested_later(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = SearchOptions(
        space="seeds", study="a", storage="sqlite:///a.db", seeds=2, confirm=Confirm(3, 3), workers=2, trials=5, seed=1,
        data="data.yaml", init="bank", weights="w.pt", enable=("neck.*",), latency=True,
    )  # fmt: skip
    assert options.to_store() == {
        "trials": 5, "seed": 1, "data": str(tmp_path / "data.yaml"), "init": "bank", "weights": str(tmp_path / "w.pt"),
        "enable": ("neck.*",), "latency": True,
    }  # fmt: skip


def test_stored_options_complete_those_that_are_given():
    stored = {"trials": 5, "scale": "s", "enable": ["neck.*"], "epochs": 3, "option_of_another_version": 1}
    options = SearchOptions(epochs=0)
    assert options.completed(stored) == SearchOptions(epochs=0, trials=5, scale="s", enable=("neck.*",))
    assert options.completed(stored, same_space=False) == SearchOptions(epochs=0, trials=5)


def test_options_that_are_idle_in_a_replay_are_named_as_they_are_typed():
    options = SearchOptions(
        replay="t.json", trials=4, max_gflops=9.0, space="seeds", amp="bf16", baseline_per_seed=False
    )
    assert options.idle_in_replay() == ["SPACE", "--baseline-per-seed/--one-baseline", "--precision"]
