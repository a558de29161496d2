"""The report as text: what is in it, what is left out, that nothing in it runs or loads, and how large it is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_reports import HOSTILE

from nas.cli import cli
from nas.errors import NasError, OutputError, StudyError
from nas.html import chromium
from nas.html.forms import to_json, to_markdown, write_report
from nas.html.page import study_page
from nas.html.scale import scale_of
from nas.html.section import Section
from nas.html.sections import SECTIONS, sections_of
from nas.html.sections.front import free_sides
from nas.html.source import read_source, read_sources
from nas.html.together import together_page
from nas.session.options import search_command
from nas.study.location import locate
from nas.study.study import Study


class Parsed(HTMLParser):
    """The elements of a page: tags with attributes, the text outside of scripts, and the scripts by ID."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.scripts: dict[str, str] = {}
        self._within: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._within = dict(attrs).get("id", tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._within = None

    def handle_data(self, data):
        if self._within is None:
            self.text.append(data)
        else:
            self.scripts[self._within] = self.scripts.get(self._within, "") + data

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] for tag, attrs in self.tags if tag == "section"]

    @property
    def data(self) -> dict:
        return json.loads(self.scripts["data"])


def test_a_study_with_everything_has_every_section_in_order(everything):
    page = Parsed(study_page(everything))
    assert page.ids == [key for key in SECTIONS if key != "detections"]  # for which weights are needed
    assert everything.problems == []
    text = " ".join(page.text)
    assert "Compared 8 variants of yolov8n" in text
    assert "nas emit-yaml --study s" in text
    assert "±0.0060 mAP50-95" in text  # the resolution as a band
    assert "not finite" in text
    assert "A/A: 7 seeds of the baseline" in text
    assert "Failed: neck.c2f_*=C2f_SPConv  neck.up_*=CARAFE: why" in text
    figures = {figure["id"]: figure for figure in page.data["figures"]}
    assert list(figures) == [
        *("front", "full-differences", "full-curves", "full-proxies"),
        *("curves", "bank-errors", "bank-drops", "calibration", "levels", "seeds"),
    ]
    assert [view["label"] for view in figures["front"]["views"]] == ["GFLOPs", "parameters", "latency"]
    assert [view["label"] for view in figures["calibration"]["views"]] == ["bank-4", "GFLOPs only"]
    assert len(figures["curves"]["views"]) == 7
    for figure in figures.values():  # marks in every figure, of numbers only
        for view in figure["views"]:
            traces = [*figure["traces"], *view["traces"]]
            assert sum(len(trace["x"]) for trace in traces) > 1
            assert all(len(trace["x"]) == len(trace["y"]) for trace in traces)


def test_the_forest_plot_says_what_the_ranking_says(whole):
    section = next(s for s in sections_of(whole) if s.id == "forest")
    lines = {line["place"]: line for line in section.values["lines"]}
    assert len(lines) == 7
    kinds = set()
    for row in whole.rows:
        if row.trial.variant.is_baseline:
            continue
        line = lines[whole.place[row.trial.number]]
        kinds.add((line["kind"], line["sign"]))
        assert line["delta"] == f"{row.delta_map:+.4f}"
        assert 0 <= line["low"] < line["x"] < line["high"] <= 100
        assert (line["x"] > section.values["zero"]) == (row.delta_map > 0)
    assert {("better", "▲"), ("worse", "▼"), ("unsure", "●"), ("single", "◇")} == kinds


def test_the_heat_map_marks_what_was_not_measured_and_what_idles(whole):
    section = next(s for s in sections_of(whole) if s.id == "heat-map")
    assert section.values["slots"] == ["neck.up_*", "neck.down_*", "neck.c2f_*"]
    cells = {line["module"]: line["cells"] for line in section.values["lines"]}
    assert [cell["kind"] for cell in cells["DySample"]] == ["plus", "none", "none"]
    assert cells["C2f_SPConv"][2]["kind"] == "minus"
    assert [cell["idle"] for cell in cells["SPConv"]] == [False, True, False]


def test_what_a_study_lacks_is_left_out(one_trial):
    source = read_source(one_trial)
    page = Parsed(study_page(source))
    assert page.ids == ["table", "made"]
    assert "plotly" not in page.scripts  # no figure, no script
    assert source.problems == []
    assert not any(attrs.get("id") == "best" for _, attrs in page.tags)


def test_a_study_without_a_finished_trial(ranked_study):
    source = read_source(ranked_study([({"neck.up_*": "CARAFE"}, "failed", 0, 8.0)]))
    page = Parsed(study_page(source))
    assert page.ids == ["made"]
    assert "No variant has finished yet." in page.text
    assert to_json(source)["rows"] == []
    assert "No variant has finished yet" in to_markdown(source)


def test_a_running_study_is_a_snapshot(full_study):
    trial = replace(full_study.runs()[0], number=-1, seed=99, status="running")
    full_study.start(trial)
    text = " ".join(Parsed(study_page(read_source(full_study))).text)
    assert "A snapshot: 1 training had started and not ended when it was made" in text


def test_nothing_in_a_page_runs_or_loads(hostile):
    raw = study_page(hostile)
    page = Parsed(raw)
    assert not any(tag in ("link", "img", "iframe", "object", "base", "form") for tag, _ in page.tags)
    for tag, attrs in page.tags:
        assert not {"src", "href", "action", "srcset"} & attrs.keys(), (tag, attrs)
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
    assert [tag for tag, _ in page.tags].count("script") == 3  # the data, ours, Plotly's
    assert "default-src 'none'" in next(attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs)
    assert HOSTILE in json.dumps(page.data, ensure_ascii=False).replace('\\"', '"')
    assert any(HOSTILE in text for text in page.text)
    assert "url(" not in page.scripts["style"]
    assert "<script>alert" not in raw


def test_hostile_names_in_markdown_and_json(hostile):
    text = to_markdown(hostile)
    assert "<script" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "alert" in line]
    assert rows
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {11}
    assert json.loads(json.dumps(to_json(hostile)))["study"] == "s"


def test_plotly_reads_no_markup_from_names(hostile):
    """Plotly reads tags in texts of a figure."""
    for figure in Parsed(study_page(hostile)).data["figures"]:
        if figure["id"] in ("front", "seeds"):
            assert "<script" not in json.dumps(figure)


def test_a_thousand_variants(many):
    raw = study_page(many)
    page = Parsed(raw)
    assert len(raw.encode()) < 8_000_000
    assert len(page.data["rows"]) == 1000
    assert sum(attrs.get("data-place") is not None for tag, attrs in page.tags if tag == "tr") == 1999
    assert ("option", {"value": "30", "selected": None}) in page.tags
    assert page.ids[:6] == ["forest", "front", "heat-map", "curves", "bank", "table"]


def test_a_section_that_fails_is_named_and_the_others_are_shown(whole, monkeypatch):
    def broken(source):
        raise StudyError("it is damaged")

    monkeypatch.setattr("nas.html.sections.bank.bank", broken)
    page = Parsed(study_page(whole))
    assert "bank" not in page.ids
    assert len(page.ids) == len(SECTIONS) - 4  # without yardsticks, full trainings and weights too
    assert any("bank: left out, it is damaged" in text for text in page.text)


def test_a_calibration_that_is_gone(full_study):
    Path(full_study.options["proxy"]).unlink()
    source = read_source(full_study)
    page = Parsed(study_page(source))
    assert "calibration" in page.ids  # its numbers are in the study
    assert [line.partition(":")[0] for line in source.problems] == ["points of the calibration"]


def test_a_new_section_is_a_function_and_an_entry(whole, monkeypatch):
    import nas.html.sections as sections

    monkeypatch.setattr(sections, "SECTIONS", {**SECTIONS, "own": f"{__name__}:own"})
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(own=own))
    page = Parsed(study_page(whole))
    assert page.ids[-1] == "own"
    assert "s has 8 rows" in page.text


def own(source):
    return Section("own", "Mine", [f"{source.name} has {len(source.rows)} rows"])


def test_labels_do_not_cover_each_other():
    assert free_sides([(0.1, 0.9), (0.12, 0.9), (0.9, 0.2)], [30, 30, 30]) == ["right", "", "left"]
    assert free_sides([(0.1, 0.9), (0.12, 0.5)], [30, 30]) == ["right", "right"]


def test_a_scale_of_equal_values():
    scale = scale_of([0.0, 0.0], [])
    assert scale.at(0.0) == 50
    assert scale.low < 0 < scale.high


def test_two_studies_side_by_side(full_study, tmp_path):
    from made_reports import full_study as another

    (tmp_path / "other").mkdir()
    page = Parsed(together_page([read_source(full_study), read_source(another(tmp_path / "other"))]))
    assert page.ids == ["overview", "shared"]
    assert [figure["id"] for figure in page.data["figures"]] == ["shared", "agree"]
    assert "7 variants are in both studies." in " ".join(page.text)


def test_studies_without_a_common_variant(full_study, one_trial):
    page = Parsed(together_page([read_source(full_study), read_source(one_trial)]))
    assert page.ids == ["overview"]


def place(study: Study) -> list[str]:
    return [study.location.name, "--storage", f"sqlite:///{study.location.file}"]


def test_the_command(full_study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["report", *place(full_study)])
    assert (result.exit_code, result.stdout) == (0, "written: s-report.html\n"), result.output
    again = CliRunner().invoke(cli, ["report", *place(full_study)])
    assert again.exit_code == 1
    assert again.stderr == "error: s-report.html exists; --force replaces it, -o gives the report another name\n"
    assert CliRunner().invoke(cli, ["report", *place(full_study), "--force"]).exit_code == 0
    result = CliRunner().invoke(cli, ["report", *place(full_study), "-o", str(tmp_path)])
    assert "is a folder" in result.stderr
    for form in ("md", "json"):
        result = CliRunner().invoke(cli, ["report", *place(full_study), "--format", form, "-o", f"r.{form}"])
        assert result.exit_code == 0, result.output
    body = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert (len(body["rows"]), body["running"], body["bank"]["teacher_map"]) == (8, 0, 0.5)
    assert "| Variant | mAP50 |" in Path("r.md").read_text(encoding="utf-8")
    gone = CliRunner().invoke(cli, ["report", "s", "nothing", *place(full_study)[1:], "-o", "b.html"])
    assert gone.exit_code == 0, gone.output
    assert "warning: " in gone.stderr
    assert "nothing" in gone.stderr
    neither = CliRunner().invoke(cli, ["report", "nothing", "--storage", f"sqlite:///{tmp_path / 'none.db'}"])
    assert neither.exit_code == 1
    assert neither.stderr.startswith("error: no study 'nothing'")
    result = CliRunner().invoke(cli, ["report", "s", "s", *place(full_study)[1:], "--format", "md"])
    assert "side by side are HTML" in result.stderr


def test_a_damaged_study_and_another(full_study, tmp_path):
    def damaged():
        raise StudyError("its settings are damaged")

    found, problems = read_sources([damaged, lambda: full_study])
    assert ([source.name for source in found], problems) == (["s"], ["its settings are damaged"])
    with pytest.raises(NasError, match="damaged"):
        read_sources([damaged, damaged])


def test_an_interrupted_write_leaves_the_old_report(whole, tmp_path, monkeypatch):
    (tmp_path / "r.md").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nas.html.forms.write_atomic", full)
    with pytest.raises(OutputError, match="cannot write"):
        write_report([whole], tmp_path / "r.md", "md", force=True)
    assert (tmp_path / "r.md").read_text() == "old"


def test_pictures_without_a_browser(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(chromium, "find_chromium", lambda: None)
    with pytest.raises(OutputError, match="needs Chromium or Chrome, and none is found"):
        write_report([whole], tmp_path / "r.png", "png")
    assert list(tmp_path.glob("*.png")) == []


def test_without_plotly(whole, monkeypatch):
    monkeypatch.setattr("nas.html.page.find_spec", lambda _: None)
    with pytest.raises(OutputError, match="package plotly, which is not installed"):
        study_page(whole)


def test_the_python_api(full_study, tmp_path, monkeypatch):
    import nas

    found = nas.load_study("s", f"sqlite:///{full_study.location.file}")
    rows = found.ranking()
    assert [row.rank for row in rows] == list(range(1, 9))
    assert found.best().verdict == "better"
    assert found.best().interval_low < found.best().delta_map50_95 < found.best().interval_high
    assert found.answer().startswith("Compared 8 variants")
    assert found.effects().of("module")
    (file,) = found.report(tmp_path / "r.html")
    assert file.stat().st_size > 100_000
    with pytest.raises(OutputError, match="exists"):
        found.report(tmp_path / "r.html")
    with pytest.raises(NasError, match="expected one of html, md, json, png"):
        found.report(tmp_path / "r.pdf", format="pdf")
    with pytest.raises(StudyError):
        nas.load_study("nothing", f"sqlite:///{full_study.location.file}")


def test_searching_by_the_python_api(full_study, tmp_path, monkeypatch):
    """By replay, which trains nothing."""
    import nas
    from nas.search.table import export_table, write_table

    monkeypatch.chdir(tmp_path)
    write_table(export_table(full_study), tmp_path / "table.json")
    found = nas.search(replay=tmp_path / "table.json", study="again", trials=5, progress=False)
    assert len(found.ranking()) == 5
    assert nas.load_study("again").name == "again"
    assert callable(nas.search)
    assert locate("again").file.exists()
    for given, said in (
        ({"trails": 3}, "no option 'trails'; did you mean trials"),
        ({"confirm": "3"}, "expected 'TOP:K'"),
        ({"precision": "int8"}, "expected fp32 or bf16"),
        ({"trials": "40"}, "trials is '40', expected a whole number"),
        ({"trials": 0}, "trials is 0, expected more than 0"),
        ({"epochs": -1}, "epochs is -1, expected 0 or more"),
        ({"floor": "x"}, "floor is 'x', expected a number"),
        ({"data": 3}, "data is 3, expected a text"),
        ({"latency": 1}, "latency is 1, expected a text or True or False"),
        ({"enable": 5}, "enable is 5, expected the name of a slot"),
        ({"confirm": 3}, "confirm is '3', expected 'TOP:K'"),
        ({"budget": float("nan")}, "budget is nan, expected more than 0"),
    ):
        with pytest.raises(NasError, match=said):
            nas.search("quick", **given)


def test_verdicts_for_other_tools(full_study):
    """optuna-dashboard shows user attributes of the study, and of its trials."""
    from nas.api import live_view, verdicts_of
    from nas.study.catalog import VERDICTS, store_verdicts

    found = verdicts_of(full_study)
    assert len(found) == 6  # of the other there is one seed
    assert found["neck.up_*=DySample"].startswith("better, +0.0")
    store_verdicts(full_study, found)
    assert full_study._inner.user_attrs[VERDICTS] == found
    trials = full_study._inner.get_trials(deepcopy=False)
    assert trials[7].user_attrs["map50_95"] == pytest.approx(full_study.runs()[7].map, abs=1e-5)
    assert trials[7].user_attrs["latency_ms"] == 7.4
    assert trials[-1].user_attrs["failure"] == "why"
    assert live_view(full_study.location) in ("", f"live view: optuna-dashboard {full_study.location.url}")


def test_the_command_of_a_study_has_its_options():
    options = {"trials": 5, "amp": False, "baseline_per_seed": False, "enable": ["a b", "c"], "latency": True}
    assert search_command("quick", "s", options) == (
        "nas search quick --study s --trials 5 --precision fp32 --one-baseline --enable 'a b' --enable c --latency"
    )
    assert search_command("quick", "s", {"amp": "bf16", "baseline_per_seed": True, "gone": 1, "epochs": None}) == (
        "nas search quick --study s --precision bf16 --baseline-per-seed"
    )


def test_each_study_that_cannot_be_read_is_named(full_study):
    def missing(name):
        def fails():
            raise StudyError(f"no study {name!r}")

        return fails

    with pytest.raises(StudyError, match=r"(?s)^no study 'a'\nno study 'b'$"):
        read_sources([missing("a"), missing("b")])
    with pytest.raises(StudyError, match=r"^no study 'a'$"):
        read_sources([missing("a")])
    found, problems = read_sources([lambda: full_study, missing("b")])
    assert ([source.name for source in found], problems) == ([full_study.location.name], ["no study 'b'"])
