"""The forms of a report, and the file that one is written to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.errors import OutputError, full_disk
from nas.files import write_atomic
from nas.full.table import full_rows
from nas.html.chromium import pictures
from nas.html.page import answer_of, study_page, warnings_of
from nas.html.section import RESULT, Section
from nas.html.sections import sections_of
from nas.html.sections.made import command_of
from nas.html.sections.table import table_of
from nas.html.source import Source
from nas.html.together import together_page
from nas.ranking.rank import export_rows
from nas.ranking.yardstick import yardsticks_json
from nas.space.bases import shown_task

Files = Mapping[Path, str | bytes]
_Write = Callable[[Source, Path], Files]


def _html(source: Source, path: Path) -> Files:
    return {path: study_page(source)}


def _markdown(source: Source, path: Path) -> Files:
    return {path: to_markdown(source)}


def _json(source: Source, path: Path) -> Files:
    return {path: json.dumps(to_json(source), indent=2, ensure_ascii=False) + "\n"}


def _png(source: Source, path: Path) -> Files:
    sections = sections_of(source)
    drawn = [s for s in sections if s.figures or s.template in _DRAWN_BY_TEMPLATES]
    stem = path.with_suffix("")
    made = pictures(study_page(source, sections), [section.id for section in drawn])
    return {stem.with_name(f"{stem.name}-{key}.png"): content for key, content in made.items()}


FORMS: Mapping[str, tuple[str, _Write]] = {
    "html": ("html", _html),
    "md": ("md", _markdown),
    "json": ("json", _json),
    "png": ("png", _png),
}
"""Name of a form to the ending of its file and what makes it."""
DRAWN = ("html", "png")
"""Forms that show pictures of detections."""
_DRAWN_BY_TEMPLATES = ("report_forest.html.j2", "report_heat_map.html.j2", "report_detections.html.j2")


def write_report(
    sources: Sequence[Source], path: Path | None = None, form: str = "html", *, force: bool = False
) -> tuple[Path, ...]:
    """Write a report, and return the files that it consists of.

    Args:
        sources: One study, or several that are put side by side, which is HTML only.
        path: The file; by default ``NAME-report`` with the form's ending in the current directory. For ``png`` the
            beginning of the names of several files.
        form: One of `FORMS`.
        force: Whether a file that exists is replaced.

    Raises:
        OutputError: A file exists, or cannot be written; or what draws pictures is not installed.
    """
    ending, make = FORMS[form]
    path = path or Path(f"{'-'.join(source.name for source in sources)[:100]}-report.{ending}")
    if form != "png":
        _check([path], force)
    if len(sources) > 1:
        if form != "html":
            raise OutputError(f"several studies side by side are HTML; --format {form} is for one study")
        files: Files = {path: together_page(sources)}
    else:
        files = make(sources[0], path)
    _check(files, force)
    for file, content in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, content)
        except OSError as error:
            raise OutputError(f"cannot write {file}: {full_disk(error) or error.strerror or error}") from None
    return tuple(files)


def _check(files: Sequence[Path] | Files, force: bool) -> None:
    """Raise OutputError for a file that would be replaced, or that is a folder."""
    for file in files:
        if file.is_dir():
            raise OutputError(f"{file} is a folder: give the name of a file with -o")
        if file.exists() and not force:
            raise OutputError(f"{file} exists; --force replaces it, -o gives the report another name")


def to_json(source: Source) -> dict[str, Any]:
    """Return the parts of a report as plain values."""
    answer, commands = answer_of(source)
    return {
        "study": source.name,
        "settings": json.loads(source.settings.to_json()),
        "running": source.running,
        "answer": answer,
        "next": commands,
        "rows": export_rows(source.rows),
        "effects": source.effects.to_json() if source.effects else None,
        "yardsticks": yardsticks_json(source.yardsticks) or None,
        "full": full_rows(source.full) or None,
        "bank": source.study.bank or None,
        "calibration": source.settings.calibrated or None,
        "command": command_of(source),
        "problems": source.problems,
    }


def to_markdown(source: Source) -> str:
    """Return a report as Markdown: the answer, the table, and what is written under each section."""
    answer, commands = answer_of(source)
    sections = sections_of(source)
    parts = [f"# {_cell(source.name)}", *map(_cell, warnings_of(source)), _cell(answer)]
    if commands:
        parts.append("\n".join(["```bash", *commands, "```"]))
    if source.rows:
        columns, lines = table_of(source)
        rule = "|" + "|".join("---" if i in (0, 6) else "---:" for i in range(len(columns))) + "|"
        rows = [f"| {' | '.join(map(_cell, cells))} |" for cells in (columns, *(line["cells"] for line in lines))]
        parts.append("\n".join([rows[0], rule, *rows[1:]]))
    parts += [_words(section) for section in sections if section.notes or section.template == RESULT]
    parts.append("\n".join(["## Command", "", "```bash", command_of(source), "```"]))
    return shown_task(source.settings.space.base).said("\n\n".join(parts) + "\n")


def _words(section: Section) -> str:
    """Return what a section says: its table, if it is one of results, and its notes."""
    lines = [f"## {section.title}", ""]
    if section.template == RESULT:
        columns, texts = section.values["columns"], section.values["texts"]
        cells = [columns, *(line["cells"] for line in section.values["lines"])]
        rows = [f"| {' | '.join(map(_cell, row))} |" for row in cells]
        rule = "|" + "|".join("---" if k in texts else "---:" for k in range(len(columns))) + "|"
        lines += [rows[0], rule, *rows[1:], *[""] * bool(section.notes)]
    return "\n".join([*lines, *(f"- {_cell(note)}" for note in section.notes)])


def _cell(text: str) -> str:
    """Return a text that Markdown prints as it is, on one line."""
    for sign in ("\\", "|", "*", "_", "`", "[", "]", "#"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("<", "&lt;").split())
