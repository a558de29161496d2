"""What a report shows of yardsticks, full trainings and detections, as text."""

from __future__ import annotations

import re

import pytest
from made_reports import HOSTILE, made_detections

from nas.errors import DataError
from nas.html.forms import to_json, to_markdown
from nas.html.page import study_page
from nas.html.sections import sections_of
from nas.html.source import read_source
from nas.html.trained.detections import section_of


def section(source, key):
    return next(s for s in sections_of(source) if s.id == key)


def test_yardsticks_are_a_curve_up_to_the_baseline_for_each_cost(everything):
    views = {view.label: view for view in section(everything, "front").figures[0].views}
    curves = {name: next((t for t in v.traces if t["name"] == "yardstick"), None) for name, v in views.items()}
    assert curves["GFLOPs"]["x"] == [7.0, 8.0, 8.62, 8.8]
    assert curves["GFLOPs"]["y"] == sorted(curves["GFLOPs"]["y"])
    assert curves["GFLOPs"]["text"][0].startswith("<b>yardstick: pruned to width 0.2</b><br>mAP50-95 0.4")
    assert curves["GFLOPs"]["text"][-1].startswith("<b>baseline</b>")
    assert all(curves["GFLOPs"]["error_y"]["array"])
    assert len(curves["parameters"]["x"]) == 4
    assert curves["latency"] is None  # which was not measured of them


def test_each_variant_is_compared_with_the_yardstick_near_it(everything):
    values = section(everything, "yardstick").values
    lines = [(line["inner"], line["cells"][0], line["kind"], line["sign"]) for line in values["lines"]]
    assert lines[0] == (False, "yardstick: pruned to width 0.245", "base", "")
    assert (True, "neck.down_*=SPConv", "better", "▲") in lines
    assert (True, "neck.c2f_*=C2f_SPConv", "worse", "▼") in lines
    assert not any(name == "neck.up_*=CARAFE" for _, name, *_ in lines)  # more GFLOPs than the baseline
    assert all(len(line["cells"]) == len(values["columns"]) for line in values["lines"])


def test_full_trainings_say_what_rank_full_says(everything):
    found = section(everything, "full")
    assert found.values["columns"][:4] == ["swaps", "mAP50-95", "n", "Δ"]
    lines = {line["cells"][0]: line for line in found.values["lines"]}
    assert lines["neck.up_*=DySample"]["kind"] == "better"
    assert lines["neck.c2f_*=C2f_SPConv"]["kind"] == "worse"
    assert lines["baseline"]["kind"] == "base"
    assert "stock, pruned to width 0.245" in lines
    figures = {figure.id: figure for figure in found.figures}
    differences = figures["full-differences"].views[0].traces
    assert {trace["name"] for trace in differences} >= {"better", "worse"}
    assert sum(len(trace["x"]) for trace in differences) == 5
    assert figures["full-differences"].layout["yaxis"]["ticktext"][-1] == found.values["lines"][0]["cells"][0]
    assert len(figures["full-curves"].views) == 5
    assert [len(trace["x"]) for trace in figures["full-curves"].traces] == [20, 20, 20]
    assert len(figures["full-proxies"].views[0].traces[0]["x"]) == 5
    text = " ".join(found.notes)
    assert "Proxies against full training, 5 variants: Spearman" in text
    assert "failed: " in text


def test_a_study_without_them_has_none_of_these_sections(whole):
    assert not {"full", "yardstick", "detections"} & {s.id for s in sections_of(whole)}
    assert not any(t["name"] == "yardstick" for v in section(whole, "front").figures[0].views for t in v.traces)


def test_pictures_are_left_out_without_weights_and_without_a_word(full_study):
    source = read_source(full_study, pictures=True, note=pytest.fail)
    assert "detections" not in {s.id for s in sections_of(source)}
    assert source.problems == []


def test_images_that_have_moved_are_named_in_one_line(full_study, monkeypatch):
    def moved(*_):
        raise DataError("its images have moved or have changed: /data/blood.yaml: no such file")

    monkeypatch.setattr("nas.html.trained.detections.look", moved)
    source = read_source(full_study, pictures=True)
    assert "bank" in {s.id for s in sections_of(source)}
    assert source.problems == [
        "detections: left out, its images have moved or have changed: /data/blood.yaml: no such file"
    ]


def test_detections(whole, monkeypatch):
    found = section_of(made_detections())
    text = " ".join(found.lead)
    assert "On 2 of the 9 validation images, at 320 px and a confidence of 0.25, the baseline has 2 found, " in text
    assert "neck.up_*=CARAFE has 4 found, 0 missed, 2 false" in text
    assert "They differ on these 2 images only." in text
    one, two = found.values["images"]
    assert [len(image["heats"]) for image in (one, two)] == [2, 0]
    kinds = [[box["kind"] for box in panel["boxes"]] for panel in one["panels"]]
    assert kinds == [["found", "missed"], ["found", "false"]]
    assert two["panels"][0]["boxes"][0]["text"] == "disc 0.91"
    assert two["panels"][1]["boxes"][1]["text_y"] > 4  # inside: there is no room above
    monkeypatch.setattr("nas.html.trained.detections.look", lambda *_: made_detections())
    page = study_page(read_source(whole.study, pictures=True))
    assert page.count("<symbol ") == 2
    assert page.count('<use href="#photo-') == 4
    assert page.count("data:image/jpeg;base64,") == 4  # each photograph is in the page once


def test_hostile_names_in_detections(whole, monkeypatch):
    monkeypatch.setattr("nas.html.trained.detections.look", lambda *_: made_detections(HOSTILE))
    page = study_page(read_source(whole.study, pictures=True))
    assert "<script>alert" not in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page.split("<script")[0])
    assert {link[:6] for link in links} == {"data:i", "#photo"}


def test_they_are_in_markdown_and_json(everything):
    text = to_markdown(everything)
    table = text.split("## Full trainings")[1].split("## ")[0]
    assert "| swaps | mAP50-95 | n |" in table
    assert "| neck.up\\_\\*=DySample |" in table
    assert "## Against the pruned baseline" in text
    body = to_json(everything)
    assert [row["swaps"] for row in body["full"]] == [row.run.title for row in everything.full]
    assert [row["width"] for row in body["yardsticks"]] == [0.2, 0.22, 0.245]
