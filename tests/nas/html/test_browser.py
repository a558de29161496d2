"""The report in a real browser: Chromium, driven by Playwright, opens pages from disk, without a network."""

from __future__ import annotations

import io

import pytest
from made_reports import HOSTILE, made_detections
from made_reports import full_study as another
from PIL import Image

from nas.html.chromium import find_chromium, pictures
from nas.html.forms import write_report
from nas.html.page import study_page
from nas.html.sections import sections_of
from nas.html.source import read_source
from nas.html.together import together_page

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")
SHOWN = "tbody tr:not([hidden])"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Return what opens a page from disk, with a list of what went wrong in it, and of what it asked for."""
    contexts = []

    def make(text: str, width: int = 1280, scheme: str = "light"):
        file = tmp_path / "report.html"
        file.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.wrong = []
        page.on("console", lambda message: page.wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("dialog", lambda dialog: page.wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: page.wrong.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
        return page

    yield make
    for context in contexts:
        context.close()


MARKS = """() => [...document.querySelectorAll('.plot')].map((plot) => [plot.id, plot.querySelectorAll(
  '.point, .lines path.js-line, .barlayer path, .scatterlayer path.point').length])"""


CUT = """() => [...document.querySelectorAll('.plot')].flatMap((plot) => {
  const end = plot.getBoundingClientRect().right + 1;
  const titles = [...plot.querySelectorAll('.xtitle, .ytitle')];
  return titles.filter((title) => title.getBoundingClientRect().right > end).map((title) => title.textContent);
})"""
"""Titles of axes that are cut at the side."""


def marks(page) -> dict[str, int]:
    return dict(page.evaluate(MARKS))


@pytest.mark.parametrize("kind", ["everything", "hostile", "one_trial", "many"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_page_opens_without_an_error_or_a_request(request, opened, kind, width, scheme):
    made = request.getfixturevalue(kind)
    page = opened(study_page(read_source(made) if kind == "one_trial" else made), width, scheme)
    assert page.wrong == []
    found = marks(page)
    assert (kind == "one_trial") == (not found)
    assert all(found.values()), found
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out at the side
    assert page.evaluate("document.documentElement.dataset.shade") == scheme
    assert page.evaluate(CUT) == []


def test_several_studies(opened, full_study, tmp_path):
    (tmp_path / "other").mkdir()
    page = opened(together_page([read_source(full_study), read_source(another(tmp_path / "other"))]))
    assert page.wrong == []
    assert marks(page).keys() == {"plot-shared", "plot-agree"}
    assert all(marks(page).values())


def test_the_filter(opened, many):
    page = opened(study_page(many))
    assert page.locator(f".forest {SHOWN}").count() == 30
    assert page.locator(f".ranking {SHOWN}").count() == 31  # with the baseline
    page.select_option("#best", "100")
    assert page.locator(f".forest {SHOWN}").count() == 100
    page.fill("#query", "carafe neck")
    names = page.locator(f".forest {SHOWN} th").all_inner_texts()
    assert names
    assert all("CARAFE" in name and "neck" in name for name in names)
    points = "document.getElementById('plot-front').data.reduce((n, t) => n + (t.mode === 'markers') * t.x.length, 0)"
    total = int(page.locator("#count").inner_text().split(" of ")[1])
    assert total == 999
    assert len(names) <= page.evaluate(points) - 1 < 500
    page.fill("#query", "nothing has this name")
    assert page.locator(f".forest {SHOWN}").count() == 0
    page.fill("#query", "")
    page.click("[data-only=front]")
    assert 0 < page.locator(f".forest {SHOWN}").count() < 50
    page.click("[data-only=all]")
    page.select_option("#order", "delta")
    deltas = page.locator(f".forest {SHOWN}").evaluate_all("rows => rows.map((row) => +row.dataset.delta)")
    assert deltas == sorted(deltas, reverse=True)
    assert page.wrong == []


def test_several_seeds_only(opened, whole):
    page = opened(study_page(whole))
    assert page.locator(f".forest {SHOWN}").count() == 7
    page.click("[data-only=confirmed]")
    assert page.locator(f".forest {SHOWN}").count() == 6
    assert page.locator(".forest .single:not([hidden])").count() == 0


def test_theme_views_and_print(opened, whole):
    page = opened(study_page(whole))
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.click("#theme")
    assert page.locator("#theme").inner_text() == "Theme: dark"
    assert page.evaluate(paper) != light
    colour = "document.getElementById('plot-front').data.find((t) => t.name === 'baseline').marker.color"
    assert page.evaluate(colour) == "#e9ebee"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(paper) == light  # paper is white
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    before = page.evaluate("document.getElementById('plot-front').layout.xaxis.title.text")
    page.select_option("[data-for=front] select", label="latency")
    after = page.evaluate("document.getElementById('plot-front').layout.xaxis.title.text")
    assert (before, after) == ("GFLOPs at 640 px", "latency of one image in ms")
    assert page.wrong == []


def test_copying_the_table(opened, whole):
    page = opened(study_page(whole))
    page.check("#parts")
    text = {form: page.evaluate(f"nasReport.tableText('{form}')") for form in ("csv", "markdown", "latex")}
    winner = whole.winner.trial.describe()
    lines = text["csv"].splitlines()
    assert lines[0].startswith("Variant,mAP50,mAP50-95,")
    assert [line.split(",")[0] for line in lines[1:]].count("baseline") == 1
    assert any(line.startswith(f"{winner},") for line in lines)
    assert len(lines) == len(text["markdown"].splitlines()) - 1 == len(text["latex"].splitlines()) - 5
    assert "\\toprule" in text["latex"]
    assert "neck.up\\_*=DySample" in text["latex"]


def test_a_copied_table_of_hostile_names(opened, hostile):
    page = opened(study_page(hostile))
    rows = page.evaluate("nasReport.tableText('markdown')").splitlines()
    assert "<script" not in rows[2]
    latex = page.evaluate("nasReport.tableText('latex')").splitlines()[4]
    assert "\\textasciicircum" not in latex
    assert "\\$\\{x\\}" in latex


def test_pictures_of_the_sections(whole):
    sections = sections_of(whole)
    found = pictures(study_page(whole, sections), ["forest", "front"])
    assert list(found) == ["forest", "front"]
    assert all(content.startswith(b"\x89PNG") and len(content) > 20_000 for content in found.values())


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_detections_are_seen(opened, whole, monkeypatch, width, scheme):
    monkeypatch.setattr("nas.html.trained.detections.look", lambda *_: made_detections(HOSTILE))
    page = opened(study_page(read_source(whole.study, pictures=True)), width, scheme)
    assert page.wrong == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heats = "[...document.querySelectorAll('.panel img')].map((i) => [i.naturalWidth, i.clientWidth, i.clientHeight])"
    for natural, wide, high in page.evaluate(heats):
        assert natural == 200
        assert wide > 150
        assert abs(wide / high - 4 / 3) < 0.02
    panels = page.locator(".panel svg")
    assert panels.count() == 4
    sides = panels.evaluate_all("all => all.map((s) => s.getBoundingClientRect()).map((r) => [r.width, r.height])")
    assert all(wide > 150 and abs(wide / high - 4 / 3) < 0.02 for wide, high in sides)
    seen = Image.open(io.BytesIO(panels.first.screenshot())).convert("RGB")
    corner = seen.getpixel((int(seen.width * 0.9), int(seen.height * 0.95)))
    assert all(abs(a - b) < 8 for a, b in zip(corner, (128, 128, 0), strict=True)), corner  # the photograph


def test_detections_as_a_picture(whole, monkeypatch, tmp_path):
    monkeypatch.setattr("nas.html.trained.detections.look", lambda *_: made_detections())
    files = write_report([read_source(whole.study, pictures=True)], tmp_path / "r.png", "png")
    assert "r-detections.png" in {file.name for file in files}
