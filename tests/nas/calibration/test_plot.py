"""The picture: that it is one, at its size, with something in every part, whatever the names."""

import math
import sys

import numpy as np
import pytest
from PIL import Image

from nas.calibration.choose import ProxyMerit
from nas.calibration.plot import Point, panel_points, plot_calibration
from nas.calibration.rank_agreement import agreement
from nas.calibration.resolution import merit

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


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width == 1200
        return np.asarray(picture.convert("RGB"), dtype=float)


LONG = "a proxy of a name that nobody would give, but that somebody will, number "


@pytest.mark.parametrize(
    "names",
    [["one"], ["one", "two"], ["a", "b", "c", "d"], [LONG + str(k) for k in range(5)], ["x" * 90, "y" * 90]],
    ids=["one", "two", "four", "long", "unbroken"],
)
def test_a_picture_is_written(tmp_path, names):
    reports, points = calibration(names)
    plot_calibration(tmp_path / "c.png", reports, points, chosen=reports[0].label)
    image = pixels(tmp_path / "c.png")
    rows = math.ceil(len(names) / 3)
    assert 350 * rows < len(image) < 450 * rows + 130 * len(names) + 200
    top, bottom = image[: len(image) // 2], image[len(image) // 2 :]
    assert top.std() > 10
    assert bottom.std() > 10
    assert (image.mean(2) > 250).mean() > 0.6
    orange = np.abs(image - (0xD5, 0x5E, 0x00)).sum(2) < 90
    assert orange.sum() > 100 * len(names)  # the baseline is in every panel


def test_bars_alone_and_a_score_without_error(tmp_path):
    reports, _ = calibration(["exact", "noisy"], errors=[0, 0.01])
    plot_calibration(tmp_path / "c.png", reports, {})
    image = pixels(tmp_path / "c.png")
    blue = (np.abs(image - (0x00, 0x72, 0xB2)).sum(2) < 30).sum(1)
    widths = [int(run.max()) for run in np.split(blue, np.flatnonzero(np.diff(blue > 50)) + 1) if run.max() > 50]
    assert len(widths) == 2
    assert widths[0] < widths[1]


def test_no_time_at_all_can_be_drawn(tmp_path):
    reports, points = calibration(["instant"], minutes=0.0)
    plot_calibration(tmp_path / "c.png", reports, points)
    assert pixels(tmp_path / "c.png").std() > 10


def test_the_global_backend_is_left_alone(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    reports, points = calibration(["one"])
    plot_calibration(tmp_path / "c.png", reports, points)
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_no_reports(tmp_path):
    with pytest.raises(ValueError, match="no proxy"):
        plot_calibration(tmp_path / "c.png", [], {})


def test_points_are_means_with_paired_errors():
    score = np.array([[1.0, 2, 3], [2, 4, 3], [6, 5, 7], [4, 4, 7], [np.nan, 1, 1]])
    full = np.array([[0.4], [0.5], [0.6], [0.7], [0.8]])
    points = panel_points(["baseline", "a", "b", "c", "failed"], full, score)
    assert [p.variant for p in points] == ["baseline", "a", "b", "c"]
    assert points[2] == Point("b", 0.6, 0.0, 6.0, pytest.approx(merit(score).error / math.sqrt(3)))
