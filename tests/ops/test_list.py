"""What commands read of the modules without torch is what is registered and measured.

`NAS_REGENERATE=1 pytest tests/ops/test_list.py` writes ops/modules.json and nas/model/modules_size.json again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import nas.ops.families  # noqa: F401  registers the modules
from nas.model.module_card import SIZES, figures_of, measure_module
from nas.ops import listing, registry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def current():
    if os.environ.get("NAS_REGENERATE"):
        known = registry.entries()
        lists = {
            ROOT / "ops" / listing.LIST: {name: listing.to_list(e) for name, e in known.items()},
            ROOT / "nas" / "model" / SIZES: {name: asdict(measure_module(e)) for name, e in known.items()},
        }
        for path, body in lists.items():
            path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        listing.listed.cache_clear()


def test_the_list_is_the_registry():
    """With arguments, bounds and order; only the classes and starts are missing."""
    known = registry.entries()
    assert list(listing.listed()) == list(known)
    for name, entry in known.items():
        assert listing.listed()[name] == replace(entry, made=entry.source, start=None, inherit=None), name
        assert listing.listed()[name].cls is entry.cls


def test_the_stored_figures_are_the_measured_ones():
    assert {n: figures_of(e) for n, e in registry.entries().items()} == {
        n: measure_module(e) for n, e in registry.entries().items()
    }


def test_what_the_host_lacks_is_not_listed(monkeypatch):
    monkeypatch.setattr(listing, "_classes", lambda source: frozenset())
    listing.listed.cache_clear()
    try:
        hosted = {n for n, e in registry.entries().items() if listing.to_list(e)["needs"]}
        assert {"SPPF", "SCDown"} <= hosted
        assert listing.listed().keys() == registry.entries().keys() - hosted
    finally:
        monkeypatch.undo()
        listing.listed.cache_clear()


def test_a_listed_name_is_taken():
    """Also before the class that has it is imported."""

    class CARAFE: ...

    with pytest.raises(ValueError, match="registered already"):
        registry.register(rule="same", kinds={"up"}, paper="", summary="")(CARAFE)
