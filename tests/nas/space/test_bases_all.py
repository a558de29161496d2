"""Many random variants of the space of the seed articles: rendered, parsed and costed; some of them built and run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml

from nas.emit.selection import random_variants
from nas.model.cost import costed, model_cost
from nas.model.host import build, register_costs
from nas.model.render import render
from nas.space.bases import load_base
from nas.space.space_file import load_space
from nas.space.variant import Variant, parse_choice

SPACE = load_space("seeds")
GRAPH = load_base(SPACE.base)
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Row = tuple[int, str, str]
"""A row's number, module and arguments: what decides its cost, as every choice keeps its layer's shape."""


def rows_of(text: str) -> list[tuple[Row, list[Any]]]:
    """Return the rows of a model YAML, each with what it takes."""
    config = yaml.load(text, LOADER)
    every = [*config["backbone"], *config["head"]]
    return [((i, module, repr(args)), source) for i, (source, _, module, args) in enumerate(every)]


def counted(model: torch.nn.Module) -> list[tuple[int, int]]:
    """Return the MACs and parameters of each layer, by the counter that costs models."""
    import thop

    register_costs()
    layers = thop.profile(model, [torch.empty(1, 3, 640, 640)], stride=32, verbose=False, ret_layer_info=True)[2]
    return [(int(macs), int(params)) for macs, params, _ in layers["model"][2].values()]


@pytest.fixture(scope="module")
def table() -> dict[Row, tuple[int, int]]:
    """Return the MACs and parameters of every row there can be: from as many models as a slot has choices."""
    costs: dict[Row, tuple[int, int]] = {}
    for turn in range(max(len(slot.choices) for slot in SPACE.active)):
        assignment = {slot.key: slot.choices[min(turn, len(slot.choices) - 1)] for slot in SPACE.active}
        text = render(SPACE.variant(assignment)).yaml
        for (row, _), cost in zip(rows_of(text), counted(build(text, SPACE.scale)), strict=True):
            assert costs.setdefault(row, cost) == cost, f"{row} costs another sum beside other layers"
    return costs


def summed(table: dict[Row, tuple[int, int]], rows: list[tuple[Row, list[Any]]]) -> tuple[int, int]:
    """Return the MACs and parameters of rows."""
    macs, params = zip(*(table[row] for row, _ in rows), strict=True)
    return sum(macs), sum(params)


@pytest.mark.slow
def test_rows_add_up_exactly(table):
    """What lets thousands of variants be costed without building each: whole MACs and parameters, no tolerance."""
    for variant in random_variants(SPACE, 36, seed=1):
        text = render(variant).yaml
        layers = counted(build(text, SPACE.scale))
        assert summed(table, rows_of(text)) == tuple(map(sum, zip(*layers, strict=True))), variant.describe()
    for variant in random_variants(SPACE, 3, seed=1):
        macs, params = summed(table, rows_of(render(variant).yaml))
        cost = model_cost(build(render(variant).yaml, SPACE.scale))
        assert (cost.gflops, cost.params) == (pytest.approx(2 * macs / 1e9, rel=1e-12), params)


@pytest.mark.slow
def test_ten_thousand_are_rendered_parsed_and_costed(table):
    stock = Variant(SPACE.base, SPACE.scale)
    plain = rows_of(render(stock).yaml)
    base = summed(table, plain)
    place = {name: i for i, name in enumerate(GRAPH.names)}
    by_label: dict[tuple[str, str], tuple[int, int]] = {}
    seen: set[str] = set()
    for variant in random_variants(SPACE, 10_000, seed=0):
        files = render(variant)
        rows = rows_of(files.yaml)
        swaps = {place[slot]: label for slot, label in variant.swaps}
        for i, ((row, source), (own, own_source)) in enumerate(zip(rows, plain, strict=True)):
            assert source == own_source
            assert row == own if i not in swaps else row[1] == parse_choice(swaps[i]).module
        macs, params = summed(table, rows)
        # The other way to the same sum: the base, and what each swap adds, whatever stands beside it.
        for slot, label in variant.swaps:
            i = place[slot]
            added = tuple(new - old for new, old in zip(table[rows[i][0]], table[plain[i][0]], strict=True))
            assert by_label.setdefault((slot, label), added) == added
        added = [by_label[swap] for swap in variant.swaps]
        assert (macs, params) == tuple(b + sum(a[k] for a in added) for k, b in enumerate(base))
        seen.add(files.name)
    assert len(seen) == 10_000
    assert len(by_label) == sum(len(slot.choices) - 1 for slot in SPACE.active)


@pytest.mark.slow
def test_two_hundred_build_and_run():
    image = torch.rand(1, 3, 64, 64)
    for variant in random_variants(SPACE, 200, seed=2):
        output = build(render(variant).yaml, SPACE.scale)(image)[0]
        assert output.shape == (1, 84, 84), variant.describe()
        assert torch.isfinite(output).all(), variant.describe()


def test_one_is_stated_as_it_costs(table):
    variant = random_variants(SPACE, 1, seed=4)[0]
    files, cost = costed(variant)
    macs, params = summed(table, rows_of(files.yaml))
    assert (cost.params, round(cost.gflops, 6)) == (params, round(2 * macs / 1e9, 6))
    assert f"{params} parameters, {2 * macs / 1e9:.1f} GFLOPs" in files.yaml
