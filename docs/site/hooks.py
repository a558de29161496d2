"""Publish what the documents link to outside of docs/: MkDocs knows files of its own folder only.

Each linked file of the repository, and what that one links to, becomes `repository/PATH` of the site, and links lead
there. So the Markdown has the links that are right in a checkout.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs_static_i18n.suffix import create_i18n_file

ROOT = Path(__file__).parents[2]
PREFIX = "repository/"
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def targets(path: str) -> list[str]:
    """Return the files of the repository that a Markdown file links to, as paths from its root."""
    links = LINK.findall((ROOT / path).read_text(encoding="utf-8"))
    return [
        posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for _, link, _ in links if "://" not in link
    ]


def linked_outside() -> list[str]:
    """Return every file outside of docs/ that is linked from there, directly or not."""
    waiting = [f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")]
    seen = set(waiting)
    while waiting:
        found = set(targets(waiting.pop())) - seen
        seen |= found
        waiting += [path for path in found if path.endswith(".md") and (ROOT / path).is_file()]
    return sorted(path for path in seen if not path.startswith("docs/") and (ROOT / path).is_file())


@event_priority(-200)  # after the plugin of the languages, which knows files of docs/ only
def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the linked files to those of the language that is built."""
    languages = config.plugins["i18n"]
    for path in linked_outside():
        file = File(PREFIX + path, config.docs_dir, config.site_dir, config.use_directory_urls)
        file = create_i18n_file(
            file, languages.current_language, languages.default_language, languages.all_languages, config
        )
        file.abs_src_path = os.fspath(ROOT / path)
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links between files of the repository lead to their pages."""
    uri = page.file.src_uri
    path = uri.removeprefix(PREFIX) if uri.startswith(PREFIX) else f"docs/{uri}"

    def moved(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        if "://" in link or not (ROOT / target).is_file():
            return match[0]
        target = target.removeprefix("docs/") if target.startswith("docs/") else PREFIX + target
        return before + posixpath.relpath(target, posixpath.dirname(uri) or ".") + after

    return LINK.sub(moved, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Let the choice of the language lead to pages beside this one where the site's address is not known.

    The plugin then writes `/` and `/zh/`, which are not there in a folder below an address, nor on disk.
    """
    if config.site_url:
        return output
    up = "../" * page.url.count("/") or "./"
    return re.sub(r'(<(?:a|link rel="alternate") href=")/((?:zh/)?" hreflang)', rf"\g<1>{up}\g<2>", output)
