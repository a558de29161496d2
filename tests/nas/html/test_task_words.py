"""Words of a report of classification: top-1 accuracy in place of mAP, and the script of the figures untouched."""

from __future__ import annotations

import pytest

from nas.html import page as pages
from nas.html.section import Figure, Section, View
from nas.task.task import CLASSIFY, DETECT


@pytest.mark.parametrize("task", [CLASSIFY, DETECT])
def test_a_page_has_the_words_of_the_task(monkeypatch, task):
    monkeypatch.setattr(pages, "_plotly", lambda: "script(mAP50)")
    section = Section("s", "What mAP costs", ["0.1 mAP50-95"], [Figure("f", "mAP50-95", [View("all", [])])])
    made = pages.page(
        title="<plotly>", eyebrow="e", answer=["Δ mAP50-95"], commands=[], tiles=[], warnings=[], sections=[section],
        rows=[], shown=None, said=task.said,
    )  # fmt: skip
    assert made.count("script(mAP50)") == 1
    assert '<script type="text/plain" id="plotly">script(mAP50)</script>' in made
    assert "<h1>&lt;plotly&gt;</h1>" in made
    rest = made.replace("script(mAP50)", "")
    assert ("mAP" in rest) == (task is DETECT)
    assert ("0.1 top-1" in rest) == (task is CLASSIFY)
