"""The documentation site: it builds, and its Chinese pages say all that the English ones say."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ENGLISH_ONLY = {
    "commands.md": "written from `--help`",
    "modules.md": "written from the registry",
    "api.md": "written from the docstrings",
}
"""Pages of the navigation without a Chinese one, and why."""


def in_navigation(entry: Any) -> list[str]:
    """Return the pages below an entry of the navigation, in its order."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in in_navigation(part)]


def navigation() -> list[str]:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (written,) = re.findall(r"^nav:\n(?:^ .*\n)+", text, re.MULTILINE)  # the rest has tags that only MkDocs knows
    return in_navigation(yaml.safe_load(written)["nav"])


def chinese_of(page: Path) -> Path:
    return ROOT / "README.zh-CN.md" if page.name == "README.md" else page.with_suffix(".zh.md")


def english_of(page: Path) -> Path:
    return ROOT / "README.md" if page.name == "README.zh-CN.md" else page.with_name(page.name.replace(".zh.", "."))


PAIRED = [ROOT / "README.md", *(DOCS / name for name in navigation() if name not in ENGLISH_ONLY)]
pairs = pytest.mark.parametrize("page", PAIRED, ids=lambda page: page.name)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def split(text: str) -> tuple[list[tuple[str, str]], str]:
    """Return the blocks of code, each with its language, and the rest of a page."""
    blocks: list[tuple[str, str]] = []
    prose: list[str] = []
    fence = indented = False
    for line in text.splitlines():
        if re.match(r" *```", line):
            fence = not fence
            if fence:
                blocks.append((line.strip().removeprefix("```"), ""))
        elif fence or (line.startswith("    ") and (indented or not prose or not prose[-1])):
            if not fence and not indented:
                blocks.append(("", ""))
            blocks[-1] = (blocks[-1][0], f"{blocks[-1][1]}{line}\n")
            indented = not fence
            continue
        else:
            prose.append(line)
        indented = False
    return blocks, "\n".join(prose)


def blocks_of(text: str) -> list[str]:
    """Return the blocks of code, without the comments of those that are not output."""
    return [
        block if language == "text" else re.sub(r"(?:^| +)# .*$", "", block, flags=re.MULTILINE)
        for language, block in split(text)[0]
    ]


def prose_of(text: str) -> str:
    return split(text)[1]


def spans_of(text: str) -> set[str]:
    """Return the code within sentences."""
    return {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose_of(text))}


def numbers_of(text: str) -> set[str]:
    """Return the numbers in sentences, without those of links and code."""
    words = re.sub(r"`[^`]+`|\]\([^)]+\)", "", prose_of(text))
    return set(re.findall(r"(?<![A-Za-z0-9_.])[-+±]?\d+(?:[.,]\d+)*(?![A-Za-z])", words))


def headings_of(page: Path) -> list[tuple[int, str]]:
    """Return the level and the anchor of each heading."""
    found = re.findall(r"^(#+) (.*)$", prose_of(text_of(page)), re.MULTILINE)
    return [(len(marks), re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")) for marks, words in found]


def links_of(page: Path) -> list[tuple[str, int | None]]:
    """Return where the links of a page lead, sorted: the English file and the number of the section; or the URL."""
    found: set[tuple[str, int | None]] = set()
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        name, _, section = link.partition("#")
        if "://" in link:
            found.add((link, None))
            continue
        file = (page.parent / name).resolve() if name else page
        number = [anchor for _, anchor in headings_of(file)].index(section) if section else None
        found.add((english_of(file).relative_to(ROOT).as_posix(), number))
    return sorted(found, key=str)


def test_every_page_is_in_the_navigation():
    assert {file.name for file in DOCS.glob("*.md") if not file.name.endswith(".zh.md")} == set(navigation())
    assert len(navigation()) == len(set(navigation()))


def test_every_page_of_the_navigation_has_a_chinese_one():
    chinese = {english_of(file).name for file in DOCS.glob("*.zh.md")}
    assert chinese == set(navigation()) - ENGLISH_ONLY.keys()


@pairs
def test_the_chinese_page_has_the_same_sections(page):
    assert [level for level, _ in headings_of(chinese_of(page))] == [level for level, _ in headings_of(page)]


@pairs
def test_the_chinese_page_has_the_same_code(page):
    """Commands and output are the same byte for byte, comments may be translated; so are names within sentences."""
    english, chinese = text_of(page), text_of(chinese_of(page))
    assert blocks_of(chinese) == blocks_of(english)
    assert spans_of(chinese) == spans_of(english)


@pairs
def test_the_chinese_page_has_the_same_figures(page):
    """A number that changes in one language changes in the other."""
    assert numbers_of(text_of(chinese_of(page))) == numbers_of(text_of(page))


LANGUAGE_SWITCH = {("README.md", None)}
"""README.md and README.zh-CN.md link to each other, which is the same file here."""


@pairs
def test_the_chinese_page_has_the_same_links(page):
    assert set(links_of(chinese_of(page))) - LANGUAGE_SWITCH == set(links_of(page)) - LANGUAGE_SWITCH


@pairs
def test_the_chinese_page_links_to_chinese_pages(page):
    """On GitHub nobody switches the language for the reader."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(chinese_of(page))):
        file = (page.parent / link.partition("#")[0]).resolve()
        switch = page.name == "README.md" and link == "README.md"
        assert "://" in link or switch or file not in [*PAIRED] or file == page.resolve(), link


@pairs
def test_the_chinese_page_is_chinese(page):
    """Of its sentences, without names in code and links, most is Chinese."""
    words = re.sub(r"`[^`]+`|\]\([^)]+\)", "", prose_of(text_of(chinese_of(page))))
    assert len(re.findall(r"[\u4e00-\u9fff]", words)) > len(re.findall(r"[A-Za-z]", words)) / 2


def test_what_the_comparison_sees(tmp_path):
    text = "# A\n\nRun `nas rank` 12 times, ±0.5.\n\n    nas rank a  # see\n\n```text\n # 1\n```\n"
    assert blocks_of(text) == ["    nas rank a\n", " # 1\n"]
    assert spans_of(text) == {"nas rank"}
    assert numbers_of(text) == {"12", "±0.5"}
    page = tmp_path / "page.md"
    page.write_text(text + "```bash\n# no heading\n```\n## B c\n", encoding="utf-8")
    assert headings_of(page) == [(1, "a"), (2, "b-c")]


def dead_links(pages: list[Path]) -> list[str]:
    """Return the links of built pages, also of the theme, that lead to no file or to no place in it."""
    text = {page: page.read_text(encoding="utf-8") for page in pages}
    places = {page: set(re.findall(r'\bid="([^"]*)"', html)) for page, html in text.items()}
    found = []
    for page, html in text.items():
        for link in re.findall(r'<[^>]* (?:href|src)="([^":]+)"', html):  # of other sites there is a colon
            name, _, place = unquote(link).partition("#")
            target = (page.parent / name).resolve() if name else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (place and target in places and place not in places[target]):
                found.append(f"{page}: {link}")
    return found


@pytest.mark.skipif(not importlib.util.find_spec("mkdocs_static_i18n"), reason="needs the extra `docs`")
def test_the_site_builds_without_a_warning(tmp_path):
    """Both languages, no dead link or section, no request to anywhere; pages outside of docs/ are in it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [ROOT / ".ci" / "site", "--site-dir", tmp_path / "site"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    site = tmp_path / "site"
    for name in ["index.html", "faq/index.html", "zh/index.html", "zh/faq/index.html"]:
        html = (site / name).read_text(encoding="utf-8")
        assert ('lang="zh"' in html) == name.startswith("zh/")
        assert not re.findall(
            r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//|<link[^>]* rel="stylesheet"[^>]*//', html
        )
    assert (site / "repository/studies/results/bccd-trained/index.html").is_file()
    assert (site / "repository/examples/search.ipynb").is_file()
    pages = list(site.resolve().rglob("index.html"))
    assert not [page for page in pages if re.search(r'<(?:a|link)[^>]* href="/', page.read_text(encoding="utf-8"))]
    assert dead_links(pages) == []
    assert "StudyResult" in (site / "api" / "index.html").read_text(encoding="utf-8")
