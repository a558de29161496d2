"""The picture: that it is an SVG with a mark for everything, within its size, whatever the names."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from nas.calibration.choose import ProxyMerit
from nas.calibration.plot import Point, panel_points, plot_calibration
from nas.calibration.rank_agreement import agreement
from nas.calibration.resolution import merit

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["baseline", *(f"variant {k}" for k in range(1, 11))]


def calibration(names, errors=None, minutes=1.0):
    rng = np.random.default_rng(0)
    truth = rng.normal(0.4, 0.01, len(NAMES))
    full = truth[:, None] + rng.normal(0, 0.004, (len(NAMES), 2))
    reports, points = [], {}
    for name, error in zip(names, errors or [0.004] * len(names), strict=True):
        score = truth[:, None] + rng.normal(0, 1, (len(NAMES), 3)) * error
        found = agreement(score, full, draws=50)
        reports.append(ProxyMerit(name, "map", merit(score), found, found, minutes))
        points[reports[-1].label] = panel_points(NAMES, full, score)
    return reports, points


def shapes(path):
    """Return the elements of a picture, by tag, with their colours and the numbers of their places."""
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    assert root.get("width") == "960"
    found = [element for element in root.iter() if element.tag.startswith(SVG)]
    for element in found:  # nothing is outside the picture, or nowhere
        for name, most in (("x", root.get("width")), ("y", root.get("height")), ("cx", "960"), ("width", "960")):
            if element.get(name, "100%") != "100%":
                assert 0 <= float(element.get(name)) <= float(most), ElementTree.tostring(element)
    return root, lambda tag, colour: [
        e for e in found if e.tag == SVG + tag and colour in (e.get("fill", "") + e.get("stroke", ""))
    ]


LONG = "a proxy of a name that nobody would give, but that somebody will, number "


@pytest.mark.parametrize(
    "names",
    [["one"], ["one", "two"], ["a", "b", "c", "d"], [LONG + str(k) for k in range(5)], ["x" * 90, "y" * 90]],
    ids=["one", "two", "four", "long", "unbroken"],
)
def test_a_picture_is_written(tmp_path, names):
    reports, points = calibration(names)
    plot_calibration(tmp_path / "c.svg", reports, points, chosen=reports[0].label)
    root, of = shapes(tmp_path / "c.svg")
    rows = math.ceil(len(names) / 3)
    assert 250 * rows < float(root.get("height")) < 300 * rows + 30 * len(names) + 200
    assert len(of("circle", "blue")) == 10 * len(names) + 1  # every variant in every panel, and the legend
    assert len(of("polygon", "orange")) == len(names) + 1  # and the baseline
    assert len(of("rect", "blue")) == 1  # the chosen one's bar
    assert len(of("rect", "grey")) == len(names) - 1
    texts = [e.text for e in of("text", "")]
    assert all(len(text) < 90 for text in texts)
    assert sum(text.startswith("Spearman ") for text in texts) == len(names)


def test_bars_alone_and_a_score_without_error(tmp_path):
    reports, _ = calibration(["exact", "noisy"], errors=[0, 0.01])
    plot_calibration(tmp_path / "c.svg", reports, {})
    _, of = shapes(tmp_path / "c.svg")
    widths = [float(bar.get("width")) for bar in of("rect", "blue")]
    assert len(widths) == 2
    assert 0 < widths[0] < widths[1]


def test_no_time_at_all_can_be_drawn(tmp_path):
    reports, points = calibration(["instant"], minutes=0.0)
    plot_calibration(tmp_path / "c.svg", reports, points)
    _, of = shapes(tmp_path / "c.svg")
    assert len(of("rect", "blue")) == 1


def test_names_are_text(tmp_path):
    reports, points = calibration(["<script>&'\"", "深度"])
    plot_calibration(tmp_path / "c.svg", reports, points)
    _, of = shapes(tmp_path / "c.svg")
    assert {r.label for r in reports} <= {e.text for e in of("text", "")}


def test_no_reports(tmp_path):
    with pytest.raises(ValueError, match="no proxy"):
        plot_calibration(tmp_path / "c.svg", [], {})


def test_points_are_means_with_paired_errors():
    score = np.array([[1.0, 2, 3], [2, 4, 3], [6, 5, 7], [4, 4, 7], [np.nan, 1, 1]])
    full = np.array([[0.4], [0.5], [0.6], [0.7], [0.8]])
    points = panel_points(["baseline", "a", "b", "c", "failed"], full, score)
    assert [p.variant for p in points] == ["baseline", "a", "b", "c"]
    assert points[2] == Point("b", 0.6, 0.0, 6.0, pytest.approx(merit(score).error / math.sqrt(3)))
