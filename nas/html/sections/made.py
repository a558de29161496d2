"""How the result was made: data, recipe, versions, machine, time, and the command that does it again."""

from __future__ import annotations

from typing import Any

from nas.html.section import Section
from nas.html.source import Source
from nas.report.ranking_notes import ranking_notes
from nas.session.options import search_command


def made(source: Source) -> Section:
    """Return the section."""
    s, runs = source.settings, source.runs
    done = [t for t in runs if t.status == "done"]
    hours = sum(t.seconds for t in runs) / 3600
    spent = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    space = f"{s.space.stock}, {len(s.space.active)} slots, {s.space.size:.3g} variants"
    machines = dict.fromkeys(t.machine for t in runs if t.machine)
    images = f"{s.images[0]} training and {s.images[1]} validation images"
    facts: list[tuple[str, str]] = [
        ("Study", f"{source.name}, {source.study.location.shown}"),
        ("Space", f"{s.space.name}: {space}"),
        ("Data", f"{s.data or 'demo data'} (fingerprint {s.fingerprint}); {images}"),
        ("Classes", ", ".join(s.classes)),
        ("Trainings", f"{len(done)} finished of {len(runs)}, {spent} in all, without baselines and bank"),
        ("Machine", "; ".join(machines) or s.recipe.device or "cpu"),
        ("Recipe", _recipe(s.recipe.to_json())),
        ("Versions", ", ".join(f"{name} {version}" for name, version in s.versions)),
    ]  # fmt: skip
    if s.latency_on:
        facts.insert(6, ("Latency on", s.latency_on))
    return Section(
        id="made",
        title="How it was made",
        template="report_facts.html.j2",
        values={"command": command_of(source), "facts": [f for f in facts if f[1]]},
        notes=[line for line in ranking_notes(source.study, rows=source.rows) if line],
    )


def _recipe(body: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in body.items() if value not in ("", None))


def command_of(source: Source) -> str:
    """Return the command that creates the same search again, from the options that it was created with."""
    return search_command(source.settings.space.name, source.name, source.study.options or {})
