"""Registration: what is rendered is what runs; what cannot work is refused with the reason."""

import pytest
import torch
import yaml

from nas.errors import BuildError, HostError
from nas.model import host
from nas.model.render import ANCHOR, render, render_branch
from nas.ops import registry
from nas.space.model_yaml import ModelYaml
from nas.space.variant import Variant, parse_swaps


def test_anchor_stands_once_in_the_installed_host():
    from ultralytics.nn import tasks

    host.register()
    assert host._pristine is not None
    assert host._pristine[1].count(ANCHOR) == 1
    assert tasks.parse_model is not host._pristine[0]


def test_registering_twice_changes_nothing():
    from ultralytics.nn import tasks

    host.register()
    before = tasks.parse_model
    host.register()
    assert tasks.parse_model is before


def test_the_branch_in_memory_is_the_rendered_one():
    import linecache

    from ultralytics.nn import tasks

    host.register()
    own = [e.name for e in registry.entries().values() if not e.cls.__module__.startswith("ultralytics.")]
    source = "".join(linecache.getlines(tasks.parse_model.__code__.co_filename))
    assert source == host._pristine[1].replace(ANCHOR, render_branch(own) + ANCHOR)


def test_the_branch_of_a_variant_alone_builds_it(monkeypatch):
    """What the snippet tells a user to paste is enough for the variant that it comes with."""
    from ultralytics.nn import tasks

    host.register()
    variant = parse_swaps("yolov8", "n", ["neck.up_*=CARAFE", "backbone.down_p3=SPConv", "neck.c2f_n4=C2f_DCNv4"])
    text = host.patched_source(host._pristine[1], render_branch(variant.modules))
    scope: dict = {}
    exec(compile(text, "<snippet>", "exec"), tasks.__dict__, scope)
    with_all = host.build(render(variant).yaml, "n").state_dict()
    monkeypatch.setattr(tasks, "parse_model", scope["parse_model"])
    config = yaml.safe_load(render(variant).yaml) | {"scale": "n"}
    with_own = tasks.DetectionModel(config, ch=3, verbose=False).state_dict()
    assert {k: v.shape for k, v in with_own.items()} == {k: v.shape for k, v in with_all.items()}


@pytest.mark.parametrize("count", [0, 2])
def test_a_missing_or_double_anchor_is_named(count):
    with pytest.raises(HostError, match=rf"the anchor 'elif m is Concat:' occurs {count} times"):
        host.patched_source("def parse_model():\n" + ANCHOR * count, "")


def test_values_that_the_host_would_replace_are_refused(monkeypatch):
    entry = registry.Entry(
        "Odd",
        torch.nn.Identity,
        "same",
        frozenset({"up"}),
        (registry.Arg("mode", "scale", "", options=("scale",)),),
        "",
        "",
    )
    with pytest.raises(HostError, match="the value 'scale' of mode is a variable of Ultralytics' parse_model"):
        host._check_strings(entry, host._pristine[0])


def test_a_name_that_the_host_has_is_refused(monkeypatch):
    class GhostConv(torch.nn.Module):
        pass

    entries = registry.entries()
    entry = registry.Entry("GhostConv", GhostConv, "conv", frozenset({"conv"}), (), "", "")
    monkeypatch.setattr(registry, "entries", lambda: {**entries, "GhostConv": entry})
    with pytest.raises(HostError, match="has a GhostConv of its own"):
        host.register()


def test_string_values_survive_the_host():
    """`lp` and `pl` are no variables of parse_model: the module gets what the YAML says."""
    model = host.build(render(parse_swaps("yolov8", "n", ["neck.up_p4=DySample(style=pl)"])).yaml, "n")
    assert model.model[10].style == "pl"


def test_what_cannot_be_built_says_why():
    broken = render(Variant("yolov8", "n")).yaml.replace("C2f, [256, True]", "C2f, [256, True, 'x', 'y', 'z']")
    with pytest.raises(BuildError, match="cannot be built: "):
        host.build(broken, "n")


@pytest.mark.parametrize(
    ("name", "scales", "given", "letter"),
    [
        ("yolov8s-x.yaml", ["n", "s"], None, "s"),
        ("yolov8-x.yaml", ["n", "s"], None, "n"),
        ("mine.yaml", ["s", "n"], None, "s"),
        ("mine.yaml", ["n", "s"], "s", "s"),
        ("yolov8s-x.yaml", ["n", "s"], "n", "n"),
        ("yolov10b-x.yaml", ["b"], None, "b"),
        ("mine.yaml", [], None, ""),
    ],
)
def test_the_scale_is_that_of_the_host(tmp_path, name, scales, given, letter):
    found, word = host.chosen_scale(tmp_path / name, _with_scales(scales), given)
    assert found == letter
    guessed = given is None and len(scales) > 1 and not name.startswith("yolov8s")
    assert ("no scale letter in the file's name" in word) == guessed


def _with_scales(letters: list[str]) -> ModelYaml:
    return ModelYaml("x.yaml", 80, dict.fromkeys(letters, (1.0, 1.0, 64)), (), (), 0)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("yolov8s-x.yaml", None, "gives the scale 's', expected one of n, m, .*--scale chooses another"),
        ("mine.yaml", "s", "has no scale 's'; its scales: n, m"),
    ],
)
def test_a_scale_that_the_file_lacks(tmp_path, name, given, message):
    with pytest.raises(BuildError, match=message):
        host.chosen_scale(tmp_path / name, _with_scales(["n", "m"]), given)
