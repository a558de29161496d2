"""The heat map: the effect of each module in each slot."""

from __future__ import annotations

from typing import Any

from nas.bank.store import IDLE
from nas.html.section import Section
from nas.html.source import Source
from nas.ranking.effects import Effect
from nas.training.scores import signed

_SMALL = 0.002
"""Strongest effect below which all are printed with a fourth digit."""


def heat_map(source: Source) -> Section | None:
    """Return the section; None where nothing was measured."""
    found = source.effects
    if found is None:
        return None
    effects: dict[tuple[str, str], Effect] = {}
    for effect in found.of("swap"):
        slot, _, label = effect.name.partition("=")
        effects[slot, label] = effect
    slots = [slot for slot in source.settings.space.active if any(key == slot.key for key, _ in effects)]
    idle = idle_slots(source)
    labels = {label: None for slot in slots for label in slot.choices[1:]}
    best = {label: max((e.map for (_, own), e in effects.items() if own == label), default=-1e9) for label in labels}
    modules = sorted((label for label in labels if best[label] > -1e9), key=lambda label: -best[label])
    top = max((abs(e.map) for e in effects.values()), default=0.0) or 1.0
    choices = {slot.key: set(slot.choices[1:]) for slot in slots}
    lines = [
        {"module": m, "cells": [_cell(effects.get((s.key, m)), m in choices[s.key], s.key in idle, top) for s in slots]}
        for m in modules
    ]
    every = {e.name: e for e in found.of("slot")}
    foot = [_cell(every.get(s.key), True, s.key in idle, top) for s in slots]
    lead = [
        (
            "Effect on mAP50-95 of a module in a slot, over all variants that have it; shrunk towards zero where "
            "scores are few or noisy. Modules with the highest effect first. ▲ and ▼: clear after Holm’s correction."
        )
    ]
    if any(s.key in idle for s in slots):
        lead.append("Hatched: the slot idles here, so no swap can matter in it.")
    return Section(
        id="heat-map",
        title="Where each module helps",
        lead=lead,
        template="report_heat_map.html.j2",
        values={
            "slots": [s.key for s in slots],
            "lines": lines,
            "foot": foot,
            "longest": min(max(len(s.key) for s in slots), 28),
            "low": signed(-top, 4),
            "high": signed(top, 4),
        },
    )


def idle_slots(source: Source) -> set[str]:
    """Return the slots whose layers all idle by the bank: the baseline loses nothing without them."""
    drops = source.study.bank.get("drops", {})
    idle = {name for name, drop in drops.items() if drop < IDLE}
    return {s.key for s in source.settings.space.active if s.layers and all(layer in idle for layer in s.layers)}


def _cell(effect: Effect | None, offered: bool, idle: bool, top: float) -> dict[str, Any]:
    """Return a cell: its text, the strength of its colour from -100 to 100, and how it is drawn."""
    if effect is None:
        kind = "untried" if offered else "none"
        return {
            "text": "",
            "kind": kind,
            "idle": idle,
            "share": 0,
            "tip": "not measured" if offered else "",
            "sign": "",
        }
    share = round(100 * effect.map / top)
    sign = {"better": "▲", "worse": "▼"}.get(effect.verdict, "")
    low, high = effect.map_interval
    tip = (
        f"{effect.name}: {effect.map:+.4f} [{low:+.4f}, {high:+.4f}] mAP50-95, {effect.gflops:+.3f} GFLOPs, "
        f"{effect.variants} variants, {effect.verdict}"
    )
    kind = "plus" if share > 0 else "minus" if share < 0 else "zero"
    digits = 3 if top >= _SMALL else 4
    shown = signed(effect.map, digits)
    text = shown.replace("0.", ".", 1) if float(shown) else "0"
    return {"text": text, "kind": kind, "idle": idle, "share": abs(share), "tip": tip, "sign": sign}
